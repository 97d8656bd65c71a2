"""The registered kernels of linear and lora_linear against float64 products.

Sizes around every block boundary, strides, empty dimensions, dropout bits. The public calls are tested in
test_linear.py and test_lora_linear.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from ops.instruction_sets import LOWER, run_again
from torch import Tensor
from torch.nn import functional as F

import seo_kernels as sk
from seo_kernels.reference.philox import keep_mask

pytestmark = [
    pytest.mark.usefixtures("poisoned_memory"),
    pytest.mark.skipif(not sk.info()["native"], reason="there are no compiled kernels"),
]
OPS: Any = torch.ops.seo_kernels
# relative to the norm of the exact result: a few roundings of the inputs' own type
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 1.2e-2, torch.float16: 2e-3}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
# (tokens, in, out): one entry, few rows, more than a row block, several passes, nothing
FEW_ROWS = [(2, 40, 130), (7, 130, 300), (8, 16, 70), (23, 63, 300), (80, 200, 210)]
SIZES = [
    (1, 1, 1),
    (1, 63, 100),
    (63, 100, 257),
    (100, 64, 1),
    (257, 257, 63),
    (193, 900, 130),
    (130, 1700, 17),
    (530, 800, 790),
    (0, 4, 3),
    (3, 4, 0),
    (200, 0, 70),
]
ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "leaky_relu": F.leaky_relu,
    "relu2": lambda x: F.relu(x).square(),
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
LAYOUTS = ["rows", "columns", "gaps", "wide"]


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return (torch.randn(shape, dtype=torch.float64) / max(1, shape[-1]) ** 0.5).to(dtype)


def laid_out(matrix: Tensor, layout: str) -> Tensor:
    """The same values; what lies between them is NaN."""
    rows, columns = matrix.shape
    if layout == "columns":
        return matrix.t().contiguous().t()
    if layout == "gaps":
        spread = matrix.new_full((rows, columns * 3), float("nan"))
        spread[:, ::3] = matrix
        return spread[:, ::3]
    if layout == "wide":
        wide = matrix.new_full((rows, columns + 5), float("nan"))
        wide[:, :columns] = matrix
        return wide[:, :columns]
    return matrix


def kept_entries(seed: Tensor, tokens: int, inner: int, p: float) -> Tensor:
    zero = torch.zeros(1, dtype=torch.int64)
    return keep_mask(seed, zero, zero, torch.arange(tokens), torch.arange(inner), p)[0, 0].double()


def check(actual: Tensor, exact: Tensor, dtype: torch.dtype, tolerance: float | None = None) -> None:
    assert (actual.shape, actual.dtype) == (exact.shape, dtype)
    assert actual.is_contiguous()
    limit = (tolerance or TOLERANCE[dtype]) * exact.norm()
    assert (actual.double() - exact).norm() <= limit


@DTYPES
@pytest.mark.parametrize("size", [*SIZES, *FEW_ROWS], ids=str)
def test_linear(dtype: torch.dtype, size: tuple[int, int, int]) -> None:
    tokens, inner, outer = size
    for layout, weight_layout in zip(LAYOUTS, ["columns", "gaps", "rows", "wide"], strict=True):
        x, w = drawn(tokens, inner, dtype=dtype), drawn(outer, inner, dtype=dtype)
        g = laid_out(drawn(tokens, outer, dtype=dtype), layout)
        bias = drawn(outer, dtype=dtype) if layout != "gaps" else None
        x64, w64 = x.double(), w.double()
        exact = F.linear(x64, w64, None if bias is None else bias.double())
        x, w = laid_out(x, layout), laid_out(w, weight_layout)
        out, preactivation = OPS.linear_forward(x, w, bias, "", True)
        assert preactivation.shape == (0,)
        check(out, exact, dtype)
        grad_x, grad_w, grad_bias = OPS.linear_backward(g, x, w, bias, None, "", [True] * 3)
        check(grad_x, g.double() @ w64, dtype)
        check(grad_w, g.double().t() @ x64, dtype)
        if bias is None:
            assert grad_bias.shape == (0,)
        else:
            check(grad_bias, g.double().sum(0), dtype)


@DTYPES
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(dtype: torch.dtype, name: str) -> None:
    x, w, bias = drawn(70, 33, dtype=dtype), drawn(45, 33, dtype=dtype), drawn(45, dtype=dtype)
    g = drawn(70, 45, dtype=dtype)
    exact = F.linear(x.double(), w.double(), bias.double())
    out, kept = OPS.linear_forward(x, w, bias, name, True)
    check(kept, exact, dtype)
    check(out, ACTIVATIONS[name](exact), dtype)
    assert torch.equal(OPS.linear_forward(x, w, bias, name, False)[0], out)
    before = kept.double().requires_grad_()
    (dz,) = torch.autograd.grad(ACTIVATIONS[name](before), before, g.double())
    gradients = OPS.linear_backward(g, x, w, bias, kept, name, [True] * 3)
    for gradient, right in zip(gradients, (dz @ w.double(), dz.t() @ x.double(), dz.sum(0)), strict=True):
        check(gradient, right, dtype)
    again = OPS.linear_backward(g, x, w, bias, None, name, [True] * 3)  # recomputed
    assert all(torch.equal(*pair) for pair in zip(gradients, again, strict=True))


@pytest.mark.parametrize(("rank", "p"), [(0, 0.3), (1, 0.3), (7, 0.0), (16, 0.3), (70, 0.0)])
@pytest.mark.parametrize("size", SIZES, ids=str)
@DTYPES
def test_lora_linear(dtype: torch.dtype, size: tuple[int, int, int], rank: int, p: float) -> None:
    tokens, inner, outer = size
    scaling, seed = 1.7, torch.tensor(0x1234567890ABCDEF)
    layout = LAYOUTS[(tokens + rank) % len(LAYOUTS)]
    shapes = [(tokens, inner), (outer, inner), (outer,), (rank, inner), (outer, rank), (tokens, outer)]
    x, w, bias, a, b, g = (drawn(*shape, dtype=dtype) for shape in shapes)
    if inner == 1:  # sums of very few terms must not cancel
        x, w, bias, a, b, g = (tensor.abs() for tensor in (x, w, bias, a, b, g))
    leaves = [tensor.double().requires_grad_() for tensor in (x, w, bias, a, b)]
    keep = kept_entries(seed, tokens, inner, p) / (1 - p)
    inner_rows = (leaves[0] * keep) @ leaves[3].t()
    exact = F.linear(leaves[0], leaves[1], leaves[2]) + scaling * inner_rows @ leaves[4].t()
    tensors = [laid_out(x, layout), laid_out(w, layout), bias, laid_out(a, layout), laid_out(b, layout)]
    out, projected = OPS.lora_linear_forward(*tensors, seed, scaling, p)
    check(out, exact, dtype)
    check(projected, inner_rows, projected.dtype, 5e-6)
    right = torch.autograd.grad(exact, leaves, g.double(), materialize_grads=True)
    for wanted in ([True] * 5, [True, False, False, True, True], [False, False, False, True, False]):
        arguments = (laid_out(g, layout), *tensors, projected, seed, scaling, p, wanted)
        gradients = OPS.lora_linear_backward(*arguments)
        for gradient, expected, asked in zip(gradients, right, wanted, strict=True):
            if asked:
                # bfloat16 rounds the projection and its gradient once more
                check(gradient, expected, dtype, 2 * TOLERANCE[dtype])
            else:
                assert gradient.shape == (0,)
    again = OPS.lora_linear_backward(*arguments)
    assert all(torch.equal(*pair) for pair in zip(gradients, again, strict=True))


@pytest.mark.parametrize(
    ("dtype", "size", "rank"),
    [
        (torch.float32, (16700, 5, 33), 2),
        (torch.bfloat16, (70, 520, 264), 9),
        (torch.bfloat16, (270, 1040, 264), 20),
        (torch.float32, (70, 260, 132), 3),
    ],
)
def test_past_one_tile(dtype: torch.dtype, size: tuple[int, int, int], rank: int) -> None:
    """More tokens and columns than any device sums in one go."""
    test_lora_linear(dtype, size, rank, 0.3)


def test_leading_dimensions_and_expanded_rows() -> None:
    x, w = torch.randn(7, 2, 5, 64).transpose(0, 2), torch.randn(33, 64)
    for view in (x, x[:1, :, :1].expand(4, 2, 3, 64), x[0, 0, 0]):
        out, _ = OPS.linear_forward(view, w, None, "", False)
        torch.testing.assert_close(out, F.linear(view, w))
    ones = torch.ones(()).expand(5, 2, 7, 33)  # as the gradient of a sum
    grad_x, grad_w, _ = OPS.linear_backward(ones, x, w, None, None, "", [True, True, False])
    torch.testing.assert_close(grad_x, ones @ w)
    torch.testing.assert_close(grad_w, ones.reshape(-1, 33).t() @ x.reshape(-1, 64))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"weight": torch.zeros(5, 3)},
            r"weight has shape \(5, 3\), expected \(out_features, in_.*=4\)",
        ),
        ({"weight": torch.zeros(5, 4, dtype=torch.float64)}, "weight must have input's dtype"),
        ({"bias": torch.zeros(4)}, r"bias has shape \(4\), expected \(5\)"),
        ({"lora_a": torch.zeros(4, 2)}, r"lora_a has shape \(4, 2\), expected \(rank, in_features=4\)"),
        ({"lora_b": torch.zeros(5, 3)}, r"lora_b has shape \(5, 3\), expected \(out_features=5, rank=2\)"),
        ({"scaling": float("nan")}, "scaling is nan"),
        ({"dropout_p": 1.0}, "dropout_p is 1.0"),
        ({"seed": None, "dropout_p": 0.5}, "seed is missing"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    arguments = {
        "input": torch.zeros(6, 4),
        "weight": torch.zeros(5, 4),
        "bias": None,
        "lora_a": torch.zeros(2, 4),
        "lora_b": torch.zeros(5, 2),
        "seed": torch.tensor(1),
        "scaling": 1.0,
        "dropout_p": 0.0,
    }
    with pytest.raises(ValueError, match=message):
        OPS.lora_linear_forward(*(arguments | change).values())


def test_unknown_activation() -> None:
    with pytest.raises(ValueError, match="activation is 'swoosh', expected one of gelu, gelu_tanh"):
        OPS.linear_forward(torch.zeros(2, 3), torch.zeros(4, 3), None, "swoosh", False)


@pytest.mark.parametrize("capability", LOWER)
def test_every_instruction_set(capability: str) -> None:
    """All activations, and sizes with several blocks and passes."""
    run_again(capability, __file__, "-k", "not instruction_set and (activation or 193 or 257 or 300)")
