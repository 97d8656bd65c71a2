"""How exact the activations are: over all of float32, at every dtype, for every instruction set."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ops.activation_truth import truth, ulps
from ops.instruction_sets import LOWER, run_again
from torch import Tensor

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.ops.checks import ACTIVATIONS

pytestmark = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
TESTS = Path(__file__).resolve().parent.parent
STEP = 9973  # of the bits of a float: a prime, so that all mantissas come up
EXTREMES = (0.0, 1e-45, 1e-40, 1.2e-38, 1e-20, 1.0, 89.0, 104.0, 1e4, 1e19, 3.4e38)
INFINITE = {  # value and derivative at -inf and inf
    "gelu": ((0.0, 0.0), (torch.inf, 1.0)),
    "gelu_tanh": ((0.0, 0.0), (torch.inf, 1.0)),
    "silu": ((0.0, 0.0), (torch.inf, 1.0)),
    "mish": ((0.0, 0.0), (torch.inf, 1.0)),
    "relu": ((0.0, 0.0), (torch.inf, 1.0)),
    "leaky_relu": ((-torch.inf, 0.01), (torch.inf, 1.0)),
    "relu2": ((0.0, 0.0), (torch.inf, torch.inf)),
    "tanh": ((-1.0, 0.0), (1.0, 0.0)),
    "sigmoid": ((0.0, 0.0), (1.0, 0.0)),
}


def allowed() -> float:
    """ulp; one more where a product and a sum are rounded apart."""
    return 3.0 if sk.info()["cpu_capability"] == "portable" else 2.0


def sweep(least: float = 0.0, most: float = 130.0, step: int = STEP) -> Tensor:
    """Floats of all sizes between, denormals included, and their negatives."""
    bits = [int(torch.tensor(bound).view(torch.int32)) for bound in (least, most)]
    positive = torch.arange(*bits, step, dtype=torch.int32).view(torch.float32)
    return torch.cat([positive, -positive, torch.tensor(EXTREMES), -torch.tensor(EXTREMES)])


def value_and_derivative(x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    own = x.clone().requires_grad_()
    value = sk.bias_act(own, None, activation)
    (first,) = torch.autograd.grad(value, own, torch.ones_like(value))
    return value.detach(), first


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float32(activation: str) -> None:
    """Value and derivative within 2 ulp (3 on machines without fused multiply-add); see activation_truth."""
    x = torch.cat([sweep(), sweep(0.01, 20.0, 401)])
    exact = truth(activation, x)
    found = value_and_derivative(x, activation)
    for name, got, want, size in zip(("value", "first"), found, exact.results, exact.sizes, strict=False):
        fits = want.abs() < 3.4e38  # otherwise infinite in float32
        error = ulps(got[fits], want[fits], size[fits])
        worst = int(error.argmax())
        assert float(error[worst]) <= allowed(), (
            f"{name} at {float(x[fits][worst])}: {float(error[worst])} ulp"
        )
        assert bool(got[~fits].isinf().all())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_float64(activation: str) -> None:
    """Within 2e-14; in the tails 1e-12, which the rounding of an exponent costs the truth.

    Below 1e-300 the truth itself is flushed to zero.
    """
    x = sweep(1e-30, 30.0).double() * (1 + 1e-9)
    exact = truth(activation, x)
    for got, want, size in zip(value_and_derivative(x, activation), exact.results, exact.sizes, strict=False):
        for near, most in ((x.abs() < 5, 2e-14), (x.abs() >= 5, 1e-12)):
            error = ((got - want).abs() / size.clamp(min=1e-290))[near]
            assert float(error.max()) <= most


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_narrow(activation: str, dtype: torch.dtype) -> None:
    """Every number of 16 bits: rounded once, so at most a little beyond half a unit away."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[x.isfinite() & (x.abs() < 1e4)]
    exact = truth(activation, x.float())
    largest = torch.finfo(dtype).max
    for got, want, size in zip(value_and_derivative(x, activation), exact.results, exact.sizes, strict=False):
        fits = want.abs() <= torch.finfo(dtype).max
        assert bool(got[~fits].isinf().all())
        got, want, size = got[fits], want[fits], size[fits]
        rounding = (
            torch.finfo(dtype).eps / 2 * size
            + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps / 2
        )
        assert float(((got.double() - want).abs() / rounding)[want.abs() < largest].max()) < 1.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_infinite_and_nan(activation: str, dtype: torch.dtype) -> None:
    """Limits, as the reference; NaN stays NaN, and stays where it is."""
    x = torch.tensor([-torch.inf, torch.inf, torch.nan, 0.5] * 9, dtype=dtype)
    value, first = value_and_derivative(x, activation)
    for place, (want, slope) in enumerate(INFINITE[activation]):
        assert bool((value[place::4] == torch.tensor(want, dtype=dtype)).all())
        assert bool((first[place::4] == torch.tensor(slope, dtype=dtype)).all())
    assert bool(value[2::4].isnan().all())
    assert bool(value[3::4].isfinite().all())
    if activation not in ("relu", "leaky_relu"):  # whose derivatives are constants
        assert bool(first[2::4].isnan().all())
    own = x.clone().requires_grad_()
    expected = sk.reference.bias_act(own, None, activation)
    torch.testing.assert_close(value, expected.detach(), equal_nan=True)
    (slope,) = torch.autograd.grad(expected.sum(), own)
    finite = ~x.isnan()
    torch.testing.assert_close(first[finite], slope[finite])


@pytest.mark.parametrize("capability", LOWER)
def test_every_instruction_set(capability: str) -> None:
    """Accuracy, layouts and sizes."""
    files = [TESTS / "ops" / name for name in ("test_activation_accuracy.py", "test_activation.py")]
    properties = ("float", "narrow", "infinite", "neighbours", "sizes", "layouts", "repeatable")
    chosen = f"({' or '.join(properties)}) and not instruction_set"
    run_again(capability, *map(str, files), "-k", chosen)


@pytest.mark.parametrize("activation", ["gelu", "silu", "mish", "gelu_tanh"])
def test_reference_at_infinity_in_second_order(activation: str) -> None:
    x = torch.tensor([-torch.inf, -1e30, 1e30, torch.inf], requires_grad=True)
    (first,) = torch.autograd.grad(sk.bias_act(x, None, activation).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [0.0] * 4


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whatever_the_neighbours(activation: str, dtype: torch.dtype) -> None:
    """Ordinary entries come out the same beside large ones and NaN, which are computed otherwise."""
    x = torch.linspace(-4.4, 4.4, 1027).to(dtype)
    mixed = x.clone()
    mixed[1::3], mixed[2::3] = 50.0, torch.nan
    for among_large, ordinary in zip(
        value_and_derivative(mixed, activation), value_and_derivative(x, activation), strict=True
    ):
        assert torch.equal(among_large[::3], ordinary[::3])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_signed_zero(activation: str) -> None:
    """Odd functions, and those that are x times something, keep the sign of zero."""
    value, _ = value_and_derivative(torch.tensor([-0.0]), activation)
    if activation in ("gelu", "gelu_tanh", "silu", "mish", "tanh", "leaky_relu"):
        assert bool(torch.signbit(value).all())


def test_bias_is_added_in_the_wider_type() -> None:
    """input + bias in 16 bits is not rounded before the activation."""
    input, bias = torch.tensor([[256.0]]).bfloat16(), torch.tensor([1.0]).bfloat16()
    out = sk.bias_act(input, bias, "leaky_relu", negative_slope=1.0)
    assert float(out) == 256.0  # 257, rounded to even once
    assert float(sk.bias_act(-input, -bias, "relu2")) == 0.0
    assert float(sk.bias_act(input, bias, "relu2")) == float(torch.tensor(257.0**2).bfloat16())
