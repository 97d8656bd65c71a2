"""Rotary positions against the formula, in any layout, and what they are good for."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from seo_kernels.nn.rotary import RotaryPositions

pytestmark = pytest.mark.usefixtures("one_thread")
DIM, LENGTH = 6, 50


def by_formula(x: Tensor, start: int, scale: list[float]) -> Tensor:
    """Su et al. 2021, eq. 34, an entry at a time."""
    out = torch.empty_like(x, dtype=torch.float64)
    for p in range(x.shape[-2]):
        for i in range(x.shape[-1] // 2):
            angle = (start + p) * 10000.0 ** (-2 * i / x.shape[-1]) * scale[i]
            a, b = x[..., p, 2 * i].double(), x[..., p, 2 * i + 1].double()
            out[..., p, 2 * i] = a * math.cos(angle) - b * math.sin(angle)
            out[..., p, 2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


@pytest.mark.parametrize("learnable", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_against_the_formula(dtype: torch.dtype, learnable: bool) -> None:
    rotary = RotaryPositions(DIM, LENGTH, learnable=learnable).to(dtype)
    scale = [1.0] * 3
    if rotary.angle_scale is not None:
        scale = [1.0, 0.75, 2.0]
        rotary.angle_scale.data.copy_(torch.tensor(scale))
    tolerance = {torch.float64: 2e-6, torch.float32: 3e-5, torch.bfloat16: 0.04}[dtype]
    for start in (0, 7):
        x = torch.randn(2, LENGTH - 7, DIM, dtype=dtype)
        found = rotary(x, start)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), by_formula(x, start, scale), rtol=0, atol=tolerance)
    torch.testing.assert_close(rotary(x[0]), rotary(x)[0])  # (S, D) as well


def test_products_depend_on_the_distance_alone() -> None:
    rotary = RotaryPositions(DIM, LENGTH).double()
    query, key = torch.randn(2, 1, DIM, dtype=torch.float64)
    product = rotary(query, 3) @ rotary(key, 12).T
    for shift in (1, 30):
        torch.testing.assert_close(
            rotary(query, 3 + shift) @ rotary(key, 12 + shift).T, product, rtol=0, atol=1e-5
        )
    assert (rotary(query, 3) @ rotary(key, 13).T - product).abs() > 1e-3
    torch.testing.assert_close(rotary(query, 40).norm(), query.norm())


def layouts(x: Tensor) -> dict[str, Tensor]:
    """The same values in memory of all kinds."""
    wide = torch.zeros(*x.shape[:-1], x.shape[-1] + 1)
    wide[..., :-1] = x
    shifted = torch.zeros(x.numel() + 1)
    shifted[1:] = x.flatten()
    return {
        "heads": x.transpose(0, 1).contiguous().transpose(0, 1),
        "odd rows": wide[..., :-1],
        "odd offset": shifted[1:].view(x.shape),
        "columns": x.mT.contiguous().mT,
        "expanded": x[:1].expand(x.shape),
    }


@pytest.mark.parametrize("layout", ["heads", "odd rows", "odd offset", "columns", "expanded"])
def test_strides(layout: str) -> None:
    rotary = RotaryPositions(DIM, LENGTH)
    x = layouts(torch.randn(3, 5, DIM))[layout]
    torch.testing.assert_close(rotary(x, 2), rotary(x.clone(memory_format=torch.contiguous_format), 2))


@pytest.mark.parametrize("learnable", [False, True])
def test_derivatives(learnable: bool) -> None:
    rotary = RotaryPositions(4, 9, learnable=learnable).double()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    inputs = (x,) if rotary.angle_scale is None else (x, rotary.angle_scale)

    def turned(*tensors: Tensor) -> Tensor:
        parameters = dict(zip(("angle_scale",), tensors[1:], strict=False))
        return torch.func.functional_call(rotary, parameters, (tensors[0], 2))

    assert torch.autograd.gradcheck(turned, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(turned, inputs)


def test_compiled_and_under_transforms() -> None:
    """Where complex numbers are not: sines and cosines one by one."""
    rotary, x = RotaryPositions(DIM, LENGTH), torch.randn(4, 7, DIM)
    expected = rotary(x, 3)
    compiled = torch.compile(rotary, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, 3), expected)
    torch.testing.assert_close(torch.func.vmap(lambda row: rotary(row, 3))(x), expected)


def test_errors() -> None:
    with pytest.raises(ValueError, match="for a width of 5, expected an even one"):
        RotaryPositions(5, LENGTH)
    rotary = RotaryPositions(DIM, LENGTH)
    with pytest.raises(ValueError, match=r"x has shape \(2, 4\), expected \(..., length, d_model=6\)"):
        rotary(torch.randn(2, 4))
    with pytest.raises(ValueError, match="x is 51 positions long, expected at most max_len=50"):
        rotary(torch.randn(2, DIM), 49)
