"""Hooks see every backward pass, cost no copy, and name where NaN and Inf began."""

import copy
import json
import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diagnostics.watching_models import Net, batch, loss_of, total, with_nan
from torch import Tensor, nn

from seo_kernels.diagnostics.findings import Thresholds
from seo_kernels.diagnostics.gradient_monitor import GradientMonitor


def test_every_backward_pass_is_a_step() -> None:
    model, right = Net(), []
    with GradientMonitor(model) as monitor:
        assert monitor.get_gradient_summary() == {}
        for _ in range(3):
            model.zero_grad()
            loss_of(model, batch()).backward()
            right.append(total(model))
    assert monitor.history.totals == pytest.approx(right)
    model(batch()).mean().backward()  # nobody watches any more
    assert monitor.history.steps == [0, 1, 2]


def test_the_summary() -> None:
    model = Net()
    monitor = GradientMonitor(model, history=2, first_step=10)
    monitor.register_hooks()
    for _ in range(3):
        loss_of(model, batch()).backward()
    summary = monitor.get_gradient_summary()
    assert summary["step"] == 12
    assert summary["total_norm"] == pytest.approx(total(model))
    assert summary["parameter_norms"]["head.bias"] == pytest.approx(float(model.head.bias.grad.norm()))
    weight, bias = summary["parameter_norms"]["head.weight"], summary["parameter_norms"]["head.bias"]
    assert summary["module_norms"]["head"] == pytest.approx(math.hypot(weight, bias))
    assert summary["history"]["steps"] == [11, 12]
    assert summary["parameters"]["head.weight"]["steps"] == 2
    assert summary["steps_seen"] == 3
    assert summary["issues"] == summary["findings"] == []


def test_handles_end_it() -> None:
    model = nn.Linear(2, 1)
    monitor = GradientMonitor(model)
    handles = monitor.register_hooks()
    for handle in handles:
        handle.remove()
    model(torch.ones(1, 2)).sum().backward()
    assert monitor.get_gradient_summary() == {}
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    monitor.register_hooks()
    monitor.register_hooks()  # the second time takes the place of the first
    model(torch.ones(1, 2)).sum().backward()
    assert monitor.history.steps == [0]


def test_gradients_alone_are_no_step() -> None:
    model = Net()
    with GradientMonitor(model) as monitor:
        torch.autograd.grad(model(batch()).mean(), list(model.parameters()))
        with torch.no_grad():
            model(batch())
    assert monitor.history.steps == []


def test_parts_called_by_themselves_are_seen() -> None:
    model = Net()
    with GradientMonitor(model) as monitor:
        for _ in range(2):
            model.head(torch.randn(3, 8)).sum().backward()
    assert monitor.history.steps == [0, 1]


def test_several_calls_and_one_pass() -> None:
    model = Net()
    with GradientMonitor(model) as monitor:
        (model(batch()).mean() + model(batch()).square().mean()).backward()
    assert monitor.history.totals == pytest.approx([total(model)])


def test_a_pass_that_failed_does_not_stop_the_watch() -> None:
    class Fails(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, input: Tensor) -> Tensor:
            return input.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            raise ZeroDivisionError

    model = Net()
    with GradientMonitor(model) as monitor:
        model.spoil(1, Fails.apply)
        with pytest.raises(ZeroDivisionError):
            model(batch()).mean().backward()
        model.spoil(1, None)
        model(batch()).mean().backward()
    assert monitor.history.steps == [0]


def test_training_is_the_same() -> None:
    def trained(watched: bool) -> list[Tensor]:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
        optimizer = torch.optim.AdamW(model.parameters(), 0.01)
        if watched:
            GradientMonitor(model).register_hooks()
        for _ in range(5):
            optimizer.zero_grad()
            loss_of(model, batch()).backward()
            optimizer.step()
        return [value.clone() for value in model.state_dict().values()]

    for with_it, without in zip(trained(True), trained(False), strict=True):
        assert torch.equal(with_it, without)


@pytest.mark.parametrize("number", range(4))
def test_nan_of_the_forward_pass_is_traced(number: int) -> None:
    model = Net()
    with GradientMonitor(model, thresholds=Thresholds(explosion=1e9)) as monitor:
        for step in range(3):
            model.zero_grad()
            model.spoil(number, with_nan if step == 1 else None)
            loss_of(model, batch()).backward()
    first = monitor.log.all[0]
    place = f"blocks.{number}.up"
    assert (first.kind, first.module, first.step) == ("nan", place, 1)
    assert first.parameter.startswith(place)
    assert "as NaN in the forward pass" in str(first)
    assert {finding.module for finding in monitor.log.all} == {place}
    assert monitor.log.current == []  # the next step was sound


def test_a_module_that_gives_inf_as_a_rule_is_not_the_cause() -> None:
    class Mask(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full_like(x, -math.inf).triu(1)

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mask, self.net = Mask(), Net()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.net(x * self.mask(x).exp())
            return out

    model = Masked()
    with GradientMonitor(model) as monitor:
        model(batch()).mean().backward()
        model.net.spoil(2, with_nan)
        loss_of(model, batch()).backward()
    assert monitor.log.all[0].module == "net.blocks.2.up"


def test_a_bad_input_and_a_bad_parameter_are_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with GradientMonitor(model) as monitor:
        model(torch.tensor([[1.0, math.nan]])).sum().backward()
        assert "the model's input is not finite" in str(monitor.log.all[0])
        model.zero_grad()
        with torch.no_grad():
            model.get_parameter("1.bias").fill_(math.inf)
        model(torch.ones(1, 2)).square().sum().backward()
    finding = monitor.log.all[-1]
    assert (finding.module, finding.step) == ("1", 1)
    assert "as Inf in the forward pass, its bias is not finite" in str(finding)


def test_nan_of_the_backward_pass_is_traced() -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, input: Tensor) -> Tensor:
            return input.clone()

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * math.nan

    model = Net()
    model.spoil(2, Wrong.apply)
    with GradientMonitor(model) as monitor:
        model(batch()).mean().backward()
    assert {finding.module for finding in monitor.log.all} == {"blocks.2.up"}
    assert monitor.log.all[0].parameter.startswith("blocks.2.up")
    assert "in the backward pass" in str(monitor.log.all[0])


def test_findings_come_in_the_order_of_the_backward_pass() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first, self.middle = nn.Linear(4, 1), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(self.middle(self.first(x)))
            return out

    model = Crossed()
    with GradientMonitor(model) as monitor:
        (1e6 * model(torch.randn(3, 4)).sum()).backward()
    order = [finding.module for finding in monitor.log.all]
    assert order == ["last", "last", "middle", "middle", "first", "first"]


def test_copies_of_the_model_are_not_watched() -> None:
    model = Net()
    with GradientMonitor(model) as monitor:
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for copied in copies:
            copied(batch()).mean().backward()
        assert monitor.history.steps == []
        model(batch()).mean().backward()
    assert monitor.history.steps == [0]


def test_transforms_of_torch_func_go_on() -> None:
    model = Net()
    with GradientMonitor(model) as monitor:
        parameters = {name: p.detach() for name, p in model.named_parameters()}

        def loss(values: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(model, values, (x,)).sum()

        torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, torch.randn(3, 2, 8))
        model(batch()).mean().backward()
    assert monitor.history.steps == [0]


def test_reports(tmp_path: Path) -> None:
    model = Net()
    model.spoil(1, with_nan)
    with GradientMonitor(model) as monitor:
        loss_of(model, batch()).backward()
    text = monitor.save_report(tmp_path / "report.txt")
    data = monitor.save_report(tmp_path / "report.json")
    assert text is not None
    assert data is not None
    assert "total_norm: NaN" in text.read_text()
    assert str(monitor.log.all[0]) in text.read_text()
    stored = json.loads(data.read_text())
    assert stored["total_norm"] == "NaN"
    assert stored["findings"][0]["module"] == "blocks.1.up"
    with pytest.raises(OSError, match=r"path is .*missing.*, expected a file that can be written"):
        monitor.save_report(tmp_path / "missing" / "report.txt")


def test_bad_input() -> None:
    frozen = nn.Linear(1, 1).requires_grad_(False)
    with pytest.raises(ValueError, match="model has no parameter with requires_grad"):
        GradientMonitor(frozen)
    with pytest.raises(ValueError, match="model has no parameters"):
        GradientMonitor(nn.Tanh())
    with pytest.raises(TypeError, match="model is a dict"):
        GradientMonitor({})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="accumulation_steps is 0, expected an int >= 1"):
        GradientMonitor(Net(), accumulation_steps=0)
    with pytest.raises(TypeError, match="scaler is a float"):
        GradientMonitor(Net(), scaler=2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model has no gradients"):
        GradientMonitor(Net()).observe()
