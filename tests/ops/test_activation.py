"""sk.bias_act and sk.gated_act: the whole contract of derivatives and transforms, layouts, errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from ops import op_contract
from torch import Tensor

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.ops.checks import ACTIVATIONS

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
pytestmark = pytest.mark.usefixtures("poisoned_memory")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LEAST_DISTANCE = 0.05  # from a kink


def off_kink(values: Tensor) -> Tensor:
    return torch.where(values.abs() < LEAST_DISTANCE, values + 3 * LEAST_DISTANCE, values)


def problem(*shape: int) -> tuple[Tensor, Tensor]:
    """Input and bias whose sum is away from zero."""
    bias = torch.randn(shape[-1], dtype=torch.float64)
    return off_kink(2 * torch.randn(shape, dtype=torch.float64)) - bias, bias


def halves(*shape: int) -> tuple[Tensor, Tensor]:
    """Gate, away from zero, and up."""
    return off_kink(2 * torch.randn(shape, dtype=torch.float64)), torch.randn(shape, dtype=torch.float64)


def biased(activation: str, function: Callable = sk.bias_act, **options: float) -> Callable:
    return lambda input, bias=None: function(input, bias, activation, **options)


def gated(activation: str, function: Callable = sk.gated_act) -> Callable:
    return lambda gate, up=None: function(gate, activation, up=up)


# name: (function, reference, inputs of a shape)
CASES: dict[str, tuple[Callable, Callable, Callable[..., tuple[Tensor, ...]]]] = {
    "bias": (biased("gelu"), biased("gelu", sk.reference.bias_act), problem),
    "no bias": (biased("mish"), biased("mish", sk.reference.bias_act), lambda *shape: problem(*shape)[:1]),
    "slope": (
        biased("leaky_relu", negative_slope=0.3),
        biased("leaky_relu", sk.reference.bias_act, negative_slope=0.3),
        problem,
    ),
    "one tensor": (
        gated("silu"),
        gated("silu", sk.reference.gated_act),
        lambda *shape: (torch.cat(halves(*shape), -1),),
    ),
    "two tensors": (gated("gelu_tanh"), gated("gelu_tanh", sk.reference.gated_act), halves),
}
case = pytest.mark.parametrize("name", CASES)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "swish"])
def test_derivatives(activation: str) -> None:
    for function, inputs in (
        (biased(activation), problem(2, 3)),
        (biased(activation), problem(4)[:1]),
        (gated(activation), halves(2, 2)),
        (gated(activation), (torch.cat(halves(2, 2), -1),)),
    ):
        op_contract.check_first_order(function, inputs)
        op_contract.check_second_order(function, inputs)


@case
def test_contract(name: str) -> None:
    function, reference, inputs = CASES[name]
    op_contract.check_nestings(function, reference, inputs(2, 2))
    op_contract.check_wanted_gradients(function, reference, inputs(3, 2))
    op_contract.check_absent_gradients(function, inputs(3, 2))
    op_contract.check_batched_gradients(function, inputs(3, 2))
    op_contract.check_vmap(function, inputs(3, 2))
    op_contract.check_vmap(function, inputs(2))
    op_contract.check_checkpoint(function, inputs(3, 2))


@case
def test_third_order(name: str) -> None:
    function, reference, inputs = CASES[name]
    op_contract.check_nestings(function, reference, inputs(1, 2), orders=(3,))


@native
@case
def test_compiled(name: str) -> None:
    function, _, inputs = CASES[name]
    op = "gated_act_forward" if "tensor" in name else "bias_act_forward"
    op_contract.check_compile(function, inputs(3, 5), op=op)
    if name in ("bias", "one tensor"):
        op_contract.check_compile_with_transforms(function, inputs(3, 4))
    op_contract.check_export(function, inputs(3, 5), op=op)


@native
@pytest.mark.parametrize("wanted", itertools.product((False, True), repeat=2))
def test_op(wanted: tuple[bool, bool]) -> None:
    """The registered ops by themselves, absent gradients included."""
    input, bias = (tensor.requires_grad_(want) for tensor, want in zip(problem(3, 4), wanted, strict=True))
    ops = torch.ops.seo_kernels
    gradient = torch.randn_like(input)
    gate, up = input.detach().requires_grad_(wanted[0]), torch.randn_like(input).requires_grad_(wanted[1])
    whole = torch.randn(3, 8, dtype=torch.float64, requires_grad=wanted[0])
    for op, arguments in (
        (ops.bias_act_forward, (input, bias, "gelu", 0.01)),
        (ops.bias_act_forward, (input, None, "leaky_relu", 0.2)),
        (ops.bias_act_backward, (gradient, input.detach(), bias.detach(), "silu", 0.01, list(wanted))),
        (ops.gated_act_forward, (gate, up, "mish")),
        (ops.gated_act_forward, (whole, None, "mish")),
        (ops.gated_act_backward, (gradient, gate.detach(), up.detach(), "tanh", list(wanted))),
        (ops.gated_act_backward, (gradient, whole.detach(), None, "tanh", [wanted[0], False])),
    ):
        torch.library.opcheck(op, arguments)
    absent = ops.bias_act_backward(gradient, input.detach(), bias.detach(), "silu", 0.01, list(wanted))
    assert [tuple(tensor.shape) for tensor in absent] == [
        (3, 4) if wanted[0] else (0,),
        (4,) if wanted[1] else (0,),
    ]


@case
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(257, 100), (5, 3, 63), (1, 1), (700, 3), (40, 1), (2, 5000), (1000,)])
def test_sizes(name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Rows that end within a vector, rows that are joined, and enough of them for two threads."""
    function, reference, inputs = CASES[name]
    op_contract.check_error(function, reference, inputs(*shape), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_larger_than_the_caches(dtype: torch.dtype) -> None:
    """They are written past the caches, to the same bits as the rows one by one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # the fewer threads, the less their caches hold
    try:
        rows, columns = 3100, 8192 // dtype.itemsize  # 25 MB
        input, up, gradient = (torch.randn(rows, columns).to(dtype) for _ in range(3))
        some = [0, rows // 2, rows - 1]
        for function in (
            lambda a, b: sk.bias_act(a, b[0], "gelu"),
            lambda a, b: sk.gated_act(a, "silu", up=b),
        ):
            found = []
            for at in (slice(None), some):
                own = input[at].clone().requires_grad_()
                out = function(own, up[at])
                found.append((out, *torch.autograd.grad(out, own, gradient[at])))
            for whole, few in zip(*found, strict=True):
                assert torch.equal(whole[some], few)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_error(activation: str, dtype: torch.dtype) -> None:
    op_contract.check_error(
        biased(activation), biased(activation, sk.reference.bias_act), problem(130, 257), dtype
    )
    op_contract.check_error(
        gated(activation), gated(activation, sk.reference.gated_act), halves(130, 101), dtype
    )


@case
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4)])
def test_empty(name: str, shape: tuple[int, ...]) -> None:
    function, reference, inputs = CASES[name]
    torch.testing.assert_close(
        op_contract.results(function, inputs(*shape)), op_contract.results(reference, inputs(*shape))
    )


def test_no_dimensions() -> None:
    for activation in ACTIVATIONS:
        input = torch.tensor(-0.75, dtype=torch.float64)
        op_contract.check_error(
            biased(activation), biased(activation, sk.reference.bias_act), (input,), input.dtype
        )
        op_contract.check_error(
            gated(activation), gated(activation, sk.reference.gated_act), (input, 2 * input), input.dtype
        )
    op_contract.check_first_order(biased("gelu"), (input,))
    op_contract.check_vmap(gated("gelu"), (input.reshape(1)[0], input.reshape(1)[0]), subsets=[])


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same values (3, 4, 10) otherwise in memory; what lies between is NaN."""
    gaps = torch.full((3, 4, 25), torch.nan, dtype=tensor.dtype)
    gaps[..., 3:13] = tensor
    every_other = torch.full((3, 4, 20), torch.nan, dtype=tensor.dtype)
    every_other[..., ::2] = tensor
    return {
        "contiguous": tensor,
        "rows apart": gaps[..., 3:13],
        "every other column": every_other[..., ::2],
        "columns first": tensor.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "outer dimensions swapped": tensor.transpose(0, 1).contiguous().transpose(0, 1),
        "expanded rows": tensor[:, :1].expand(3, 4, 10),
        "expanded columns": tensor[..., :1].expand(3, 4, 10),
        "one value": tensor[:1, :1, :1].expand(3, 4, 10),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", layouts(torch.empty(3, 4, 10)))
def test_memory_layouts(layout: str, dtype: torch.dtype) -> None:
    """Every argument, gradients that arrive included, of any strides: the same bits as contiguous ones.

    But for the bias's gradient, a sum over rows, which are taken in the order of the memory.
    """
    first, second, gradient = (layouts(torch.randn(3, 4, 10, dtype=dtype))[layout] for _ in range(3))
    bias = torch.randn(20, dtype=dtype)[::2]
    functions = {
        "bias_act": lambda a, b, c: sk.bias_act(a, c, "gelu"),
        "gated_act": lambda a, b, c: sk.gated_act(a, "silu", up=b),
        "halves": lambda a, b, c: sk.gated_act(a, "silu"),
    }
    for name, function in functions.items():
        arrived = gradient[..., :5] if name == "halves" else gradient
        found = []
        for as_it_is in (True, False):
            own = [t if as_it_is else t.contiguous() for t in (first, second, bias)]
            own = [t.detach().requires_grad_() for t in own]
            out = function(*own)
            assert out.is_contiguous()
            with_gradient = arrived if as_it_is else arrived.contiguous()
            grads = torch.autograd.grad(out, own, with_gradient, allow_unused=True)
            found.append((out, *(g for g in grads if g is not None)))
        if name == "bias_act":
            torch.testing.assert_close(found[0][2], found[1][2])
            found = [results[:2] for results in found]
        torch.testing.assert_close(*found, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("threads", [1, 2])
def test_repeatable(threads: int) -> None:
    """Bitwise, the bias gradient over many rows included."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        inputs = tuple(tensor.float() for tensor in problem(3000, 70))
        op_contract.check_repeatable(biased("gelu"), inputs)
        op_contract.check_repeatable(gated("silu"), (inputs[0], inputs[0] + 1))
    finally:
        torch.set_num_threads(before)


def test_bias_gradient_of_many_rows() -> None:
    """The sum over 60000 rows loses no more than rounding once."""
    input, bias = torch.full((60000, 5), 0.1), torch.zeros(5, requires_grad=True)
    sk.bias_act(input, bias, "tanh").sum().backward()
    exact = 60000 * (1 - torch.tanh(input[0].double()) ** 2)
    torch.testing.assert_close(bias.grad.double(), exact, rtol=3e-7, atol=0)


def test_bias_of_another_dtype() -> None:
    input, bias = (tensor.requires_grad_() for tensor in problem(3, 4))
    low = input.detach().bfloat16().requires_grad_()
    out = sk.bias_act(low, bias, "silu")
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert (low.grad.dtype, bias.grad.dtype) == (torch.bfloat16, torch.float64)


def test_autocast() -> None:
    """The dtype of the input stays, as for torch's activations; gate and up meet in the wider one."""
    weight = torch.randn(4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        low = weight @ weight
        assert sk.bias_act(low, torch.randn(4)).dtype == torch.bfloat16
        assert sk.bias_act(weight).dtype == torch.float32
        assert sk.gated_act(low, up=weight).dtype == torch.float32
        assert sk.gated_act(low, up=low).dtype == torch.bfloat16
    with pytest.raises(TypeError, match="up has dtype"):
        sk.gated_act(low, up=weight)


X = torch.randn(3, 4)
ERRORS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: sk.bias_act([1.0]), TypeError, "input is a list, expected a tensor"),
    (lambda: sk.bias_act(X.int()), TypeError, "input has dtype torch.int32, expected float64"),
    (lambda: sk.bias_act(X > 0), TypeError, "input has dtype torch.bool"),
    (lambda: sk.bias_act(X, X[0].int()), TypeError, "bias has dtype torch.int32"),
    (lambda: sk.bias_act(X, 1.0), TypeError, r"bias is a float \(1.0\), expected a tensor"),
    (lambda: sk.bias_act(X, X), ValueError, r"bias has shape \(3, 4\), expected \(n=4,\)"),
    (lambda: sk.bias_act(X, X[:, 0]), ValueError, r"bias has shape \(3,\), expected \(n=4,\)"),
    (lambda: sk.bias_act(X[0, 0], X[0]), ValueError, r"input has shape \(\), expected \(..., n\)"),
    (lambda: sk.bias_act(X, X[0].to("meta")), ValueError, "bias is on meta"),
    (lambda: sk.bias_act(X, None, "glu"), ValueError, "'glu'.*expected one of gelu, gelu_tanh, .*swish"),
    (lambda: sk.bias_act(X, None, 3), TypeError, "activation is an int"),
    (lambda: sk.bias_act(X, negative_slope=0.2), ValueError, "negative_slope is 0.2.*only leaky_relu"),
    (lambda: sk.bias_act(X, None, "leaky_relu", negative_slope="a"), TypeError, "negative_slope"),
    (lambda: sk.bias_act(X, None, "leaky_relu", negative_slope=torch.inf), ValueError, "negative_slope"),
    (lambda: sk.gated_act(X[:, :3]), ValueError, r"input has shape \(3, 3\), expected \(..., 2n\)"),
    (lambda: sk.gated_act(X[0, 0]), ValueError, r"input has shape \(\)"),
    (
        lambda: sk.gated_act(X, up=X[:, :2]),
        ValueError,
        r"up has shape \(3, 2\), expected the input's \(3, 4\)",
    ),
    (lambda: sk.gated_act(X, up=X.double()), TypeError, "up has dtype torch.float64"),
    (lambda: sk.gated_act(X, up=3), TypeError, "up is an int"),
    (lambda: sk.gated_act(X, "softmax"), ValueError, "'softmax'.*expected one of"),
    (lambda: sk.gated_act(X.long()), TypeError, "input has dtype torch.int64"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_wrong_arguments(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@native
def test_wrong_arguments_of_the_op() -> None:
    """Those who call the op itself (TorchScript) are told too."""
    ops = torch.ops.seo_kernels
    for call in (
        lambda: ops.bias_act_forward(X, None, "glu", 0.01),
        lambda: ops.bias_act_forward(X, X, "gelu", 0.01),
        lambda: ops.bias_act_forward(X.int(), None, "gelu", 0.01),
        lambda: ops.bias_act_backward(X[:2], X, None, "gelu", 0.01, [True, True]),
        lambda: ops.bias_act_backward(X.double(), X, None, "gelu", 0.01, [True, True]),
        lambda: ops.gated_act_forward(X[:, :3], None, "gelu"),
        lambda: ops.gated_act_forward(X, X[:2], "gelu"),
        lambda: ops.gated_act_backward(X, X, None, "gelu", [True, True]),
    ):
        with pytest.raises(ValueError, match=r"input|bias|up|grad_out|activation"):
            call()
