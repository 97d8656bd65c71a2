"""The moving average against its definition; the model with it and again without."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from training.engines import copied, same, small_model

from seo_kernels.training import ExponentialMovingAverage


def moved(model: nn.Module, steps: int, ema: ExponentialMovingAverage, decay: float) -> list[torch.Tensor]:
    """Parameters that wander, and their average by its definition."""
    expected: list[torch.Tensor] = []
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        ema.update()
        now = [p.detach().clone() for p in model.parameters()]
        before = expected or now
        expected = [decay * e + (1 - decay) * p for e, p in zip(before, now, strict=True)]
    return expected


def test_it_is_its_definition() -> None:
    model = small_model().double()
    ema = ExponentialMovingAverage(model, 0.9)
    expected = moved(model, 7, ema, 0.9)
    torch.testing.assert_close(list(ema.averaged.module.parameters()), expected, rtol=1e-12, atol=1e-14)
    assert ema.updates == 7


def test_applied_and_restored() -> None:
    model = small_model(norm=True).double()
    ema = ExponentialMovingAverage(model, 0.9)
    expected = moved(model, 3, ema, 0.9)
    model.train()(torch.randn(6, 5, dtype=torch.float64))
    ema.update()
    model.train()(torch.randn(6, 5, dtype=torch.float64))  # statistics that the average does not know yet
    expected = [0.9 * e + 0.1 * p for e, p in zip(expected, model.parameters(), strict=True)]
    before, addresses = copied(model), [p.data_ptr() for p in model.parameters()]

    def inside() -> None:
        with ema.applied() as applied:
            assert applied is model
            torch.testing.assert_close(list(model.parameters()), expected, rtol=1e-12, atol=1e-14)
            assert int(model[1].num_batches_tracked) == 1  # type: ignore[index,call-overload]
            with pytest.raises(RuntimeError, match="update within applied"):
                ema.update()
            with pytest.raises(RuntimeError, match=r"applied\(\) within applied"), ema.applied():
                pass
            raise KeyError

    with pytest.raises(KeyError):
        inside()
    assert same(before, copied(model))
    assert addresses == [p.data_ptr() for p in model.parameters()]
    ema.update()


def test_a_state_that_is_saved_and_loaded() -> None:
    model = small_model(norm=True)
    ema = ExponentialMovingAverage(model, 0.8)
    moved(model, 3, ema, 0.8)
    buffer = io.BytesIO()
    torch.save(ema.state_dict(), buffer)
    buffer.seek(0)
    other = ExponentialMovingAverage(model, 0.8)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    with torch.no_grad():
        model[0].weight.add_(1.0)  # type: ignore[index,operator]
    for each in (ema, other):
        each.update()
    assert other.updates == 4
    assert same(copied(ema.averaged.module), copied(other.averaged.module))
    with pytest.raises(ValueError, match=r"state is of decay=0\.8, expected 0\.9"):
        ExponentialMovingAverage(model, 0.9).load_state_dict(ema.state_dict())


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ExponentialMovingAverage([]), TypeError, "model is a list"),  # type: ignore[arg-type]
        (lambda: ExponentialMovingAverage(nn.Tanh()), ValueError, "model has no parameters"),
        (lambda: ExponentialMovingAverage(nn.Linear(1, 1), 1.0), ValueError, r"decay is 1\.0"),
        (lambda: ExponentialMovingAverage(nn.Linear(1, 1), float("nan")), ValueError, "decay is nan"),
        (lambda: ExponentialMovingAverage(nn.Linear(1, 1), 1), TypeError, r"decay is an int \(1\)"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
