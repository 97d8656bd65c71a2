"""A monitor that is asked says what the gradients are like."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from seo_kernels.diagnostics.autograd_monitor import AutogradMonitor
from seo_kernels.diagnostics.findings import Thresholds


def trained_once(scale: float = 1.0) -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1))
    (scale * model(torch.randn(5, 4)).square().mean()).backward()
    return model


def test_what_it_says() -> None:
    model, monitor = trained_once(), AutogradMonitor()
    info = monitor.monitor_gradients(model)
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    assert info["parameter_norms"] == pytest.approx(norms)
    assert info["total_norm"] == pytest.approx(math.hypot(*norms.values()))
    assert info["issues"] == info["findings"] == []
    assert info["step"] == 0
    assert info["computation_time"] is None
    assert info["monitoring_time"] > 0
    assert info["memory"]["process_bytes"] > 1e7
    again = monitor.monitor_gradients(model)
    assert again["computation_time"] >= again["monitoring_time"]
    assert monitor.history.steps == [0, 1]


def test_steps_are_those_given_and_go_on_from_there() -> None:
    model, monitor = trained_once(), AutogradMonitor(history=2)
    for step in (5, None, 10, None):
        monitor.monitor_gradients(model, step=step)
    assert monitor.history.steps == [10, 11]
    assert monitor.history.seen == 4


def test_a_finding_says_since_when() -> None:
    model, monitor = trained_once(), AutogradMonitor()
    monitor.monitor_gradients(model)
    gradient = model.get_parameter("2.weight").grad
    assert gradient is not None
    gradient[0, 1] = math.nan
    for step in (1, 2):
        info = monitor.monitor_gradients(model)
        assert info["step"] == step
        assert info["issues"] == ["2.weight: 1 entry of the gradient is NaN at step 1 (module 2)"]
    gradient.zero_()
    assert [finding.kind for finding in monitor.monitor_gradients(model)["findings"]] == ["dead"]
    assert [(finding.kind, finding.step) for finding in monitor.log.all] == [("nan", 1), ("dead", 3)]


def test_thresholds_and_loss_scale() -> None:
    model = trained_once(scale=2.0**16)
    assert AutogradMonitor().monitor_gradients(model)["issues"]
    assert not AutogradMonitor().monitor_gradients(model, loss_scale=2.0**16)["issues"]
    strict = AutogradMonitor(thresholds=Thresholds(explosion=1e-3, vanishing=0.0))
    assert strict.monitor_gradients(model, loss_scale=2.0**16)["issues"]


def test_after_the_scaler_unscaled() -> None:
    """As in float16 training: the norm is that of the gradients that the optimizer gets."""
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x = torch.randn(3, 4)
    scaler.scale(model(x).sum()).backward()
    before = AutogradMonitor().monitor_gradients(model, loss_scale=scaler.get_scale())["total_norm"]
    scaler.unscale_(optimizer)
    after = AutogradMonitor().monitor_gradients(model)["total_norm"]
    assert (
        before
        == pytest.approx(after)
        == pytest.approx(float(torch.cat([x.sum(0), torch.tensor([3.0])]).norm()))
    )


def test_it_changes_nothing() -> None:
    model = trained_once()
    before = [(p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
    state = torch.get_rng_state()
    AutogradMonitor().monitor_gradients(model)
    for (gradient, copy), p in zip(before, model.parameters(), strict=True):
        assert p.grad is gradient
        assert torch.equal(gradient, copy)
    assert torch.equal(state, torch.get_rng_state())


def test_summary_and_report(tmp_path: Path) -> None:
    monitor = AutogradMonitor()
    assert monitor.get_summary() == {}
    for scale in (1.0, 1e9):
        monitor.monitor_gradients(trained_once(scale))
    summary = monitor.get_summary()
    assert summary["history"]["steps"] == [0, 1]
    assert summary["issues"] == [str(finding) for finding in monitor.log.all]
    assert summary["issues"]
    path = monitor.save_report(tmp_path / "report.txt")
    assert path is not None
    assert all(issue in path.read_text() for issue in summary["issues"])
    with pytest.raises(OSError, match=r"path is .*missing"):
        monitor.save_report(tmp_path / "missing" / "report.txt")


def test_bad_input() -> None:
    monitor = AutogradMonitor()
    with pytest.raises(ValueError, match=r"model has no gradients, expected some: call backward\(\)"):
        monitor.monitor_gradients(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="model has no parameters"):
        monitor.monitor_gradients(nn.Tanh())
    with pytest.raises(ValueError, match="step is -1"):
        monitor.monitor_gradients(trained_once(), step=-1)
    with pytest.raises(TypeError, match="thresholds is a tuple"):
        AutogradMonitor(thresholds=(10.0, 1e-8))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="maximum is 0"):
        AutogradMonitor(history=0)
    assert len(monitor.history) == 0
