"""sk.linear: values, the whole contract of derivatives and transforms, and its wrong arguments."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ops import op_contract
from torch import Tensor

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.ops.checks import ACTIVATIONS

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
KINKED = ("relu", "leaky_relu", "relu2")


def problem(
    rows: tuple[int, ...] = (2, 3), in_features: int = 4, out_features: int = 3, kinked: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight, bias; where kinked, no product comes close to zero."""
    input, weight, bias = (
        torch.randn(*shape, dtype=torch.float64)
        for shape in ((*rows, in_features), (out_features, in_features), (out_features,))
    )
    if kinked:
        product = torch.nn.functional.linear(input, weight, bias)
        while bool((product.abs() < 0.05).any()):
            input = torch.randn_like(input)
            product = torch.nn.functional.linear(input, weight, bias)
    return input, weight, bias


def of(activation: str | None, function: Callable = sk.linear) -> Callable:
    return lambda input, weight, bias=None: function(input, weight, bias, activation)


@pytest.mark.parametrize("activation", [None, "swish", *ACTIVATIONS])
def test_derivatives(activation: str | None) -> None:
    inputs = problem((3,), 2, 2, kinked=activation in KINKED)
    function, reference = of(activation), of(activation, sk.reference.linear)
    op_contract.check_first_order(function, inputs)
    op_contract.check_second_order(function, inputs)
    op_contract.check_wanted_gradients(function, reference, inputs)


@pytest.mark.parametrize("activation", [None, "gelu"])
def test_contract(activation: str | None) -> None:
    function, reference, inputs = of(activation), of(activation, sk.reference.linear), problem()
    op_contract.check_nestings(function, reference, problem((2,), 2, 2))
    op_contract.check_nestings(function, reference, problem((1,), 2, 1), orders=(3,))
    op_contract.check_vmap(function, inputs)
    op_contract.check_vmap(function, problem(()))
    op_contract.check_vmap(function, inputs[:2])
    op_contract.check_batched_gradients(function, inputs)
    op_contract.check_derivatives_without_recording(function, inputs)
    op_contract.check_absent_gradients(function, inputs)
    op_contract.check_checkpoint(function, inputs)


@native
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_compiled(activation: str | None) -> None:
    function, inputs = of(activation), problem()
    op_contract.check_compile(function, inputs, op="linear_forward")
    op_contract.check_compile_with_transforms(function, inputs)
    op_contract.check_export(function, inputs, op="linear_forward")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_error(activation: str | None, dtype: torch.dtype) -> None:
    """Odd sizes; inputs as a network has them."""
    input, weight, bias = problem((3, 43), 63, 100)
    inputs = (input, weight / 8, bias)
    op_contract.check_error(of(activation), of(activation, sk.reference.linear), inputs, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "in_features", "out_features"),
    [
        ((1,), 257, 1),
        ((257,), 1, 100),
        ((), 63, 63),
        ((2, 0), 5, 3),
        ((7,), 0, 3),
        ((0,), 3, 2),
        ((5,), 3, 0),
    ],
)
def test_sizes(rows: tuple[int, ...], in_features: int, out_features: int, dtype: torch.dtype) -> None:
    input, weight, bias = problem(rows, in_features, out_features)
    inputs = (input, weight / max(in_features, 1) ** 0.5, bias)
    for activation in (None, "silu"):
        for count in (2, 3):
            function, reference = of(activation), of(activation, sk.reference.linear)
            op_contract.check_error(function, reference, inputs[:count], dtype)


def strided_views(input: Tensor, weight: Tensor, bias: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The same values in other layouts."""
    wide_input, wide_weight = (
        torch.full((*t.shape[:-1], 2 * t.shape[-1]), torch.nan) for t in (input, weight)
    )
    wide_input, wide_weight = wide_input.to(input.dtype), wide_weight.to(weight.dtype)
    wide_input[..., ::2], wide_weight[:, 1::2] = input, weight
    swapped = input.transpose(0, 1).contiguous().transpose(0, 1)
    return [
        (input, weight.mT.contiguous().mT, bias),  # the weight of GPT-2's Conv1D
        (swapped, weight, bias),
        (input.movedim(-1, 0).contiguous().movedim(0, -1), weight, torch.stack([bias, bias], 1)[:, 0]),
        (wide_input[..., ::2], wide_weight[:, 1::2], bias),
        (input, weight, bias[:1].expand(bias.shape)),
        (input[:, :1].expand(input.shape), weight, bias),
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", range(6))
def test_strides(layout: int, dtype: torch.dtype) -> None:
    dense = tuple(tensor.to(dtype) for tensor in problem((5, 7), 33, 20))
    views = strided_views(*dense)[layout]
    inputs = tuple(view.detach().contiguous() for view in views)
    found = []
    for own in (views, inputs):
        own = tuple(tensor.detach().requires_grad_() for tensor in own)
        out = sk.linear(*own, "gelu")
        gradient = torch.linspace(-1, 1, out.numel(), dtype=dtype).reshape(out.shape)
        found.append((out, *torch.autograd.grad(out, own, gradient)))
        spread = gradient[..., :1].expand(out.shape)  # as a sum over the last dimension gives
        found[-1] += torch.autograd.grad(sk.linear(*own, "gelu"), own, spread)
    for tested, expected in zip(*found, strict=True):
        assert op_contract.relative_error(tested, expected) <= 2 * op_contract.GRANTED[dtype]
    assert all(gradient.is_contiguous() for gradient in found[0][1:])


def test_repeatable_and_clean() -> None:
    for activation in (None, "gelu"):
        inputs = problem((65,), 33, 50)
        op_contract.check_repeatable(of(activation), inputs)
        op_contract.check_poisoned(of(activation), inputs)
        op_contract.check_poisoned(of(activation), [t.bfloat16() for t in inputs])


@native
def test_opcheck() -> None:
    for activation, keep in (("", False), ("gelu", True)):
        input, weight, bias = (tensor.requires_grad_() for tensor in problem())
        op = torch.ops.seo_kernels.linear_forward.default
        torch.library.opcheck(op, (input, weight, bias, activation, keep))
        torch.library.opcheck(op, (input.detach().bfloat16(), weight.detach().bfloat16(), None, "", False))
        out, preactivation = (tensor.detach() for tensor in op(input, weight, bias, activation, keep))
        tensors = (torch.randn_like(out), input.detach(), weight.detach(), bias.detach(), preactivation)
        for wanted in ([True, True, True], [False, True, False]):
            torch.library.opcheck(
                torch.ops.seo_kernels.linear_backward.default, (*tensors, activation, wanted)
            )


@native
def test_backward_without_preactivation() -> None:
    """What forward was not asked to keep, backward computes again: the same gradients."""
    input, weight, bias = problem((5, 9), 17, 21)
    out, kept = torch.ops.seo_kernels.linear_forward(input, weight, bias, "mish", True)
    again, empty = torch.ops.seo_kernels.linear_forward(input, weight, bias, "mish", False)
    assert torch.equal(out, again)
    assert kept.shape == out.shape
    assert empty.shape == (0,)
    gradient = torch.randn_like(out)
    found = [
        torch.ops.seo_kernels.linear_backward(
            gradient, input, weight, bias, preactivation, "mish", [True, True, True]
        )
        for preactivation in (kept, empty, None)
    ]
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


@native
def test_what_is_kept() -> None:
    """The input of the activation where there is one, nothing else; and nothing where nobody asks."""
    inputs = problem((5,))
    assert op_contract.saved_tensors(of(None), inputs) == []
    (kept,) = op_contract.saved_tensors(of("gelu"), inputs)
    assert kept.shape == (5, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_extreme_inputs(activation: str | None, dtype: torch.dtype) -> None:
    input, weight, bias = (tensor.to(dtype) for tensor in problem((8,), 5, 3))
    inputs = (op_contract.with_extremes(input), weight, bias)
    op_contract.check_extreme(of(activation), of(activation, sk.reference.linear), inputs)


def test_autocast() -> None:
    input, weight, bias = (tensor.float().requires_grad_() for tensor in problem())
    with torch.autocast("cpu", torch.bfloat16):
        out = sk.linear(input, weight, bias, "gelu")
    assert out.dtype == torch.bfloat16
    op_contract.check_error(
        lambda *t: of("gelu")(*(x.bfloat16() for x in t)),
        lambda *t: of("gelu", sk.reference.linear)(*t),
        (input, weight, bias),
        torch.bfloat16,
    )
    cast = (tensor.bfloat16() for tensor in (input, weight, bias))
    torch.testing.assert_close(out, sk.linear(*cast, "gelu"), rtol=0, atol=0)
    gradients = torch.autograd.grad(out.sum(), (input, weight, bias))
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        assert sk.linear(input.double(), weight.double()).dtype == torch.float64


def test_bias_of_another_dtype() -> None:
    input, weight, bias = problem()
    bias = bias.float().requires_grad_()
    out = sk.linear(input.bfloat16(), weight.bfloat16(), bias)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert bias.grad.dtype == torch.float32


def test_meta_tensors() -> None:
    out = sk.linear(torch.empty(2, 3, device="meta"), torch.empty(4, 3, device="meta"), None, "relu")
    assert out.shape == (2, 4)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_input(layout: torch.layout) -> None:
    parts = [torch.randn(length, 3) for length in (2, 4, 1)]
    weight, bias = torch.randn(5, 3, requires_grad=True), torch.randn(5)
    nested = torch.nested.nested_tensor(parts, layout=layout)
    out = sk.linear(nested, weight, bias, "gelu")
    assert out.layout == layout
    expected = [sk.linear(part, weight, bias, "gelu") for part in parts]
    torch.testing.assert_close(list(out.unbind()), expected)
    gradients = [
        torch.autograd.grad(sum(part.sin().sum() for part in each), weight)[0]
        for each in (out.unbind(), expected)
    ]
    torch.testing.assert_close(*gradients)


def arguments(**other: object) -> dict[str, object]:
    return {"input": torch.randn(2, 3), "weight": torch.randn(4, 3), "bias": torch.randn(4)} | other


@pytest.mark.parametrize("function", [sk.linear, sk.reference.linear])
@pytest.mark.parametrize(
    ("other", "error", "message"),
    [
        ({"input": [1.0]}, TypeError, r"input is a list, expected a tensor \(\.\.\., in_features\)"),
        ({"weight": None}, TypeError, r"weight is a NoneType, expected a tensor"),
        ({"input": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "input has dtype torch.int64"),
        ({"input": torch.ones(2, 3).to_sparse()}, TypeError, "input has layout torch.sparse_coo"),
        (
            {"weight": torch.ones(4, 3).half()},
            TypeError,
            "weight has dtype torch.float16, expected the input's torch.float32",
        ),
        ({"bias": 1.0}, TypeError, r"bias is a float \(1.0\), expected a tensor"),
        ({"bias": torch.ones(4, dtype=torch.int32)}, TypeError, "bias has dtype torch.int32"),
        (
            {"input": torch.ones(2, 5)},
            ValueError,
            r"input has shape \(2, 5\), expected \(\.\.\., in_features=3\) for a weight of shape \(4, 3\)",
        ),
        ({"input": torch.ones(())}, ValueError, r"input has shape \(\), expected \(\.\.\., in_features=3\)"),
        (
            {"weight": torch.ones(3)},
            ValueError,
            r"weight has shape \(3,\), expected \(out_features, in_features\)",
        ),
        ({"bias": torch.ones(1)}, ValueError, r"bias has shape \(1,\), expected \(out_features=4,\)"),
        ({"bias": torch.ones(1, 4)}, ValueError, r"bias has shape \(1, 4\)"),
        (
            {"weight": torch.ones(4, 3, device="meta")},
            ValueError,
            "weight is on meta, expected the input's device cpu",
        ),
        (
            {"activation": "gellu"},
            ValueError,
            r"activation is a str \('gellu'\), expected one of gelu, gelu_tanh, relu, silu, .* swish",
        ),
        ({"activation": ""}, ValueError, "activation is a str"),
        ({"activation": torch.relu}, TypeError, "activation is a builtin_function_or_method, expected one"),
    ],
)
def test_wrong_arguments(function: Callable, other: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        function(**arguments(**other))
