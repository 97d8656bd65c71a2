"""FunctionPair on toy ops made in Python, and the test kit of all ops on both."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from ops import op_contract
from ops.toy_ops import CALLS, mix, mix_plain, pair_plain, two_outputs
from torch import Tensor
from torch.func import grad, vmap

from seo_kernels import _library
from seo_kernels.ops.function_pair import FunctionPair

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
SEED = torch.tensor(3)


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


def problem(rows: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(*shape, dtype=torch.float64) for shape in ((2, rows, 2), (3, 2), (3,)))


def of(pair: Callable, seed: Tensor | None = None) -> Callable:
    return lambda input, weight, bias=None: pair(input, weight, bias, seed, 1.5)


def power(pair: Callable) -> Callable:
    return lambda input: pair(input, 3.0)


CASES = {
    "mix": (of(mix), of(mix_plain), problem()),
    "mix without bias": (of(mix), of(mix_plain), problem()[:2]),
    "mix with seed": (of(mix, SEED), of(mix_plain, SEED), problem()),
    "two outputs": (power(two_outputs), power(pair_plain), (torch.rand(2, 3, dtype=torch.float64) + 0.5,)),
}


@pytest.mark.parametrize("case", CASES)
def test_derivatives(case: str) -> None:
    function, reference, inputs = CASES[case]
    op_contract.check_first_order(function, inputs)
    op_contract.check_second_order(function, inputs)
    op_contract.check_nestings(function, reference, inputs)
    op_contract.check_wanted_gradients(function, reference, inputs)
    op_contract.check_absent_gradients(function, inputs)
    op_contract.check_repeatable(function, inputs)
    op_contract.check_checkpoint(function, inputs)
    op_contract.check_batched_gradients(function, inputs)
    op_contract.check_derivatives_without_recording(function, inputs)


def test_third_order() -> None:
    inputs = tuple(torch.randn(*shape, dtype=torch.float64) for shape in ((1, 2), (2, 2), (2,)))
    op_contract.check_nestings(of(mix), of(mix_plain), inputs, orders=(3,))


@pytest.mark.parametrize("case", CASES)
def test_vmap(case: str) -> None:
    function, _, inputs = CASES[case]
    op_contract.check_vmap(function, inputs)


@native
@pytest.mark.parametrize("case", CASES)
def test_compiled(case: str) -> None:
    function, _, inputs = CASES[case]
    op = "toy_pair_forward" if case == "two outputs" else "toy_mix_forward"
    op_contract.check_compile(function, inputs, op=op)
    op_contract.check_compile_with_transforms(function, inputs)
    op_contract.check_export(function, inputs, op=op)


def test_opcheck() -> None:
    input, weight, bias = (tensor.requires_grad_() for tensor in problem())
    torch.library.opcheck(torch.ops.seo_kernels.toy_mix_forward.default, (input, weight, bias, SEED, 1.5))
    torch.library.opcheck(torch.ops.seo_kernels.toy_mix_forward.default, (input, weight, None, None, 1.5))
    torch.library.opcheck(torch.ops.seo_kernels.toy_pair_forward.default, (input.detach().exp(), 3.0))
    state = torch.randn(6, 3, dtype=torch.float64)
    arguments = (state.reshape(2, 3, 3), input.detach(), weight.detach(), None, state, None, 1.5)
    for wanted in ([True, True, False], [False, True, False]):
        torch.library.opcheck(torch.ops.seo_kernels.toy_mix_backward.default, (*arguments, wanted))


@native
def test_only_what_is_wanted_is_computed() -> None:
    input, weight, bias = problem()
    mix(input, weight, bias, None, 1.0)
    assert CALLS == ["forward (2, 3, 2)"]
    for wanted in itertools.product((False, True), repeat=3):
        if not any(wanted):
            continue
        own = [t.clone().requires_grad_(want) for t, want in zip((input, weight, bias), wanted, strict=True)]
        CALLS.clear()
        mix(*own, None, 1.0).sum().backward()
        assert ["forward (2, 3, 2)", f"backward {list(wanted)}"] == CALLS
    with torch.no_grad():
        assert not mix(*own, None, 1.0).requires_grad


@native
def test_absent_gradients_stay_absent() -> None:
    """The gradient of an output that nothing used is None for the op, no zeros."""
    input = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    for used, create_graph in itertools.product((0, 1), (False, True)):
        CALLS.clear()
        result = two_outputs(input, 2.0)[used].sum()
        torch.autograd.grad(result, input, create_graph=create_graph)
        assert CALLS[1:] == [f"backward {used == 0} {used == 1}"]


@native
def test_vmap_folds_where_it_can() -> None:
    """Batched rows are one call; a batched weight, a weight's gradient and a seed are a call each."""
    input, weight, bias = problem()
    inputs = torch.stack([input, 2 * input, 3 * input], 1)

    def counted(function: Callable, *arguments: Tensor, dims: tuple[int | None, ...]) -> int:
        CALLS.clear()
        vmap(function, in_dims=dims)(*arguments)
        return len(CALLS)

    assert counted(of(mix), inputs, weight, bias, dims=(1, None, None)) == 1
    assert CALLS == ["forward (3, 2, 3, 2)"]
    assert counted(of(mix, SEED), inputs, weight, bias, dims=(1, None, None)) == 3
    assert counted(of(mix), input, torch.stack([weight] * 3), bias, dims=(None, 0, None)) == 3
    by_input, by_weight = (grad(op_contract.number(of(mix)), argnums=place) for place in (0, 1))
    assert counted(by_input, inputs, weight, bias, dims=(1, None, None)) == 2
    assert counted(by_weight, inputs, weight, bias, dims=(1, None, None)) == 1 + 3


def test_half_precision_derivatives_are_computed_in_float32() -> None:
    """Double backward and tangents of bfloat16 inputs are those of float32, rounded once, in every dtype."""
    half = [tensor.bfloat16() for tensor in problem()]
    found = []
    for inputs in (half, [tensor.double() for tensor in half]):
        own = op_contract.leaves(inputs)
        out = mix(*own, None, 1.5)
        first = torch.autograd.grad(out.sum(), own, create_graph=True)
        assert [g.dtype for g in first] == [t.dtype for t in own]
        second = torch.autograd.grad(sum(g.sum() for g in first), own[:2])
        tangent = torch.func.jvp(of(mix), tuple(inputs), tuple(inputs))[1]
        assert tangent.dtype == out.dtype
        found.append([result.double() for result in (*second, tangent)])
    torch.testing.assert_close(*found, rtol=2**-8, atol=2**-8)


def test_device_without_kernels_is_served_in_plain_torch() -> None:
    arguments = (torch.empty(2, 3, device="meta"), torch.empty(4, 3, device="meta"), None, None, 1.0)
    assert mix(*arguments).shape == (2, 4)
    assert CALLS == []


@native
def test_library_of_other_sources() -> None:
    pair = FunctionPair(
        "toy_absent", inputs=("input",), differentiable=("input",), plain=torch.sin, fake=torch.empty_like
    )
    with pytest.raises(RuntimeError, match="lacks toy_absent: build it again"):
        pair(torch.ones(2))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"differentiable": ("x",)}, "differentiable has 'x'"),
        ({"backward_takes": ("factor",)}, "'input' among them"),
        ({"leading": ("input", "y")}, "leading has 'y'"),
        ({"saved_outputs": ("input",)}, "names that differ"),
    ],
)
def test_wrong_names(wrong: dict, message: str) -> None:
    options = {
        "inputs": ("input", "factor"),
        "differentiable": ("input",),
        "plain": torch.mul,
        "fake": torch.mul,
    } | wrong
    with pytest.raises(ValueError, match=message):
        FunctionPair("toy_wrong", **options)


@pytest.mark.parametrize(
    ("bug", "check"),
    [
        (lambda gradient: 1.01 * gradient, op_contract.check_first_order),
        (lambda gradient: gradient + 1e-9 * torch.rand_like(gradient), op_contract.check_repeatable),
        (lambda gradient: gradient.detach().clone(), op_contract.check_second_order),
        (lambda gradient: torch.empty_like(gradient), op_contract.check_poisoned),
    ],
)
def test_kit_finds_planted_bugs(
    bug: Callable[[Tensor], Tensor], check: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the gradient of a product."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, a: Tensor, b: Tensor) -> Tensor:
            ctx.save_for_backward(a, b)
            return a * b

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> tuple[Tensor, Tensor]:
            a, b = ctx.saved_tensors
            return bug(gradient * b), gradient * a

    inputs = (torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64))
    with pytest.raises((AssertionError, RuntimeError)):
        check(Product.apply, inputs)


def test_kit_sees_what_is_saved() -> None:
    input, weight, bias = problem()
    (state,) = op_contract.saved_tensors(of(mix), (input, weight, bias))
    assert state.shape == (6, 3)
