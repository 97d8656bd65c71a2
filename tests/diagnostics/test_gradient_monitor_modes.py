"""The watch is right under checkpointing, torch.compile, accumulation and mixed precision."""

import math

import pytest
import torch
from diagnostics.watching_models import Net, batch, loss_of, nan_where_large, total, with_nan
from torch import Tensor, nn

from seo_kernels.diagnostics.gradient_monitor import GradientMonitor


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("reentrant", "compiled"),
    [
        (None, False),
        (False, False),
        (True, False),
        (None, True),
        pytest.param(False, True, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
)
def test_of_checkpoints_and_compiled_models(reentrant: bool | None, compiled: bool) -> None:
    torch._dynamo.reset()
    net = Net(reentrant, blocks=2)
    model = torch.compile(net, backend="aot_eager") if compiled else net
    assert isinstance(model, nn.Module)
    right = []
    with GradientMonitor(model) as monitor:
        for step in range(3):
            net.zero_grad()
            net.spoil(1, with_nan if step == 2 else None)
            loss_of(model, batch().requires_grad_(reentrant is True)).backward()
            right.append(total(net))
    assert monitor.history.totals == pytest.approx(right, nan_ok=True)
    assert [finding.step for finding in monitor.log.all] == [2] * 10
    assert {finding.module for finding in monitor.log.all} == {"blocks.1.up"}
    assert monitor.log.all[0].parameter.startswith("blocks.1.up")


def test_a_compiled_model_is_called_again_as_it_was() -> None:
    """With the same dropout; nothing of the second call is left."""
    torch._dynamo.reset()

    class Divides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / x.abs().sum()  # dropout of everything

    net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.Dropout(0.5), Divides(), nn.Linear(1, 1))
    model = torch.compile(net, backend="eager")
    assert isinstance(model, nn.Module)
    seen = 0
    for seed in range(12):
        torch.manual_seed(seed)
        net.zero_grad()
        x = torch.randn(2, 1)
        monitor = GradientMonitor(model)
        with monitor:
            out = model(x)
            before, state = [b.clone() for b in net.buffers()], torch.get_rng_state()
            out.sum().backward()
            assert all(map(torch.equal, before, net.buffers()))
            assert torch.equal(state, torch.get_rng_state())
        if not math.isfinite(float(out.sum().detach())):
            seen += 1
            assert monitor.log.all[0].module == "3"
    assert 0 < seen < 12


@pytest.mark.parametrize("compiled", [False, True])
def test_accumulation_is_looked_at_as_the_update_sees_it(compiled: bool) -> None:
    torch._dynamo.reset()
    net = Net(blocks=2)
    net.spoil(1, nan_where_large)
    model = torch.compile(net, backend="eager") if compiled else net
    assert isinstance(model, nn.Module)
    right = []
    with GradientMonitor(model, accumulation_steps=3) as monitor:
        for number in range(9):
            x = batch() * (1e6 if number == 7 else 1.0)  # the second of the third window
            (loss_of(model, x) / 3).backward()
            if number % 3 == 2:
                right.append(total(net))
                net.zero_grad()
    assert monitor.history.steps == [0, 1, 2]
    assert monitor.history.totals == pytest.approx(right, nan_ok=True)
    assert {(finding.step, finding.module) for finding in monitor.log.all} == {(2, "blocks.1.up")}


def test_windows_of_any_length_are_observed_by_hand() -> None:
    net = Net()
    with GradientMonitor(net, accumulation_steps=None) as monitor:
        for length in (2, 1):
            net.zero_grad()
            for _ in range(length):
                loss_of(net, batch()).backward()
            assert monitor.observe() == []
    assert monitor.history.steps == [0, 1]
    assert monitor.history.totals[-1] == pytest.approx(total(net))


def test_the_scale_of_the_loss_is_taken_out() -> None:
    net = Net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    with GradientMonitor(net, scaler=scaler) as monitor:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(net, batch())
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    assert monitor.history.totals == pytest.approx([total(net)])
    assert monitor.log.all == []


def test_an_overflow_that_the_scaler_handles_is_counted() -> None:
    net = Net()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    with GradientMonitor(net, scaler=scaler) as monitor:
        scaler.scale(1e3 * net(batch()).square().mean()).backward()
        assert monitor.get_gradient_summary()["overflows"] == 1
        assert monitor.log.all == []
        net.zero_grad()
        net.spoil(3, with_nan)  # not the scaler's business
        scaler.scale(loss_of(net, batch())).backward()
    assert {(finding.step, finding.module) for finding in monitor.log.all} == {(1, "blocks.3.up")}
    assert monitor.overflows == 1


def test_bfloat16_is_traced_too() -> None:
    net = Net().bfloat16()
    net.spoil(0, with_nan)
    with GradientMonitor(net) as monitor:
        loss_of(net, batch().bfloat16()).backward()
    assert monitor.log.all[0].module == "blocks.0.up"


def test_a_compiled_model_whose_second_call_is_finite() -> None:
    """A fault that comes and goes: the model is named, and that no more is known."""
    torch._dynamo.reset()
    net = Net(blocks=1)
    model = torch.compile(net, backend="eager")
    assert isinstance(model, nn.Module)
    net.spoil(0, with_nan)
    with GradientMonitor(model) as monitor:
        loss = loss_of(model, batch())
        net.spoil(0, None)
        loss.backward()
    assert monitor.log.all[0].module == ""
    assert "as NaN in the forward pass, a second, uncompiled call was finite" in str(monitor.log.all[0])
