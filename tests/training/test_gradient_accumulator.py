"""Windows of accumulation are the large batch: full ones, partial ones, of batches that differ in size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training.engines import pairs, small_model, squared_error

from seo_kernels.training import GradientAccumulator


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("sizes", "steps"),
    [([4, 4, 4], 3), ([4, 4], 3), ([4, 4, 3], 3), ([4, 4, 4, 4], 2), ([2, 5], 5), ([3], 4)],
)
def test_a_window_is_the_large_batch(sizes: list[int], steps: int) -> None:
    inputs, targets = pairs(sum(sizes), dtype=torch.float64)
    model, whole = small_model().double(), small_model().double()
    squared_error(whole, (inputs, targets)).backward()
    expected = gradients(whole)
    accumulator = GradientAccumulator(model)
    for x, y in zip(inputs.split(sizes), targets.split(sizes), strict=True):
        accumulator.accumulate_gradients(squared_error(model, (x, y)), steps, weight=len(x) / sizes[0])
    optimizer, plain = (torch.optim.SGD(m.parameters(), lr=0.3) for m in (model, whole))
    accumulator.apply_gradients(optimizer)
    plain.step()
    torch.testing.assert_close(list(model.parameters()), list(whole.parameters()), rtol=1e-12, atol=1e-14)
    assert all(p.grad is None for p in model.parameters())
    assert max(float(g.abs().max()) for g in expected) > 1e-3


def test_each_call_adds_the_gradient_of_its_share() -> None:
    model = small_model().double()
    batch = pairs(4, dtype=torch.float64)
    squared_error(model, batch).backward()
    once = gradients(model)
    model.zero_grad()
    accumulator = GradientAccumulator(model)
    for count in (1, 2):
        accumulator.accumulate_gradients(squared_error(model, batch), accumulation_steps=4)
        torch.testing.assert_close(gradients(model), [g * count / 4 for g in once])
    accumulator.finish()
    torch.testing.assert_close(gradients(model), once)


MODEL = nn.Linear(2, 2)
LOSS = torch.zeros(2, requires_grad=True)


def opened() -> GradientAccumulator:
    accumulator = GradientAccumulator(MODEL)
    accumulator.accumulate_gradients(LOSS.sum(), 2)
    return accumulator


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GradientAccumulator("model"), TypeError, "model is a str"),  # type: ignore[arg-type]
        (lambda: GradientAccumulator(nn.Tanh()), ValueError, "model has no parameters"),
        (lambda: opened().accumulate_gradients(1.0), TypeError, "the loss is a float"),  # type: ignore[arg-type]
        (lambda: opened().accumulate_gradients(LOSS), ValueError, r"the loss has shape \(2,\)"),
        (lambda: opened().accumulate_gradients(torch.tensor(1)), TypeError, "the loss has dtype torch.int64"),
        (lambda: opened().accumulate_gradients(torch.tensor(1.0)), ValueError, "requires no gradient"),
        (lambda: opened().accumulate_gradients(LOSS.sum(), 0), ValueError, "accumulation_steps is 0"),
        (lambda: opened().accumulate_gradients(LOSS.sum(), 3), ValueError, "is 3, expected 2, which this"),
        (lambda: opened().accumulate_gradients(LOSS.sum(), 2, weight=0.0), ValueError, r"weight is 0\.0"),
        (lambda: opened().apply_gradients(MODEL), TypeError, "optimizer is a Linear"),  # type: ignore[arg-type]
        (
            lambda: GradientAccumulator(MODEL).apply_gradients(torch.optim.SGD(MODEL.parameters())),
            ValueError,
            "no loss has been accumulated",
        ),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
