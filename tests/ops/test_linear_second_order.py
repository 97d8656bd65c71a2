"""The second derivatives of ``sk.linear`` by formula are those of its plain definition."""

import itertools

import pytest
import torch
from torch import Tensor

import seo_kernels as sk
from seo_kernels.ops import linear_second_order
from seo_kernels.ops.linear import _pair
from seo_kernels.ops.linear_second_order import BLOCK

ACTIVATIONS = (None, "gelu", "gelu_tanh", "relu", "silu", "mish", "tanh")


def leaves(dtype: torch.dtype = torch.float64, out: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((2, 3, 7), (out, 7), (out,))
    return tuple(torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)  # type: ignore[return-value]


def curvature(
    tensors: tuple[Tensor, ...], activation: str | None, *, plain: bool = False, moving: str = "xwb"
) -> list[Tensor]:
    """d<u, dL/dx>/d(x, W, b) for a loss that is nonlinear in the output, u for the inputs that move."""
    function = sk.reference.linear if plain else sk.linear
    torch.manual_seed(1)
    loss = function(*tensors, activation).sin().sum()
    moved = [tensor for tensor, name in zip(tensors, "xwb", strict=True) if name in moving]
    gradients = torch.autograd.grad(loss, moved, create_graph=True)
    direction = [torch.randn_like(gradient, dtype=torch.float64).to(gradient) for gradient in gradients]
    return list(torch.autograd.grad(gradients, tensors, direction, materialize_grads=True))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("moving", ["x", "w", "b", "xw", "xb", "wb", "xwb"])
def test_against_the_definition(activation: str | None, moving: str) -> None:
    tensors = leaves()
    found = curvature(tensors, activation, moving=moving)
    for part, exact in zip(found, curvature(tensors, activation, plain=True, moving=moving), strict=True):
        torch.testing.assert_close(part, exact, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("activation", [None, "gelu"])
@pytest.mark.parametrize(
    "learning", [flags for flags in itertools.product((True, False), repeat=3) if any(flags)]
)
def test_what_is_frozen_gets_nothing(activation: str | None, learning: tuple[bool, ...]) -> None:
    tensors = leaves()
    for tensor, learns in zip(tensors, learning, strict=True):
        tensor.requires_grad_(learns)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    results = []
    for function in (sk.linear, sk.reference.linear):
        gradients = torch.autograd.grad(function(*tensors, activation).sin().sum(), wanted, create_graph=True)
        ones = [torch.ones_like(gradient) for gradient in gradients]
        results.append(torch.autograd.grad(gradients, wanted, ones))
    torch.testing.assert_close(*results, rtol=1e-11, atol=1e-12)


def test_blocks_of_the_activation() -> None:
    """More entries than a block takes, and no multiple of it."""
    tensors = leaves(out=BLOCK // 6 + 3)
    found, exact = (curvature(tensors, "gelu", plain=plain) for plain in (False, True))
    torch.testing.assert_close(found, exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes(dtype: torch.dtype) -> None:
    tensors = leaves(dtype)
    found = curvature(tensors, "gelu")
    assert [part.dtype for part in found] == [dtype] * 3
    exact = curvature(tuple(t.detach().double().requires_grad_() for t in tensors), "gelu", plain=True)
    for part, right in zip(found, exact, strict=True):
        error = (part.double() - right).norm() / right.norm()
        assert error < (1e-5 if dtype == torch.float32 else 0.05)


def test_the_formula_serves_last_derivatives_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: object) -> object:
        calls.append(1)
        return linear_second_order.linear_second_order(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(_pair._autodiff, "formula", counted)
    tensors = leaves()
    curvature(tensors, "gelu")
    assert calls == [1]
    loss = sk.linear(*tensors, "gelu").sin().sum()
    (first,) = torch.autograd.grad(loss, tensors[1], create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), tensors[1], create_graph=True)
    assert calls == [1]
    third = torch.autograd.grad(second.sum(), tensors)
    plain = sk.reference.linear(*tensors, "gelu").sin().sum()
    (first,) = torch.autograd.grad(plain, tensors[1], create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), tensors[1], create_graph=True)
    torch.testing.assert_close(third, torch.autograd.grad(second.sum(), tensors), rtol=1e-11, atol=1e-12)


def test_batched_gradients() -> None:
    tensors = leaves()
    gradients = torch.autograd.grad(sk.linear(*tensors, "gelu").sin().sum(), tensors, create_graph=True)
    directions = [torch.randn(4, *gradient.shape, dtype=gradient.dtype) for gradient in gradients]
    found = torch.autograd.grad(gradients, tensors, directions, retain_graph=True, is_grads_batched=True)
    for i in range(4):
        one = torch.autograd.grad(gradients, tensors, [d[i] for d in directions], retain_graph=True)
        torch.testing.assert_close([part[i] for part in found], list(one), rtol=1e-11, atol=1e-12)
