"""A right module passes every comparison; each planted fault is found by the comparison made for it."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

import seo_kernels as sk
from seo_kernels.diagnostics.module_check import ModuleCheck, check_module
from seo_kernels.diagnostics.module_factory import module_under_test

ALL = {"gradient", "repeated backward", "finite differences", "float64 copy", "second derivative"}


def check(model: nn.Module, *rest: Any, **options: Any) -> list[ModuleCheck]:
    inputs = rest or (torch.randn(6, 4),)
    return check_module(module_under_test("mine", (model, *inputs)), **options)


def failed(checks: list[ModuleCheck]) -> set[tuple[str, str]]:
    return {(check.what, check.about) for check in checks if check.passed is False}


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(4, 24)

    def forward(self, input: Tensor) -> Tensor:
        query, key, value = self.project(input)[None, None].chunk(3, -1)
        return sk.attention(query, key, value, pattern=sk.Causal())


RIGHT: dict[str, Callable[[], nn.Module]] = {
    "gelu": lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2)),
    "relu": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)),
    "normalised": lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Dropout(0.2), nn.Tanh()),
    "linear": lambda: nn.Linear(4, 3),
    "attention": Attending,
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_modules(name: str) -> None:
    model = RIGHT[name]()
    checks = check(model)
    assert [check for check in checks if not check.passed] == []
    assert {check.what for check in checks} == ALL
    parameters = {name for name, _ in model.named_parameters()}
    for what in ALL - {"repeated backward"}:
        assert {check.about for check in checks if check.what == what} - {""} == parameters
    assert all(check.error <= check.allowed for check in checks if check.error is not None)


def test_loss_target_keywords_and_inputs_with_gradients() -> None:
    model, input = RIGHT["gelu"](), torch.randn(6, 4, requires_grad=True)
    weight = torch.tensor([0.3, 1.7])  # of a loss that has to follow into float64
    checks = check(model, {"input": input}, torch.randint(2, (6,)), nn.CrossEntropyLoss(weight))
    assert all(check.passed for check in checks)
    abouts = {check.about for check in checks if check.what == "finite differences"}
    assert "input['input']" in abouts


def test_a_module_in_float64_or_bfloat16() -> None:
    checks = check(RIGHT["gelu"]().double(), torch.randn(6, 4).double())
    assert {check.what for check in checks} == ALL - {"float64 copy"}
    assert all(check.passed for check in checks)
    assert all(check.passed for check in check(RIGHT["gelu"]().bfloat16(), torch.randn(6, 4).bfloat16()))


class Square(torch.autograd.Function):
    """x squared; subclasses get something wrong."""

    @staticmethod
    def forward(ctx: Any, input: Tensor) -> Tensor:
        ctx.save_for_backward(input)
        return input * input

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (input,) = ctx.saved_tensors
        return 2.0 * input * gradient


class TooLong(Square):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 1.01 * Square.backward(ctx, gradient)


class WrongInFloat32(Square):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return (1.01 if gradient.dtype == torch.float32 else 1.0) * Square.backward(ctx, gradient)


class NoSecond(Square):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (input,) = ctx.saved_tensors
        return 2.0 * input.detach() * gradient


class Once(Square):
    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Square.backward(ctx, gradient)


class Overwriting(Square):
    """The gradient is written over what was saved."""

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (input,) = ctx.saved_tensors
        return input.data.mul_(2.0) * gradient


class Random(Square):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return Square.backward(ctx, gradient) * (1.0 + 1e-6 * torch.rand(()).to(gradient))


class NaN(Square):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        found = Square.backward(ctx, gradient)
        found[0, 0] = float("nan")
        return found


class Raising(Square):
    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise RuntimeError("no backward on a Tuesday")


class Squared(nn.Linear):
    def __init__(self, square: type[Square]) -> None:
        super().__init__(4, 3)
        self.square = square

    def forward(self, input: Tensor) -> Tensor:
        return self.square.apply(super().forward(input))


BOTH = ("weight", "bias")


@pytest.mark.parametrize(
    ("square", "expected"),
    [
        (Square, set()),
        (TooLong, {("finite differences", name) for name in BOTH}),
        (
            WrongInFloat32,
            {(what, name) for what in ("finite differences", "float64 copy") for name in BOTH},
        ),
        (NoSecond, {("second derivative", name) for name in BOTH}),
        (Once, set()),
        (Random, {("repeated backward", "")}),
        (NaN, {("gradient", name) for name in BOTH}),
        (Raising, {("gradient", "")}),
    ],
)
def test_the_comparison_made_for_it_finds_a_fault(
    square: type[Square], expected: set[tuple[str, str]]
) -> None:
    assert failed(check(Squared(square))) == expected


def test_a_backward_that_overwrites_what_it_saved() -> None:
    found = check(Squared(Overwriting))
    (repeated,) = (check for check in found if check.what == "repeated backward" and not check.passed)
    assert repeated.detail == "a second backward of the same graph gives another gradient of weight, bias"


def test_what_can_not_be_told_is_no_failure() -> None:
    (second,) = (check for check in check(Squared(Once)) if check.passed is None)
    assert second.what == "second derivative"
    assert "not differentiable twice" in second.detail
    assert "once_differentiable" in second.detail

    class OnlyFloat32(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            assert input.dtype == torch.float32, "float32 alone"
            return super().forward(input)

    checks = check(OnlyFloat32(4, 3))
    untold = [check for check in checks if check.passed is None]
    assert [check.what for check in untold] == ["float64 copy", "second derivative"]
    assert all(
        "does not compute in float64: AssertionError: float32 alone" in check.detail for check in untold
    )
    assert failed(checks) == set()


def test_no_gradient() -> None:
    model = RIGHT["gelu"]()
    model.unused = nn.Parameter(torch.ones(3))
    (found,) = (check for check in check(model) if not check.passed)
    assert (found.what, found.about) == ("gradient", "unused")
    assert found.detail.startswith("no gradient: the loss does not depend on it")


def test_another_function_in_float32() -> None:
    class Coarse(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            output = super().forward(input)
            return output.tanh() if output.dtype == torch.float32 else output.sin()

    wrong = [check for check in check(Coarse(4, 3)) if check.passed is False]
    assert ("float64 copy", "") in {(check.what, check.about) for check in wrong}


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output: output, "the loss has shape"),
        (lambda output: output.sum().detach(), "depends on no trainable parameter"),
        (lambda output: output.sum() * float("inf"), "the loss is -?(inf|nan), expected a finite number"),
        (lambda output: output.no_such_thing(), "AttributeError"),
    ],
)
def test_a_loss_that_is_none_is_a_failure(loss: Callable[[Tensor], Any], message: str) -> None:
    (found,) = check(RIGHT["linear"](), torch.randn(6, 4), loss)
    assert found.passed is False
    assert re.search(message, found.detail)


def test_the_module_stays_as_it_is() -> None:
    model = RIGHT["normalised"]()
    input, state = torch.randn(6, 4), {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    check(model, input)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="samples is -1, expected an int >= 0"):
        check(nn.Linear(4, 3), samples=-1)
    with pytest.raises(TypeError, match="samples is a str"):
        check(nn.Linear(4, 3), samples="all")
