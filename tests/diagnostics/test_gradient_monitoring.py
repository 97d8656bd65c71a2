"""Analyses beside a training: their summary, their report, and a training that goes on as without them."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.gradient_analysis import GradientAnalysisConfig
from seo_kernels.diagnostics.gradient_monitoring import GradientMonitoring

LOSS = nn.MSELoss()


def trained(monitoring: GradientMonitoring | None) -> list[float]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for step in range(6):
        x, y = torch.randn(8, 4), torch.randn(8, 1)
        optimizer.zero_grad()
        loss = LOSS(model(x), y)
        loss.backward()
        if monitoring is not None:
            monitoring.monitor_training_step(
                model=model, loss_function=LOSS, input_data=x, target_data=y, step=step
            )
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_training_goes_on_as_without() -> None:
    assert trained(GradientMonitoring()) == trained(None)


def step_of(monitoring: GradientMonitoring, step: int, shift: float) -> dict[str, object]:
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    x, y = torch.randn(8, 2), torch.randn(8, 1)
    return monitoring.monitor_training_step(
        model=model,
        loss_function=LOSS,
        input_data=x,
        target_data=0.01 * y + model(x).detach() + shift,
        step=step,
    )


def test_issues_summary_and_reports(tmp_path: Path) -> None:
    monitoring = GradientMonitoring(GradientAnalysisConfig(compute_hessian=False, history=3))
    assert monitoring.get_monitoring_summary()["steps_seen"] == 0
    sound = step_of(monitoring, 0, 0.0)
    assert sound["issues"] == []
    assert sound["step"] == 0
    for step in range(1, 5):
        assert step_of(monitoring, step, 1e3)["issues"]
    summary = monitoring.get_monitoring_summary()
    assert summary["steps_seen"] == 5
    assert summary["steps_seen_with_issues"] == 4
    assert summary["history"]["steps"] == [2, 3, 4]
    assert {finding.step for finding in summary["findings"]} == {1}  # when it first appeared
    assert {finding.kind for finding in summary["findings"]} == {"explosion"}
    assert summary["total_norm"]["steps"] == 3
    text = monitoring.save_monitoring_report(tmp_path / "report.txt")
    assert text is not None
    assert "steps_seen: 5" in text.read_text()
    path = monitoring.save_monitoring_report(tmp_path / "report.json")
    assert path is not None
    assert json.loads(path.read_text())["steps_seen_with_issues"] == 4


def test_bad_input(tmp_path: Path) -> None:
    monitoring = GradientMonitoring()
    with pytest.raises(ValueError, match="step is -1, expected an int >= 0"):
        step_of(monitoring, -1, 0.0)
    with pytest.raises(OSError, match=r"nowhere.report\.txt"):
        monitoring.save_monitoring_report(tmp_path / "nowhere" / "report.txt")
    with pytest.raises(TypeError, match="config is a Tensor"):
        GradientMonitoring(Tensor())  # type: ignore[arg-type]
