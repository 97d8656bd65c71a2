"""Analyses beside a training: their summary, their report, and a training that goes on as without them."""

import json
from pathlib import Path

import pytest
import torch
from diagnostics.watching_models import Net, batch, loss_of, total, with_nan
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


def test_where_nan_began_is_named() -> None:
    model = Net()
    model.spoil(2, with_nan)
    monitoring = GradientMonitoring(GradientAnalysisConfig(compute_hessian=False))
    result = monitoring.monitor_training_step(
        model=model, loss_function=_squared, input_data=batch(), target_data=None, step=7
    )
    broken = [finding for finding in result["findings"] if finding.kind == "nan"]
    assert {(finding.module, finding.step) for finding in broken} == {("blocks.2.up", 7)}
    assert any("as NaN in the forward pass" in issue for issue in result["issues"])
    assert "the loss is NaN" in result["issues"]
    assert not any(module._forward_hooks for module in model.modules())


def test_the_norms_are_those_of_the_batch() -> None:
    model, x = Net(), batch()
    monitoring = GradientMonitoring(GradientAnalysisConfig(compute_hessian=False))
    found = monitoring.monitor_training_step(
        model=model, loss_function=_squared, input_data=x, target_data=None, step=0
    )
    assert all(p.grad is None for p in model.parameters())
    loss_of(model, x).backward()
    assert found["total_norm"] == pytest.approx(total(model), rel=1e-5)
    assert monitoring.history.totals == [found["total_norm"]]


def test_without_norms_there_is_no_history() -> None:
    config = GradientAnalysisConfig(compute_hessian=False, compute_gradient_norms=False)
    monitoring = GradientMonitoring(config)
    assert step_of(monitoring, 0, 1e6)["total_norm"] is None
    assert len(monitoring.history) == 0
    assert "history" not in monitoring.get_monitoring_summary()


def test_a_compiled_model_is_looked_at_within() -> None:
    model = Net(blocks=1)
    compiled = torch.compile(model, backend="eager")
    found = GradientMonitoring().monitor_training_step(
        model=compiled,  # type: ignore[arg-type]
        loss_function=_squared,
        input_data=batch(),
        target_data=None,
        step=0,
    )
    assert set(found["analysis"]["gradient_norms"]["parameters"]) == {n for n, _ in model.named_parameters()}


def _squared(output: Tensor, target: None) -> Tensor:
    return 0.1 * output.square().mean()


def test_bad_models_and_losses() -> None:
    monitoring = GradientMonitoring()
    for model, words in (
        (nn.Tanh(), "no parameter"),
        (nn.Linear(2, 1).requires_grad_(False), "no parameter"),
    ):
        with pytest.raises(ValueError, match=f"model has {words} with requires_grad"):
            monitoring.monitor_training_step(
                model=model, loss_function=LOSS, input_data=torch.ones(1, 2), target_data=None, step=0
            )
    with pytest.raises(ValueError, match=r"loss has shape \(3, 1\), expected a scalar"):
        monitoring.monitor_training_step(
            model=nn.Linear(2, 1),
            loss_function=lambda output, target: output,
            input_data=torch.ones(3, 2),
            target_data=None,
            step=0,
        )
    assert monitoring.get_monitoring_summary()["steps_seen"] == 0


def test_bad_input(tmp_path: Path) -> None:
    monitoring = GradientMonitoring()
    with pytest.raises(ValueError, match="step is -1, expected an int >= 0"):
        step_of(monitoring, -1, 0.0)
    with pytest.raises(OSError, match=r"nowhere.report\.txt"):
        monitoring.save_monitoring_report(tmp_path / "nowhere" / "report.txt")
    with pytest.raises(TypeError, match="config is a Tensor"):
        GradientMonitoring(Tensor())  # type: ignore[arg-type]
