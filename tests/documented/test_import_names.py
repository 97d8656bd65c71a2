"""The eleven modules and their 74 names."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

NAMES = {
    "custom_models": [
        "CustomModelConfig",
        "CustomSEOModel",
        "CustomMultiTaskSEOModel",
        "create_custom_model",
        "create_multi_task_model",
        "PositionalEncoding",
        "MultiHeadAttention",
        "TransformerBlock",
    ],
    "autograd_utils": [
        "CustomGradientFunction",
        "CustomAutogradFunction",
        "AutogradMonitor",
        "AutogradProfiler",
        "AutogradDebugger",
        "GradientClipper",
        "GradientAccumulator",
        "AutogradOptimizer",
        "AutogradTrainingLoop",
        "enable_autograd_detection",
        "autograd_monitor",
        "autograd_profiler",
        "autograd_debugger",
        "GradientComputationUtils",
        "ExponentialMovingAverage",
        "AutogradHooks",
        "CustomLossFunction",
    ],
    "deep_learning_framework": ["TrainingConfig", "CustomSEOModelTrainer"],
    "pytorch_configuration": ["pytorch_manager"],
    "example_custom_models": [],
    "custom_model_architectures": [
        "PositionalEncoding",
        "MultiHeadAttentionWithRelativePosition",
        "TransformerBlock",
        "CustomTransformer",
        "Conv1DBlock",
        "CNNFeatureExtractor",
        "LSTMWithAttention",
        "DotProductAttention",
        "GeneralAttention",
        "ConcatAttention",
        "CNNLSTMHybrid",
        "TransformerCNN",
        "MultiTaskModel",
        "HierarchicalAttentionNetwork",
        "ResidualBlock",
        "DeepResidualCNN",
        "ModelFactory",
        "MODEL_CONFIGS",
        "CustomTransformerModel",
        "CustomCNNModel",
        "CustomRNNModel",
    ],
    "gradient_analysis": ["GradientAnalysisConfig", "GradientAnalyzer", "GradientMonitoring"],
    "autograd_examples": ["CustomAutogradExample", "AutogradTrainingExamples", "AutogradAdvancedExamples"],
    "advanced_autograd_models": [
        "ModelConfig",
        "AdvancedPositionalEncoding",
        "AdvancedMultiHeadAttention",
        "LoRALayer",
        "LoRALinear",
        "P_TuningLayer",
        "AdvancedLossFunctions",
        "AdvancedOptimizers",
        "AdvancedTokenizer",
        "AdvancedTransformerModel",
        "AdvancedTrainingPipeline",
    ],
    "pytorch_autograd_system": [
        "AutogradUtils",
        "CustomLossFunction",
        "GradientMonitor",
        "CustomAutogradFunction",
        "AutogradTrainingSystem",
        "AutogradExamples",
        "AdvancedAutogradExamples",
    ],
    "autograd_advanced_examples": ["AdvancedAutogradExamples"],
}
# where two modules document one thing
SAME = {
    "CustomAutogradFunction": ("autograd_utils", "pytorch_autograd_system"),
    "CustomLossFunction": ("autograd_utils", "pytorch_autograd_system"),
    "AdvancedAutogradExamples": ("pytorch_autograd_system", "autograd_advanced_examples"),
}


def test_how_many() -> None:
    assert len(NAMES) == 11
    assert sum(map(len, NAMES.values())) == 74


@pytest.mark.parametrize("module", NAMES)
def test_a_module_and_its_names(module: str) -> None:
    found = importlib.import_module(module)
    assert found.__doc__
    installed = os.environ.get("DOCUMENTED_MODULES_IN")  # set where a wheel is what is tested
    if installed is not None:
        assert Path(found.__file__ or "").is_relative_to(installed)
    for name in NAMES[module]:
        value = getattr(found, name)
        assert value.__doc__, name
    assert set(NAMES[module]) <= set(getattr(found, "__all__", NAMES[module]))


@pytest.mark.parametrize("name", SAME)
def test_one_class_by_two_names(name: str) -> None:
    first, second = (getattr(importlib.import_module(module), name) for module in SAME[name])
    assert first is second


def test_a_star_brings_in_the_names() -> None:
    scope: dict[str, object] = {}
    exec("from advanced_autograd_models import *", scope)
    for name in ("ModelConfig", "AdvancedTransformerModel", "AdvancedTokenizer", "AdvancedTrainingPipeline"):
        assert name in scope


@pytest.mark.slow
def test_optional_packages_are_not_imported() -> None:
    """All eleven together bring in torch, and nothing that an extra installs."""
    extras = (
        "accelerate",
        "pydantic",
        "yaml",
        "matplotlib",
        "plotly",
        "tensorboard",
        "transformers",
        "scipy",
    )
    program = (
        f"import sys\nfor name in {list(NAMES)}: __import__(name)\n"
        f"print([name for name in {extras} if name in sys.modules])"
    )
    path = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": path}
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
