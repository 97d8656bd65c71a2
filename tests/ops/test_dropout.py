"""sk.dropout: which elements are kept, and the contract of derivatives and transforms."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from ops import op_contract
from ops.instruction_sets import LOWER, run_again
from torch import Tensor
from torch.func import vmap

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.ops.dropout import DropoutFunction
from seo_kernels.reference.dropout import dropout_op
from seo_kernels.reference.philox import keep_elements

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
pytestmark = pytest.mark.usefixtures("poisoned_memory")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# whole blocks of random words, parts of them, several threads' work, no dimensions
SHAPES = ((), (1,), (127,), (128,), (257, 100), (5, 3, 63), (2, 5000), (300, 150), (3, 0, 4))
P = 0.3


def dropping(p: float = P, function: Callable = sk.dropout) -> Callable[[Tensor], Tensor]:
    """With the same bits in every call."""
    return op_contract.seeded(lambda input: function(input, p))


def of_seed(function: Callable = DropoutFunction.apply) -> Callable[[Tensor], Tensor]:
    """Below the draw of the seed, for transforms that let nobody draw."""
    return lambda input: function(input, torch.tensor(7), P)


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    """The same values, of a shape (A, B, C), otherwise in memory; what lies between is NaN."""
    first, second, third = tensor.shape
    apart = torch.full((first, second, third + 5), torch.nan, dtype=tensor.dtype)
    apart[..., 2 : third + 2] = tensor
    every_other = torch.full((first, second, 2 * third), torch.nan, dtype=tensor.dtype)
    every_other[..., ::2] = tensor
    shifted = torch.full((tensor.numel() + 1,), torch.nan, dtype=tensor.dtype)
    shifted[1:] = tensor.flatten()
    return {
        "contiguous": tensor,
        "rows apart": apart[..., 2 : third + 2],
        "every other column": every_other[..., ::2],
        "columns first": tensor.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        "outer dimensions swapped": tensor.transpose(0, 1).contiguous().transpose(0, 1),
        "all reversed": tensor.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "off the grid": shifted[1:].view(tensor.shape),
        "expanded rows": tensor[:, :1].expand(tensor.shape),
        "expanded columns": tensor[..., :1].expand(tensor.shape),
        "one value": tensor[:1, :1, :1].expand(tensor.shape),
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("p", [1e-9, 0.1, 1 - 2**-20, 1.0])
def test_as_the_reference(dtype: torch.dtype, shape: tuple[int, ...], p: float) -> None:
    """Bit for bit: outputs and gradients."""
    input = torch.randn(shape, dtype=torch.float64).to(dtype)
    found, expected = (
        op_contract.results(dropping(p, f), [input], [torch.ones_like(input)])
        for f in (sk.dropout, sk.reference.dropout)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert all(tensor.dtype == dtype for tensor in found)


@pytest.mark.parametrize("half", [0x1999, 0x8000, 0xFFFF, 0])
def test_upper_half_that_decides_nothing(half: int) -> None:
    """Elements whose upper 16 bits are the threshold's are kept by the lower ones."""
    shape, seed = (1 << 18,), torch.tensor(5)
    kept = [keep_elements(seed, shape, (half * 65536 + lower) / 2**32) for lower in (0, 0x4000, 0x10000 - 1)]
    assert bool((kept[0] >= kept[1]).all() and (kept[1] >= kept[2]).all())
    between = kept[0] & ~kept[2]  # some 4
    assert 0 < int(between.sum()) < 16
    for lower, want in zip((0, 0x4000, 0x10000 - 1), kept, strict=True):
        p = (half * 65536 + lower) / 2**32
        if p > 0.0 and _library.available("cpu"):
            got = torch.ops.seo_kernels.dropout(torch.ones(shape), seed, p) != 0
            assert torch.equal(got, want)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics(p: float, dtype: torch.dtype) -> None:
    """Kept are independent shares of 1 - p, wherever one looks, exactly scaled."""
    rows, columns = 512, 1024
    torch.manual_seed(11)
    out = sk.dropout(torch.ones(rows, columns, dtype=dtype), p)
    kept = out != 0
    assert set(out.unique().tolist()) == {0.0, float(torch.tensor(1 / (1 - p), dtype=dtype))}
    again = sk.dropout(torch.ones(rows, columns, dtype=dtype), p) != 0
    assert not torch.equal(kept, again)
    x = (kept.double() - (1 - p)) / math.sqrt(p * (1 - p))  # mean 0, variance 1 for each element

    def deviations(values: Tensor) -> Tensor:
        """Sums of n independent elements over the root of n: standard normal but for their tails."""
        return values.sum(-1) / math.sqrt(values.shape[-1])

    assert float(deviations(x.flatten()).abs()) < 4.5
    # chi-square: of the sums over parts, in the order of words, vectors, rows, columns
    for groups in (
        x,
        x.mT,
        x.reshape(-1, 128).mT,
        x.reshape(-1, 4, 16, 2).permute(2, 0, 1, 3).flatten(1),
        x.reshape(-1, 32).mT,
    ):
        count = groups.shape[0]
        chi_square = float(deviations(groups).square().sum())
        assert abs(chi_square - count) < 5 * math.sqrt(2 * count), (count, chi_square)
    # neighbours at the distances that words and vectors suggest, other draws, and the reverse
    flat = x.flatten()
    for distance in (1, 2, 16, 32, 64, 128, 1024, 2048):
        assert float(deviations(flat[distance:] * flat[:-distance]).abs()) < 4.5, distance
    other = (again.double() - (1 - p)) / math.sqrt(p * (1 - p))
    assert float(deviations(flat * other.flatten()).abs()) < 4.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(3, 4, 10), (5, 33, 129), (37, 2, 300)])
@pytest.mark.parametrize("layout", layouts(torch.empty(1, 1, 1)))
def test_memory_layouts(layout: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The same bits as of contiguous tensors, arriving gradients included; results lie as torch's would."""
    input, gradient = (layouts(torch.randn(shape).to(dtype))[layout] for _ in range(2))
    found = []
    for as_it_is in (True, False):
        own = (input if as_it_is else input.contiguous()).detach().requires_grad_()
        out = dropping()(own)
        (grad,) = torch.autograd.grad(out, own, gradient if as_it_is else gradient.contiguous())
        found.append((out.detach(), grad))
    torch.testing.assert_close(*found, rtol=0, atol=0)
    assert found[0][0].stride() == F.dropout(input, P).stride()
    # an arriving gradient that lies otherwise than the input
    own = input.contiguous().detach().requires_grad_()
    torch.testing.assert_close(
        torch.autograd.grad(dropping()(own), own, gradient)[0], found[1][1], rtol=0, atol=0
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_number_of_threads(transposed: bool) -> None:
    before = torch.get_num_threads()
    input = torch.randn(700, 1001)
    found = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            found.append(op_contract.results(dropping(), [input.mT if transposed else input]))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=0)


def test_gradient_is_the_mask() -> None:
    input = torch.randn(300, 70, requires_grad=True)
    out = sk.dropout(input, P)
    (gradient,) = torch.autograd.grad(out, input, torch.ones_like(out))
    mask = torch.where(out != 0, 1 / (1 - P), 0.0)
    torch.testing.assert_close(gradient, mask)
    torch.testing.assert_close(out, input * mask)


def test_nothing_is_kept_but_the_seed() -> None:
    def function(input: Tensor) -> Tensor:
        return sk.dropout(input * 2, P)  # of the product too nothing is left

    (seed,) = op_contract.saved_tensors(function, [torch.randn(100, 30)])
    assert (seed.dtype, seed.numel()) == (torch.int64, 1)


def test_what_is_dropped_is_zero() -> None:
    """Whatever it was, and backwards whatever arrives."""
    input = torch.tensor([torch.nan, torch.inf, -torch.inf, 1e38]).repeat(200)
    kept = dropping()(torch.ones(800)) != 0
    out = dropping()(input)
    assert bool((out[~kept] == 0).all())
    torch.testing.assert_close(out[kept], input[kept] / (1 - P), equal_nan=True)
    own = torch.randn(800, requires_grad=True)
    (gradient,) = torch.autograd.grad(dropping()(own), own, input)
    assert bool((gradient[~kept] == 0).all())
    torch.testing.assert_close(gradient[kept], input[kept] / (1 - P), equal_nan=True)
    own = input.clone().requires_grad_()
    out = sk.dropout(own, 1.0)
    (gradient,) = torch.autograd.grad(out, own, input)
    assert bool((out == 0).all() and (gradient == 0).all())


@pytest.mark.parametrize("function", [sk.dropout, sk.reference.dropout])
def test_where_nothing_is_dropped(function: Callable) -> None:
    """The input itself, as F.dropout, and no random number is drawn."""
    input = torch.randn(5, requires_grad=True)
    state = torch.get_rng_state()
    assert function(input, 0.0) is input
    assert function(input, 0.4, training=False) is input
    assert function(torch.arange(3), 0.4, training=False).tolist() == [0, 1, 2]
    assert torch.equal(torch.get_rng_state(), state)
    assert F.dropout(input, 0.0) is input
    assert F.dropout(input, 0.4, training=False) is input


def test_derivatives() -> None:
    for input in (torch.randn(7, 5), torch.randn(3, 2, 4).mT):
        op_contract.check_first_order(dropping(), [input.double()], batched=False)
        op_contract.check_second_order(dropping(), [input.double()], batched=False)


def test_contract() -> None:
    function, reference = of_seed(), of_seed(dropout_op)
    inputs = (torch.randn(3, 4, dtype=torch.float64),)
    op_contract.check_nestings(function, reference, inputs)
    op_contract.check_nestings(function, reference, (inputs[0][:1, :2],), orders=(3,))
    op_contract.check_wanted_gradients(function, reference, inputs)
    op_contract.check_absent_gradients(function, inputs)
    op_contract.check_batched_gradients(function, inputs)
    op_contract.check_vmap(function, inputs)
    op_contract.check_derivatives_without_recording(function, inputs)
    op_contract.check_repeatable(function, (torch.randn(300, 200),))
    op_contract.check_poisoned(function, (torch.randn(300, 2, 20).transpose(0, 1),))
    op_contract.check_checkpoint(lambda input: sk.dropout(input, P), inputs)


def test_randomness_of_vmap() -> None:
    """Asked for as torch's dropout does: other bits for each sample, or the same."""
    input = torch.ones(4, 200, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(lambda t: sk.dropout(t, P))(input)
    for dims, given in ((0, input), (None, input[0])):
        for randomness in ("same", "different"):
            out = vmap(lambda t, _: sk.dropout(t, P), in_dims=(dims, 0), randomness=randomness)(
                given, torch.zeros(4)
            )
            assert (randomness == "same") == all(torch.equal(out[0], row) for row in out)
            torch.testing.assert_close(out, torch.where(out != 0, 1 / (1 - P), 0.0).double())
    for mapped in (
        vmap(torch.func.grad(lambda t: (sk.dropout(t, P) * t.detach()).sum()), randomness="different"),
        vmap(lambda t: torch.func.jvp(lambda own: sk.dropout(own, P), (t,), (t,))[1], randomness="different"),
    ):
        torch.manual_seed(2)
        expected = vmap(lambda t: sk.dropout(t, P), randomness="different")(input)
        torch.manual_seed(2)
        assert torch.equal(mapped(input), expected)


@native
def test_compiled() -> None:
    def function(input: Tensor) -> Tensor:
        return sk.dropout(input.sin(), P)

    torch.compiler.reset()
    input = torch.randn(300, 20, requires_grad=True)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    for given in (input, input[:100], input.mT):
        out = compiled(given)
        (gradient,) = torch.autograd.grad(out, given, torch.ones_like(out))
        kept = out != 0
        assert 0.6 < float(kept.double().mean()) < 0.8
        torch.testing.assert_close(out, torch.where(kept, given.sin() / (1 - P), 0.0))
        torch.testing.assert_close(gradient, torch.where(kept, given.cos() / (1 - P), 0.0))
    inside = torch.compile(
        lambda t: torch.func.grad(lambda own: function(own).sum())(t), backend="aot_eager", fullgraph=True
    )
    gradient = inside(input.detach())
    kept = gradient != 0
    torch.testing.assert_close(gradient, torch.where(kept, input.detach().cos() / (1 - P), 0.0))


@native
def test_export() -> None:
    class Module(torch.nn.Module):
        def forward(self, input: Tensor) -> Tensor:
            return sk.dropout(input, P)

    input = torch.ones(40, 50)
    for strict in (False, True):
        exported = torch.export.export(Module(), (input,), strict=strict)
        assert any("seo_kernels.dropout" in str(node.target) for node in exported.graph.nodes)
        out = exported.module()(input)
        assert 0.6 < float((out != 0).double().mean()) < 0.8


@native
def test_op() -> None:
    """The registered op by itself."""
    op, seed = torch.ops.seo_kernels.dropout, torch.tensor(3)
    for input in (
        torch.randn(3, 50, requires_grad=True),
        torch.randn(20, 3, dtype=torch.float64).mT.requires_grad_(),
        torch.randn(20, 6)[:, ::2],
        torch.randn(4, 1, 5).transpose(0, 1),
        torch.randn(0, 3, dtype=torch.bfloat16, requires_grad=True),
    ):
        for p in (0.4, 1.0):
            torch.library.opcheck(op, (input, seed, p))


def test_autocast_leaves_the_dtype() -> None:
    input = torch.randn(3)
    with torch.autocast("cpu", torch.bfloat16):
        assert sk.dropout(input).dtype == torch.float32


def test_meta() -> None:
    out = sk.dropout(torch.empty(3, 4, device="meta"))
    assert (out.device.type, out.shape) == ("meta", (3, 4))


X = torch.randn(3)
ERRORS: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: sk.dropout([1.0]), TypeError, "input is a list, expected a tensor"),
    (lambda: sk.dropout(X.int()), TypeError, "input has dtype torch.int32, expected float64"),
    (lambda: sk.dropout(X > 0), TypeError, "input has dtype torch.bool"),
    (lambda: sk.dropout(X.to_sparse()), TypeError, "input has layout torch.sparse_coo"),
    (lambda: sk.dropout(X, 1.5), ValueError, r"p is 1.5, expected a number in \[0, 1\]"),
    (lambda: sk.dropout(X, -0.1), ValueError, r"p is -0.1, expected a number in \[0, 1\]"),
    (lambda: sk.dropout(X, math.nan), ValueError, r"p is nan, expected a number in \[0, 1\]"),
    (lambda: sk.dropout(X, 2, training=False), ValueError, r"p is 2, expected a number in \[0, 1\]"),
    (lambda: sk.dropout(X, "a"), TypeError, r"p is a str \('a'\), expected a number in \[0, 1\]"),
    (lambda: sk.dropout(X, True), TypeError, "p is a bool"),
    (lambda: sk.dropout(X, training=1), TypeError, r"training is an int \(1\), expected a bool"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_wrong_arguments(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@native
def test_wrong_arguments_of_the_op() -> None:
    """Those who call the op itself are told too."""
    op, seed = torch.ops.seo_kernels.dropout, torch.tensor(3)
    for call in (
        lambda: op(X.int(), seed, 0.5),
        lambda: op(X > 0, seed, 0.5),
        lambda: op(X, seed, 0.0),
        lambda: op(X, seed, 1.1),
        lambda: op(X, seed, math.nan),
        lambda: op(X, seed.int(), 0.5),
        lambda: op(X, torch.tensor([1, 2]), 0.5),
    ):
        with pytest.raises(ValueError, match=r"input|seed|p is"):
            call()


@native
@pytest.mark.parametrize("capability", LOWER)
def test_every_instruction_set(capability: str) -> None:
    run_again(
        capability,
        str(Path(__file__)),
        "-k",
        "(reference and 0.1) or half or (layouts and shape1) or is_dropped",
    )
