"""sk.lora_linear: values, the whole contract of derivatives and transforms, memory, wrong arguments."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from ops import op_contract
from ops.test_linear import strided_views
from torch import Tensor
from torch.func import jvp, vjp, vmap
from torch.utils.checkpoint import checkpoint

import seo_kernels as sk
from seo_kernels import _library

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
NAMES = ("input", "weight", "bias", "lora_a", "lora_b")


def problem(
    rows: tuple[int, ...] = (2, 3), in_features: int = 4, out_features: int = 3, rank: int = 2
) -> tuple[Tensor, ...]:
    """Input, weight, bias, lora_a, lora_b; products of about the size of their factors."""
    shapes = ((*rows, in_features), (out_features, in_features), (out_features,))
    lora = ((rank, in_features), (out_features, rank))
    input, weight, bias, lora_a, lora_b = (torch.randn(*s, dtype=torch.float64) for s in (*shapes, *lora))
    return input, weight / in_features**0.5, bias, lora_a / in_features**0.5, lora_b / rank**0.5


def of(
    dropout_p: float = 0.0, function: Callable = sk.lora_linear, scaling: float = 1.7, *, seed: int | None = 7
) -> Callable:
    """A function of the five tensors; with the same bits in every call where there is dropout and a seed."""

    def call(*tensors: Tensor) -> Tensor:
        return function(*tensors, scaling=scaling, dropout_p=dropout_p)

    return call if seed is None or not dropout_p else op_contract.seeded(call, seed)


def without_bias(function: Callable) -> Callable:
    return lambda input, weight, lora_a, lora_b: function(input, weight, None, lora_a, lora_b)


def test_value() -> None:
    input, weight, bias, lora_a, lora_b = problem((5, 7), 33, 20, 6)
    expected = F.linear(input, weight + 0.3 * lora_b @ lora_a, bias)
    for function in (sk.lora_linear, sk.reference.lora_linear):
        torch.testing.assert_close(function(input, weight, bias, lora_a, lora_b, scaling=0.3), expected)


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_derivatives(dropout_p: float) -> None:
    function, reference, inputs = of(dropout_p), of(dropout_p, sk.reference.lora_linear), problem((3,))
    op_contract.check_first_order(function, inputs, batched=not dropout_p)
    op_contract.check_second_order(function, inputs, batched=not dropout_p)
    op_contract.check_wanted_gradients(function, reference, inputs)
    op_contract.check_absent_gradients(function, inputs)
    op_contract.check_checkpoint(of(dropout_p, seed=None), inputs)


def test_contract() -> None:
    function, reference = of(), of(function=sk.reference.lora_linear)
    op_contract.check_nestings(function, reference, problem((1,), 2, 2, 1))
    inputs = problem((1,), 2, 1, 1)
    op_contract.check_nestings(without_bias(function), without_bias(reference), inputs[:2] + inputs[3:], (3,))
    inputs = problem()
    subsets = ((0,), (3,), (4,), (0, 3), (1, 2), (2,), (0, 1, 2, 3, 4))
    op_contract.check_vmap(function, inputs, subsets=subsets)
    op_contract.check_vmap(without_bias(function), inputs[:2] + inputs[3:], subsets=((0,), (0, 2, 3)))
    op_contract.check_vmap(function, problem((), rank=3), subsets=((0,), (0, 4)))
    op_contract.check_batched_gradients(function, inputs)
    op_contract.check_derivatives_without_recording(function, inputs)


@native
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_compiled(dropout_p: float) -> None:
    function, inputs = of(dropout_p, seed=None), problem()
    torch.manual_seed(1)  # aot_eager draws as eager does
    op_contract.check_export(of(), inputs, op="lora_linear_forward")
    if not dropout_p:
        op_contract.check_compile(function, inputs, op="lora_linear_forward")
        op_contract.check_compile_with_transforms(function, inputs)
        return
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    torch.testing.assert_close(
        op_contract.results(op_contract.seeded(compiled), inputs),
        op_contract.results(op_contract.seeded(function), inputs),
    )


@native
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint_in_compiled_code_drops_the_same(use_reentrant: bool) -> None:
    inputs = tuple(tensor.requires_grad_() for tensor in problem((30,)))
    function = of(0.5, seed=None)

    def checkpointed(*tensors: Tensor) -> Tensor:
        return checkpoint(function, *tensors, use_reentrant=use_reentrant)

    gradients = []
    for run in (function, checkpointed):
        torch.compiler.reset()
        torch.manual_seed(1)
        whole = torch.compile(run, backend="aot_eager", fullgraph=True)
        gradients.append(torch.autograd.grad(whole(*inputs).sin().sum(), inputs))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
@pytest.mark.parametrize("rank", [1, 16, 63])
def test_error(rank: int, dropout_p: float, dtype: torch.dtype) -> None:
    inputs = problem((3, 43), 63, 100, rank)
    op_contract.check_error(of(dropout_p), of(dropout_p, sk.reference.lora_linear), inputs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "in_features", "out_features", "rank"),
    [((1,), 257, 5, 4), ((257,), 1, 100, 1), ((), 63, 63, 8), ((2, 0), 5, 3, 2), ((4099,), 3, 7, 3)],
)
def test_sizes(rows: tuple[int, ...], in_features: int, out_features: int, rank: int, dtype) -> None:
    inputs = problem(rows, in_features, out_features, rank)
    if in_features == 1:  # one number is left of a gradient: its terms must not cancel
        inputs = tuple(tensor.abs() / 4 for tensor in inputs)
    for dropout_p in (0.0, 0.3):
        tested, expected = of(dropout_p), of(dropout_p, sk.reference.lora_linear)
        op_contract.check_error(tested, expected, inputs, dtype)
        op_contract.check_error(without_bias(tested), without_bias(expected), inputs[:2] + inputs[3:], dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", range(7))
def test_strides(layout: int, dtype: torch.dtype) -> None:
    input, weight, bias, lora_a, lora_b = (tensor.to(dtype) for tensor in problem((5, 7), 33, 20, 6))
    if layout < 6:
        views = (*strided_views(input, weight, bias)[layout], lora_a, lora_b)
    else:
        views = (input, weight, bias, lora_a.mT.contiguous().mT, torch.stack([lora_b, lora_b], 2)[..., 1])
    dense = tuple(view.detach().contiguous() for view in views)
    found = []
    for own in (views, dense):
        own = tuple(tensor.detach().requires_grad_() for tensor in own)
        out = of(0.2)(*own)
        gradient = torch.linspace(-1, 1, out.numel(), dtype=dtype).reshape(out.shape)
        found.append((out, *torch.autograd.grad(out, own, gradient.mT.contiguous().mT)))
    for tested, expected in zip(*found, strict=True):
        assert op_contract.relative_error(tested, expected) <= 2 * op_contract.GRANTED[dtype]
    assert all(gradient.is_contiguous() for gradient in found[0][1:])


@pytest.mark.parametrize("dropout_p", [0.0, 0.2])
def test_repeatable_and_clean(dropout_p: float) -> None:
    inputs = problem((65,), 33, 50, 5)
    op_contract.check_repeatable(of(dropout_p), inputs)
    op_contract.check_poisoned(of(dropout_p), inputs)
    op_contract.check_poisoned(of(dropout_p), [tensor.bfloat16() for tensor in inputs])


@native
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_opcheck(dtype: torch.dtype) -> None:
    seed = torch.tensor(11)
    for given, bias, dropout_p in ((None, True, 0.0), (seed, False, 0.25)):
        input, weight, bias_, lora_a, lora_b = (t.to(dtype).requires_grad_() for t in problem())
        tensors = (input, weight, bias_ if bias else None, lora_a, lora_b)
        op = torch.ops.seo_kernels.lora_linear_forward.default
        torch.library.opcheck(op, (*tensors, given, 0.5, dropout_p))
        out, projected = (t.detach() for t in op(*tensors, given, 0.5, dropout_p))
        own = tuple(t if t is None else t.detach() for t in tensors)
        for wanted in ([True, True, bias, True, True], [False, False, False, True, False]):
            torch.library.opcheck(
                torch.ops.seo_kernels.lora_linear_backward.default,
                (torch.randn_like(out), *own, projected, given, 0.5, dropout_p, wanted),
            )


@native
@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
def test_what_is_kept(dropout_p: float) -> None:
    """Beyond its inputs nothing larger than (tokens, rank), whatever asks for a gradient."""
    inputs = problem((50,), 30, 40, 4)
    kept = op_contract.saved_tensors(of(dropout_p), inputs)
    assert sorted(tensor.shape for tensor in kept) == ([()] if dropout_p else []) + [(50, 4)]


@native
def test_only_what_is_wanted_is_computed() -> None:
    """The op returns a fresh empty tensor for each gradient that nobody wants, and changes nothing."""
    tensors = problem((5,), 9, 8, 3)
    seed = torch.tensor(5)
    out, projected = torch.ops.seo_kernels.lora_linear_forward(*tensors, seed, 0.5, 0.3)
    grad_out = torch.randn_like(out)
    before = [tensor.clone() for tensor in (*tensors, projected, grad_out)]

    def gradients(wanted: list[bool]) -> tuple[Tensor, ...]:
        return torch.ops.seo_kernels.lora_linear_backward(
            grad_out, *tensors, projected, seed, 0.5, 0.3, wanted
        )

    everything = gradients([True] * 5)
    for wanted in itertools.product((False, True), repeat=5):
        found = gradients(list(wanted))
        assert len({gradient.data_ptr() for gradient in found if gradient.numel()}) == sum(wanted)
        for gradient, expected, want in zip(found, everything, wanted, strict=True):
            torch.testing.assert_close(gradient, expected if want else expected.new_empty(0))
    torch.testing.assert_close([*tensors, projected, grad_out], before, rtol=0, atol=0)


def test_dropout_acts_on_the_adapter_alone() -> None:
    """It drops entries of the adapter's input, and scales up what it keeps; rank = in shows each of them."""
    input = torch.randn(200, 40)
    eye, zero = torch.eye(40), torch.zeros(40, 40)
    torch.manual_seed(2)
    dropped = sk.lora_linear(input, zero, None, eye, eye, dropout_p=0.25)
    ratio = dropped / input
    kept = ratio != 0
    torch.testing.assert_close(ratio[kept], torch.full_like(ratio[kept], 1 / 0.75))
    assert 0.72 < float(kept.float().mean()) < 0.78
    assert bool((kept.any(0) & ~kept.all(0)).all())  # no column alike
    assert bool((kept.any(1) & ~kept.all(1)).all())
    torch.testing.assert_close(sk.lora_linear(input, eye, None, eye, zero, dropout_p=0.9), input)
    torch.manual_seed(2)
    assert torch.equal(sk.lora_linear(input, zero, None, eye, eye, dropout_p=0.25), dropped)
    assert not torch.equal(sk.lora_linear(input, zero, None, eye, eye, dropout_p=0.25), dropped)


def test_dropout_counts_tokens_over_all_leading_dimensions() -> None:
    inputs = problem((6, 5), 7, 5, 3)
    flat = (inputs[0].reshape(30, 7), *inputs[1:])
    torch.testing.assert_close(of(0.5)(*inputs).reshape(30, 5), of(0.5)(*flat), rtol=0, atol=1e-15)


def test_dropout_asks_for_randomness() -> None:
    input, *rest = problem((6, 5))

    def dropped(input: Tensor) -> Tensor:
        return sk.lora_linear(input, *rest, dropout_p=0.5)

    with pytest.raises(RuntimeError, match="randomness"):
        vmap(dropped)(input)
    torch.manual_seed(3)
    same = vmap(dropped, randomness="same")(input)
    for i in range(len(input)):
        torch.manual_seed(3)
        torch.testing.assert_close(same[i], dropped(input[i]))
    alike = input[:1].expand(input.shape)
    torch.testing.assert_close(*vmap(dropped, randomness="same")(alike)[:2].unbind())
    different = vmap(dropped, randomness="different")(alike)
    assert not torch.allclose(different[0], different[1])


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_dropout_in_gradients_of_samples(randomness: str) -> None:
    """Backward and jvp drop what forward dropped: for a fixed seed, the function is linear in lora_b."""
    input, weight, _, lora_a, lora_b = problem((4, 6, 5), 4, 3, 2)
    weight = torch.zeros_like(weight)

    def pulled(input: Tensor) -> tuple[Tensor, Tensor]:
        def total(lora_b: Tensor) -> Tensor:
            return sk.lora_linear(input, weight, None, lora_a, lora_b, dropout_p=0.5).sum()

        out, pull = vjp(total, lora_b)
        return out, (pull(torch.ones_like(out))[0] * lora_b).sum()

    torch.testing.assert_close(*vmap(pulled, randomness=randomness)(input))

    def pushed(input: Tensor) -> tuple[Tensor, Tensor]:
        def adapted(lora_b: Tensor) -> Tensor:
            return sk.lora_linear(input, weight, None, lora_a, lora_b, dropout_p=0.5)

        return jvp(adapted, (lora_b,), (lora_b,))

    torch.testing.assert_close(*vmap(pushed, randomness=randomness)(input))


def test_float32_adapter_beside_bfloat16_weight() -> None:
    """Bias and adapter are cast to the input's dtype, and get gradients in their own."""
    input, weight, *adapter = problem((5,), 16, 16, 4)
    input, weight = input.bfloat16(), weight.bfloat16()
    adapter = [tensor.float().requires_grad_() for tensor in adapter]
    out = sk.lora_linear(input, weight, *adapter)
    assert out.dtype == torch.bfloat16
    gradients = torch.autograd.grad(out.float().sin().sum(), adapter)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


def test_autocast() -> None:
    inputs = tuple(tensor.float().requires_grad_() for tensor in problem((9,), 16, 16, 4))
    with torch.autocast("cpu", torch.bfloat16):
        out = of()(*inputs)
    assert out.dtype == torch.bfloat16
    op_contract.check_error(
        lambda *t: of()(*(x.bfloat16() for x in t)),
        lambda *t: of(function=sk.reference.lora_linear)(*t),
        inputs,
        torch.bfloat16,
    )
    gradients = torch.autograd.grad(out.sum(), inputs)
    assert {gradient.dtype for gradient in gradients} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_extreme_inputs(dropout_p: float, dtype: torch.dtype) -> None:
    input, *rest = (tensor.to(dtype) for tensor in problem((8,), 5, 4, 2))
    inputs = (op_contract.with_extremes(input), *rest)
    op_contract.check_extreme(of(dropout_p), of(dropout_p, sk.reference.lora_linear), inputs)


def arguments(**other: object) -> dict[str, object]:
    shapes = {"input": (2, 6), "weight": (4, 6), "bias": (4,), "lora_a": (3, 6), "lora_b": (4, 3)}
    return {name: torch.randn(shape) for name, shape in shapes.items()} | other


@pytest.mark.parametrize("function", [sk.lora_linear, sk.reference.lora_linear])
@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"input": "x"}, TypeError, r"input is a str \('x'\), expected a tensor"),
        (
            {"weight": torch.ones(4, 6).double()},
            TypeError,
            "weight has dtype torch.float64, expected the input's",
        ),
        (
            {"input": torch.ones(2, 5)},
            ValueError,
            r"input has shape \(2, 5\), expected \(\.\.\., in_features=6\)",
        ),
        ({"lora_a": None}, TypeError, "lora_a is a NoneType, expected a tensor"),
        ({"lora_b": torch.ones(4, 3, dtype=torch.bool)}, TypeError, "lora_b has dtype torch.bool"),
        (
            {"lora_a": torch.ones(6, 3)},
            ValueError,
            r"lora_a has shape \(6, 3\), expected \(rank, in_features=6\)",
        ),
        ({"lora_a": torch.ones(6)}, ValueError, r"lora_a has shape \(6,\), expected \(rank, in_features=6\)"),
        (
            {"lora_b": torch.ones(3, 4)},
            ValueError,
            r"lora_b has shape \(3, 4\), expected \(out_features=4, rank=3\)",
        ),
        (
            {"lora_a": torch.ones(0, 6), "lora_b": torch.ones(4, 0)},
            ValueError,
            r"lora_a has shape \(0, 6\), rank 0, expected a rank of at least 1",
        ),
        (
            {"lora_a": torch.ones(5, 6), "lora_b": torch.ones(4, 5)},
            ValueError,
            r"lora_a has shape \(5, 6\), rank 5, expected a rank of at most 4, the smaller of in_features=6",
        ),
        (
            {"lora_a": torch.ones(3, 6, device="meta")},
            ValueError,
            "lora_a is on meta, expected the input's device cpu",
        ),
        ({"bias": torch.ones(6)}, ValueError, r"bias has shape \(6,\), expected \(out_features=4,\)"),
        ({"scaling": "2"}, TypeError, r"scaling is a str \('2'\), expected a number"),
        ({"scaling": None}, TypeError, "scaling is a NoneType, expected a number"),
        ({"scaling": float("nan")}, ValueError, "scaling is nan, expected a finite number"),
        ({"dropout_p": 1.0}, ValueError, r"dropout_p is 1.0, expected a number in \[0, 1\)"),
        ({"dropout_p": -0.1}, ValueError, r"dropout_p is -0.1, expected a number in \[0, 1\)"),
        ({"dropout_p": float("nan")}, ValueError, "dropout_p is nan"),
        ({"dropout_p": True}, TypeError, r"dropout_p is a bool \(True\), expected a number in \[0, 1\)"),
    ],
)
def test_wrong_arguments(function: Callable, other: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        function(**arguments(**other))
