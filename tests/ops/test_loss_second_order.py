"""The second derivatives of cross entropy by formula are those of its plain definition."""

from typing import Any

import pytest
import torch
from torch import Tensor

import seo_kernels as sk
from seo_kernels.ops.loss_second_order import BLOCK


def second_derivatives(
    logits: Tensor, target: Tensor, *, plain: bool = False, **options: Any
) -> tuple[Tensor, Tensor]:
    """By the logits, and by what the losses of the rows are multiplied with (which needs the tangent)."""
    function = sk.reference.cross_entropy if plain else sk.cross_entropy
    torch.manual_seed(1)
    factors = torch.randn(len(target), dtype=torch.float64).to(logits).requires_grad_()
    losses = function(logits, target, reduction="none", **options)
    (gradient,) = torch.autograd.grad((losses * factors).sum(), logits, create_graph=True)
    direction = torch.randn(logits.shape, dtype=torch.float64).to(logits)
    return torch.autograd.grad(gradient, (logits, factors), direction)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("classes", [7, BLOCK // 3 - 1])
def test_against_the_definition(weighted: bool, smoothing: float, classes: int) -> None:
    logits = torch.randn(8, classes, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 3, -100, 6, 1, -100, 2, 2])
    options = {"label_smoothing": smoothing, "weight": torch.rand(classes).double() if weighted else None}
    found = second_derivatives(logits, target, **options)
    exact = second_derivatives(logits, target, plain=True, **options)
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-13)
    assert torch.count_nonzero(found[0][target == -100]) == 0


def test_ignored_rows_may_hold_anything() -> None:
    logits = torch.randn(3, 5, dtype=torch.float64)
    logits[1] = torch.nan
    logits.requires_grad_()
    found = second_derivatives(logits, torch.tensor([1, -100, 4]))
    exact = second_derivatives(logits, torch.tensor([1, -100, 4]), plain=True)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-13)
    assert all(bool(part.isfinite().all()) for part in found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_and_large_scores(dtype: torch.dtype) -> None:
    logits = (100 * torch.randn(6, 9)).to(dtype).requires_grad_()
    target = torch.randint(9, (6,))
    found = second_derivatives(logits, target, label_smoothing=0.1)[0]
    wide = logits.detach().double().requires_grad_()
    exact = second_derivatives(wide, target, plain=True, label_smoothing=0.1)[0]
    assert found.dtype == dtype
    assert (found.double() - exact).norm() < (1e-4 if dtype == torch.float32 else 0.05) * exact.norm()
