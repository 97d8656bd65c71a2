"""The losses where numbers end: large, tiny, infinite and NaN scores, as in torch; every instruction set."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from ops.instruction_sets import LOWER, run_again
from torch import Tensor

import seo_kernels as sk
from seo_kernels import _library

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
INF, NAN = math.inf, math.nan
ROWS = {
    "large": [1e4, -1e4, 1e4, 0.0, 9999.0],
    "denormal": [1e-40, -1e-40, 5e-45, 0.0, 1e-39],
    "one infinite": [0.0, INF, 1.0, -1.0, 2.0],
    "two infinite": [INF, INF, 1.0, -1.0, 2.0],
    "some minus infinite": [-INF, 1.0, -INF, 2.0, -INF],
    "all minus infinite": [-INF] * 5,
    "all but one minus infinite": [-INF, -INF, 3.0, -INF, -INF],
    "nan": [0.0, 1.0, NAN, 2.0, 3.0],
    "far apart": [-3e38, 3e38, 0.0, 1.0, -1.0],
}
by_row = pytest.mark.parametrize("row", ROWS)


def scores(row: str, width: int) -> Tensor:
    """Rows of that kind beside ordinary ones; what fills up the row is ordinary too, or -inf."""
    rest = -INF if row == "all minus infinite" else 0.5
    extreme = ROWS[row] + [rest] * (width - 5)
    return torch.stack([torch.tensor(extreme), torch.randn(width), torch.tensor(extreme).flip(0)])


def agree(tested: Callable[..., Tensor], expected: Callable[..., Tensor], input: Tensor) -> None:
    own, other = (input.clone().requires_grad_() for _ in range(2))
    losses, exact = tested(own), expected(other)
    torch.testing.assert_close(losses, exact, equal_nan=True, rtol=1e-5, atol=1e-5)
    for loss, gradient_of in ((losses, own), (exact, other)):
        gradient_of.grad = torch.autograd.grad(loss.sum(), gradient_of)[0]
    torch.testing.assert_close(own.grad, other.grad, equal_nan=True, rtol=1e-5, atol=1e-6)


@by_row
@pytest.mark.parametrize("width", [5, 16, 1100])
@pytest.mark.parametrize("place", [0, 2])
def test_cross_entropy(row: str, width: int, place: int) -> None:
    input, target = scores(row, width), torch.tensor([place, 0, width - 1 - place])
    for options in ({}, {"label_smoothing": 0.1}, {"weight": torch.rand(width)}):
        for expected in (F.cross_entropy, sk.reference.cross_entropy):
            agree(
                lambda x, options=options: sk.cross_entropy(x, target, reduction="none", **options),
                lambda x, options=options, e=expected: e(x, target, reduction="none", **options),
                input,
            )


@by_row
def test_cross_entropy_of_probabilities(row: str) -> None:
    input, target = scores(row, 20), torch.rand(3, 20).softmax(1)
    one_hot = F.one_hot(torch.tensor([1, 2, 3]), 20).float()
    for probabilities in (target, one_hot):
        agree(
            lambda x, t=probabilities: sk.cross_entropy(x, t, reduction="none"),
            lambda x, t=probabilities: F.cross_entropy(x, t, reduction="none"),
            input,
        )


@by_row
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss(row: str, gamma: float) -> None:
    input, target = scores(row, 20), torch.tensor([1, 2, 3])
    agree(
        lambda x: sk.focal_loss(x, target, gamma=gamma, reduction="none"),
        lambda x: sk.reference.focal_loss(x, target, gamma=gamma, reduction="none"),
        input,
    )


def test_focal_loss_at_its_limits() -> None:
    """p = 1: no loss and no gradient. p = 0: the cross entropy, whose gradient is finite."""
    for gamma in (0.5, 1.0, 2.0):
        input = torch.tensor([[100.0, -100.0], [-1e4, 1e4], [-INF, 0.0]], requires_grad=True)
        losses = sk.focal_loss(input, torch.tensor([0, 0, 0]), gamma=gamma, reduction="none")
        assert losses.tolist() == [0.0, 2e4, INF]
        (gradient,) = torch.autograd.grad(losses.sum(), input)
        assert gradient.tolist() == [[0.0, 0.0], [-1.0, 1.0], [-1.0, 1.0]]


def test_huber_loss() -> None:
    input = torch.tensor([INF, -INF, NAN, 1e30, -1e30, 1e-40, 0.5, -0.5, 1e4] * 3)
    for reduction in ("none", "sum"):
        for delta in (0.5, 1.0):
            agree(
                lambda x, r=reduction, d=delta: sk.huber_loss(x, torch.zeros(27), reduction=r, delta=d),
                lambda x, r=reduction, d=delta: F.huber_loss(x, torch.zeros(27), reduction=r, delta=d),
                input,
            )
            agree(
                lambda x, r=reduction, d=delta: sk.reference.huber_loss(
                    x, torch.zeros(27), reduction=r, delta=d
                ),
                lambda x, r=reduction, d=delta: F.huber_loss(x, torch.zeros(27), reduction=r, delta=d),
                input,
            )


@pytest.mark.parametrize("value", [1e4, -1e4, 1e-40, INF, NAN])
def test_linear_cross_entropy(value: float) -> None:
    hidden, weight = torch.randn(5, 3), torch.randn(70, 3)
    hidden[1] = value
    target = torch.randint(70, (5,))
    agree(
        lambda x: sk.linear_cross_entropy(x, weight, target, reduction="none"),
        lambda x: sk.reference.linear_cross_entropy(x, weight, target, reduction="none"),
        hidden,
    )


def test_minus_infinite_bias_excludes_a_class() -> None:
    """Padding of a vocabulary."""
    hidden, weight, bias = torch.randn(5, 3), torch.randn(600, 3), torch.randn(600)
    bias[500:] = -INF
    target = torch.randint(500, (5,))
    agree(
        lambda x: sk.linear_cross_entropy(x, weight, target, bias),
        lambda x: F.cross_entropy(F.linear(x, weight, bias), target),
        hidden,
    )


@pytest.mark.parametrize("level", [-1e4, -200.0, 200.0, 1e4])
@pytest.mark.parametrize("classes", [3, 70, 601])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_logits_far_from_zero(level: float, classes: int, dtype: torch.dtype) -> None:
    """What pads the last classes to whole vectors has logits of 0: far too large beside -200."""
    hidden, weight, target = torch.randn(5, 3), torch.randn(classes, 3), torch.randint(classes, (5,))
    bias = torch.full((classes,), level)
    found = []
    for space, wide in ((sk, dtype), (sk.reference, torch.float64)):
        own = [tensor.to(dtype).to(wide).requires_grad_() for tensor in (hidden, weight)]
        gradients = torch.autograd.grad(space.linear_cross_entropy(*own, target, bias), own)
        found.append([gradient.double() for gradient in gradients])
    # float32 logits near 1e4 are rounded to 1e-3
    tolerance = 1e-2 if dtype == torch.bfloat16 else 2e-3
    torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)


@native
@pytest.mark.parametrize("capability", LOWER)
def test_every_instruction_set(capability: str) -> None:
    """Some of the comparisons with torch and the error rule."""
    files = ["test_losses.py", "test_losses_extremes.py", "test_linear_cross_entropy.py"]
    chosen = "error_rule or strides or views or limits or far_from or ((shape3 or 193) and dtype1)"
    run_again(capability, *(os.path.join(os.path.dirname(__file__), file) for file in files), "-k", chosen)
