"""Section 1.6: gradient_analysis."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gradient_analysis import GradientAnalysisConfig, GradientAnalyzer, GradientMonitoring
from torch import nn

DOCUMENTED = {
    "compute_hessian": True,
    "compute_gradient_norms": True,
    "compute_gradient_angles": True,
    "compute_gradient_correlation": True,
    "compute_gradient_flow": True,
    "gradient_norm_threshold": 1.0,
    "gradient_angle_threshold": 0.1,
}
CONFIG = GradientAnalysisConfig(**DOCUMENTED)  # type: ignore[arg-type]
LOSS_FN = nn.MSELoss()


@pytest.fixture
def training() -> dict[str, Any]:
    return {
        "model": nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1)),
        "loss_function": LOSS_FN,
        "input_data": torch.randn(16, 10),
        "target_data": torch.randn(16, 1),
    }


def test_configuration() -> None:
    assert {name: getattr(CONFIG, name) for name in DOCUMENTED} == DOCUMENTED


def test_analysis(training: dict[str, Any]) -> None:
    analyzer = GradientAnalyzer(CONFIG)
    results = analyzer.analyze_gradients(**training)
    parameters = list(training["model"].parameters())
    loss = LOSS_FN(training["model"](training["input_data"]), training["target_data"])
    gradients = torch.autograd.grad(loss, parameters)
    assert results["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    total = math.hypot(*(float(gradient.norm()) for gradient in gradients))
    assert results["gradient_norms"]["total"] == pytest.approx(total, rel=1e-5)
    assert {"gradient_angles", "gradient_correlation", "gradient_flow", "hessian"} <= results.keys()
    again = analyzer.analyze_gradients(**training)
    assert again["gradient_angles"]["total"] == pytest.approx(0.0, abs=1e-3)
    assert analyzer.get_gradient_statistics()["analyses"] == 2


@pytest.mark.parametrize("part", ["hessian", "norms", "angles", "correlation", "flow"])
def test_what_is_not_wanted_is_left_out(part: str, training: dict[str, Any]) -> None:
    name = "hessian" if part == "hessian" else f"gradient_{part}"
    config = GradientAnalysisConfig(**{**DOCUMENTED, f"compute_{name}": False})  # type: ignore[arg-type]
    results = GradientAnalyzer(config).analyze_gradients(**training)
    assert name not in results


def test_issues(training: dict[str, Any]) -> None:
    analyzer = GradientAnalyzer(CONFIG)
    sound = {**training, "target_data": training["model"](training["input_data"]).detach() + 1e-2}
    assert list(analyzer.detect_gradient_issues(analyzer.analyze_gradients(**sound))) == []
    huge = analyzer.analyze_gradients(**{**training, "target_data": 1e5 + training["target_data"]})
    issues = list(analyzer.detect_gradient_issues(huge))
    assert issues
    assert all(isinstance(issue, str) for issue in issues)


def test_picture(training: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    analyzer = GradientAnalyzer(CONFIG)
    analyzer.analyze_gradients(**training)
    analyzer.plot_gradient_analysis()
    analyzer.plot_gradient_analysis(save_path="other.png")
    for name in ("gradient_analysis.png", "other.png"):
        assert (tmp_path / name).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_monitoring(training: dict[str, Any], tmp_path: Path) -> None:
    monitoring = GradientMonitoring(CONFIG)
    sound = {**training, "target_data": training["model"](training["input_data"]).detach() + 1e-2}
    assert not monitoring.monitor_training_step(**sound, step=0)["issues"]
    huge = {**training, "target_data": 1e5 + training["target_data"]}
    issues = monitoring.monitor_training_step(**huge, step=1)["issues"]
    assert list(issues)
    assert monitoring.get_monitoring_summary()
    path = tmp_path / "gradient_monitoring_report.txt"
    monitoring.save_monitoring_report(str(path))
    assert path.read_text().strip()


def test_monitoring_does_not_disturb_the_training() -> None:
    model = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    model[1].eval()
    inputs, targets = torch.randn(16, 10), torch.randn(16, 1)
    LOSS_FN(model(inputs), targets).backward()
    gradients = {name: (p.grad, p.grad.clone()) for name, p in model.named_parameters() if p.grad is not None}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    GradientMonitoring(CONFIG).monitor_training_step(
        model=model, loss_function=LOSS_FN, input_data=inputs, target_data=targets, step=3
    )
    for name, parameter in model.named_parameters():
        assert parameter.grad is gradients[name][0]
        torch.testing.assert_close(parameter.grad, gradients[name][1], rtol=0, atol=0)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
