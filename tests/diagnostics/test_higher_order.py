"""Gradients of higher order beside their closed forms."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import seo_kernels as sk
from seo_kernels.diagnostics.curvature import SecondDerivativeError
from seo_kernels.diagnostics.higher_order import higher_order_gradients


class Weights(nn.Module):
    def __init__(self, *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.w = nn.ParameterList(nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in shapes)

    def forward(self, function: Callable[..., Tensor]) -> Tensor:
        return function(*self.w)


def orders(model: nn.Module, inputs: Any, order: int) -> list[list[Tensor]]:
    return higher_order_gradients(model, lambda output, _: output, inputs, None, order)


def test_entry_by_entry() -> None:
    """L = sum sin(2 w): order k is 2^k sin(2 w + k pi / 2), since no entry meets another."""
    model = Weights((3,), (2, 2))
    found = orders(model, lambda a, b: (2 * a).sin().sum() + (2 * b).sin().sum(), 5)
    assert len(found) == 5
    for k, gradients in enumerate(found, 1):
        for gradient, w in zip(gradients, model.w, strict=True):
            assert not gradient.requires_grad
            torch.testing.assert_close(gradient, 2**k * (2 * w + k * math.pi / 2).sin().detach())


def test_entries_that_meet() -> None:
    """L = a b^2 with scalars: (b^2, 2ab), then of their sum (2b, 2b + 2a), then (2, 2 + 2), then zeros."""
    model = Weights((), ())
    a, b = (w.item() for w in model.w)
    found = [[g.item() for g in gradients] for gradients in orders(model, lambda a, b: a * b * b, 4)]
    assert found == [
        pytest.approx(row) for row in ([b * b, 2 * a * b], [2 * b, 2 * b + 2 * a], [2, 4], [0, 0])
    ]


def test_zeros_where_nothing_depends_any_more() -> None:
    """A linear model and the squared error: the second derivative is constant."""
    model = nn.Linear(10, 1)
    x, y = torch.randn(16, 10), torch.randn(16, 1)
    first, second, third = higher_order_gradients(model, nn.MSELoss(), x, y, order=3)
    extended = torch.cat([x, torch.ones(16, 1)], 1)
    hessian = 2 / 16 * extended.mT @ extended
    torch.testing.assert_close(torch.cat([part.reshape(-1) for part in second]), hessian.sum(1))
    assert [part.shape for part in first] == [part.shape for part in third] == [(1, 10), (1,)]
    assert all(torch.count_nonzero(part) == 0 for part in third)
    linear = higher_order_gradients(model, lambda out, _: out.sum(), x, y, order=2)
    assert all(torch.count_nonzero(part) == 0 for part in linear[1])


def test_through_attention_and_linear() -> None:
    """Third order through the ops, beside their plain definitions."""
    torch.manual_seed(3)
    x = torch.randn(1, 1, 4, 3, dtype=torch.float64)

    def of(attention: Callable[..., Tensor], linear: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def function(query: Tensor, key: Tensor, weight: Tensor) -> Tensor:
            mixed = attention(query + x, key - x, x, pattern=sk.Causal())
            return linear(mixed, weight, None, "gelu").square().sum()

        return function

    model = Weights((1, 1, 4, 3), (1, 1, 4, 3), (2, 3))
    found = orders(model, of(sk.attention, sk.linear), 3)
    exact = orders(model, of(sk.reference.attention, sk.reference.linear), 3)
    for ours, right in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-9, atol=1e-10)


def test_inputs_of_each_kind() -> None:
    class Two(nn.Linear):
        def forward(self, x: Tensor, factor: Tensor) -> Tensor:
            return super().forward(x) * factor

    model, x, factor = Two(3, 1), torch.randn(4, 3), torch.tensor(2.0)
    for inputs in ((x, factor), {"factor": factor, "x": x}):
        first = higher_order_gradients(model, nn.MSELoss(), inputs, torch.zeros(4, 1), 1)
        loss = (model(x, factor) ** 2).mean()
        torch.testing.assert_close(tuple(first[0]), torch.autograd.grad(loss, list(model.parameters())))


def test_gradients_are_not_touched_and_need_no_grad_mode() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        (first,) = higher_order_gradients(model, nn.MSELoss(), torch.ones(3, 2), torch.ones(3, 1), 1)
    assert torch.count_nonzero(first[0]) > 0
    assert all(parameter.grad is None for parameter in model.parameters())


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


def test_bad_input() -> None:
    model, x, y = nn.Linear(2, 1), torch.ones(3, 2), torch.ones(3, 1)
    for order, message in ((0, "order is 0, expected an int >= 1"), (1.5, r"order is a float \(1.5\)")):
        with pytest.raises((TypeError, ValueError), match=message):
            higher_order_gradients(model, nn.MSELoss(), x, y, order)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"loss_fn's result has shape \(3, 1\), expected a scalar"):
        higher_order_gradients(model, nn.MSELoss(reduction="none"), x, y, 2)
    with pytest.raises(ValueError, match="depends on no trainable parameter"):
        higher_order_gradients(model, lambda output, target: target.sum(), x, y, 2)
    with pytest.raises(SecondDerivativeError, match="can't be differentiated twice"):
        higher_order_gradients(model, lambda out, _: OnceOnly.apply(out).square().mean(), x, y, 2)
