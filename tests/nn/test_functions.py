"""The hand-written Functions against torch's operations, to the second order and under every transform."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from seo_kernels.nn.functions import (
    CustomActivation,
    CustomAutogradFunction,
    CustomGradientFunction,
    CustomHuberLoss,
    CustomLinear,
    CustomReLU,
)

pytestmark = pytest.mark.usefixtures("one_thread")

Case = tuple[Any, Callable[..., Tensor], tuple[Any, ...]]


def tensors(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Away from 0 and from 1, where the functions have kinks."""
    drawn = [torch.randn(shape, dtype=torch.float64) for shape in shapes]
    return tuple((t + 0.05 * t.sign()).requires_grad_() for t in drawn)


def cases() -> dict[str, Case]:
    torch.manual_seed(3)
    return {
        "gradient": (CustomGradientFunction, F.linear, tensors((3, 4), (5, 4))),
        "gradient, one vector": (CustomGradientFunction, F.linear, tensors((4,), (5, 4))),
        "gradient, batches": (CustomGradientFunction, F.linear, tensors((2, 3, 4), (5, 4))),
        "autograd": (CustomAutogradFunction, torch.matmul, tensors((3, 4), (4, 5))),
        "autograd, batches": (CustomAutogradFunction, torch.matmul, tensors((2, 1, 3, 4), (4, 5))),
        "linear": (CustomLinear, F.linear, tensors((2, 3, 4), (5, 4), (5,))),
        "linear, no bias": (CustomLinear, F.linear, tensors((3, 4), (5, 4))),
        "relu": (CustomReLU, F.relu, tensors((3, 7))),
        "leaky": (CustomActivation, lambda x: F.leaky_relu(x, 0.1), tensors((3, 7))),
        "huber": (CustomHuberLoss, F.huber_loss, tensors((3, 7), (3, 7))),
        "huber, delta": (
            CustomHuberLoss,
            lambda p, t, delta: F.huber_loss(p, t, delta=delta),
            (*tensors((9,), (9,)), 0.3),
        ),
    }


CASES = cases()


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_values_and_gradients_are_torchs(case: Case) -> None:
    function, truth, arguments = case
    leaves = [a for a in arguments if isinstance(a, Tensor)]
    found, expected = function.apply(*arguments), truth(*arguments)
    torch.testing.assert_close(found, expected)
    for got, want in zip(
        torch.autograd.grad(found.pow(2).sum(), leaves),
        torch.autograd.grad(expected.pow(2).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(got, want)


def test_gradients_of_first_and_second_order(case: Case) -> None:
    function, _, arguments = case
    assert gradcheck(function.apply, arguments, check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function.apply, arguments, check_fwd_over_rev=True)


def test_transforms(case: Case) -> None:
    function, truth, arguments = case
    first, *others = arguments

    def total(apply: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: apply(x, *others).pow(3).sum()

    own, plain = total(function.apply), total(truth)
    torch.testing.assert_close(torch.func.hessian(own)(first), torch.func.hessian(plain)(first))
    twice = torch.func.jacfwd(torch.func.jacfwd(own))(first)
    torch.testing.assert_close(twice, torch.func.hessian(plain)(first))
    several = torch.stack([first, 2 * first]).detach()
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(own))(several), torch.func.vmap(torch.func.grad(plain))(several)
    )


def test_compiled_code_calls_them_too(case: Case) -> None:
    function, truth, arguments = case
    compiled = torch.compile(lambda *a: function.apply(*a) * 2, backend="eager")
    torch.testing.assert_close(compiled(*arguments), truth(*arguments) * 2)


def test_only_wanted_gradients_are_computed() -> None:
    x, weight, bias = tensors((3, 4), (5, 4), (5,))
    CustomLinear.apply(x.detach(), weight, bias).sum().backward()
    CustomLinear.apply(x, weight.detach(), None).sum().backward()
    torch.testing.assert_close(weight.grad, x.detach().sum(0).expand(5, 4))
    torch.testing.assert_close(x.grad, weight.detach().sum(0).expand(3, 4))
    torch.testing.assert_close(bias.grad, torch.full((5,), 3.0, dtype=torch.float64))


@pytest.mark.parametrize("function", [CustomGradientFunction, CustomAutogradFunction, CustomLinear])
def test_autocast(function: Any) -> None:
    x, weight = torch.randn(3, 4, requires_grad=True), torch.randn(4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = function.apply(x, weight)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    expected = weight.sum(1 if function is CustomAutogradFunction else 0).expand(3, 4)
    torch.testing.assert_close(x.grad, expected, atol=3e-2, rtol=3e-2)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (
            CustomGradientFunction,
            ((3, 4), (4, 5)),
            r"input has shape \(3, 4\), expected \(..., in_features=5",
        ),
        (
            CustomAutogradFunction,
            ((3, 5), (4, 5)),
            r"input_tensor has shape \(3, 5\), expected \(..., in=4\)",
        ),
        (CustomAutogradFunction, ((3, 4), (4,)), r"weight has shape \(4,\), expected \(in, out\)"),
        (CustomAutogradFunction, ((), (4, 5)), r"input_tensor has shape \(\), expected"),
        (CustomLinear, ((3, 4), (5, 4), (4,)), r"bias has shape \(4,\), expected \(out_features=5,\)"),
        (
            CustomHuberLoss,
            ((3, 1), (3,)),
            r"targets has shape \(3,\), expected that of predictions, \(3, 1\)",
        ),
    ],
)
def test_shapes_that_do_not_fit(function: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        function.apply(*(torch.randn(shape) for shape in arguments))


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (CustomAutogradFunction, ([1.0], torch.eye(1)), "input_tensor is a list, expected a tensor"),
        (CustomAutogradFunction, (torch.eye(1), 2.0), r"weight is a float \(2.0\), expected a tensor"),
        (CustomReLU, (torch.arange(3),), "input has dtype torch.int64"),
        (CustomHuberLoss, (torch.ones(2), 1.0), r"targets is a float \(1.0\), expected a tensor"),
        (CustomHuberLoss, (torch.ones(2), torch.ones(2), "1"), "delta is a str"),
    ],
)
def test_arguments_of_another_kind(function: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        function.apply(*arguments)


def test_delta_out_of_range() -> None:
    with pytest.raises(ValueError, match="delta is 0"):
        CustomHuberLoss.apply(torch.ones(2), torch.ones(2), 0.0)
