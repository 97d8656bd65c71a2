"""The documented modules around training and gradients: every name, and nothing else among the exports."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent.parent / "python"
DOCUMENTED = {
    "autograd_utils": [
        "AutogradDebugger",
        "AutogradHooks",
        "AutogradMonitor",
        "AutogradOptimizer",
        "AutogradProfiler",
        "AutogradTrainingLoop",
        "CustomAutogradFunction",
        "CustomGradientFunction",
        "CustomLossFunction",
        "ExponentialMovingAverage",
        "GradientAccumulator",
        "GradientClipper",
        "GradientComputationUtils",
        "autograd_debugger",
        "autograd_monitor",
        "autograd_profiler",
        "enable_autograd_detection",
    ],
    "deep_learning_framework": ["CustomSEOModelTrainer", "TrainingConfig"],
    "pytorch_configuration": ["RecommendedSettings", "TorchManager", "pytorch_manager"],
    "gradient_analysis": ["GradientAnalysisConfig", "GradientAnalyzer", "GradientMonitoring"],
    "autograd_examples": ["AutogradAdvancedExamples", "AutogradTrainingExamples", "CustomAutogradExample"],
    "pytorch_autograd_system": [
        "AdvancedAutogradExamples",
        "AutogradExamples",
        "AutogradTrainingSystem",
        "AutogradUtils",
        "CustomAutogradFunction",
        "CustomLossFunction",
        "GradientMonitor",
        "load_config",
    ],
    "autograd_advanced_examples": ["AdvancedAutogradExamples"],
}
OPTIONAL = ("accelerate", "pydantic", "yaml", "scipy", "matplotlib", "plotly", "tensorboard", "transformers")


@pytest.mark.parametrize("module", DOCUMENTED)
def test_every_documented_name(module: str) -> None:
    found = importlib.import_module(module)
    assert sorted(found.__all__) == sorted(DOCUMENTED[module])
    for name in found.__all__:
        assert getattr(found, name).__doc__, name


def test_one_class_under_both_names() -> None:
    utils, system = (importlib.import_module(m) for m in ("autograd_utils", "pytorch_autograd_system"))
    advanced = importlib.import_module("autograd_advanced_examples")
    assert utils.CustomAutogradFunction is system.CustomAutogradFunction
    assert utils.CustomLossFunction is system.CustomLossFunction
    assert advanced.AdvancedAutogradExamples is system.AdvancedAutogradExamples


def test_no_custom_linear_at_the_top() -> None:
    """Users write a class of that name themselves."""
    assert not any(hasattr(importlib.import_module(module), "CustomLinear") for module in DOCUMENTED)


def test_ready_made_instances_are_of_the_module() -> None:
    utils = importlib.import_module("autograd_utils")
    assert isinstance(utils.autograd_monitor, utils.AutogradMonitor)
    assert isinstance(utils.autograd_profiler, utils.AutogradProfiler)
    assert isinstance(utils.autograd_debugger, utils.AutogradDebugger)
    assert importlib.import_module("autograd_utils").autograd_monitor is utils.autograd_monitor


def test_importing_takes_no_optional_package() -> None:
    """Those of the extras are imported where they are used."""
    program = (
        f"import sys; sys.path.insert(0, {str(FOLDER)!r})\n"
        f"import {', '.join(DOCUMENTED)}\n"
        f"print([name for name in {OPTIONAL!r} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr
