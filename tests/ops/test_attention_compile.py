"""sk.attention in compiled and exported code: whole graphs, symbolic sizes, gradients, and no silent zeros.

``aot_eager`` runs all of torch.compile but Inductor's code generation, which takes seconds: the slow test.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ops.everything import DIFFERENTIABLE, call, everything, integers
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.ops.arguments import normalise

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
LAYOUT = torch.tensor([[1, 0], [1, 1]], dtype=torch.bool)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def compiled(function: Callable, **options: object) -> Callable:
    return torch.compile(function, **{"backend": "aot_eager", "fullgraph": True, **options})


def results(function: Callable, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Outputs and gradients, dropout from a fixed seed."""
    leaves = [tensor for tensor in tensors.values() if tensor.requires_grad]
    torch.manual_seed(5)
    out, lse = function(tensors)
    number = out.float().sin().sum() + torch.where(lse == -torch.inf, 0.0, lse.cos()).sum()
    return out, lse, *torch.autograd.grad(number, leaves)


@pytest.mark.parametrize("dropout_p", [0.0, 0.5])
def test_symbolic_sizes_with_gradients(dropout_p: float) -> None:
    """One compilation for all lengths and batches, with every argument and every gradient."""
    compilations = []

    def backend(graph: torch.fx.GraphModule, inputs: list) -> Callable:
        compilations.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def function(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return call(tensors, dropout_p=dropout_p)

    whole = compiled(function, backend=backend, dynamic=True)
    counts = []
    for batch, query_length, key_length in ((6, 9, 11), (7, 12, 17), (10, 100, 130)):
        tensors = everything(batch, 4, 2, query_length, key_length, dim=8, value_dim=3, dtype=torch.float32)
        tensors |= integers(tensors)
        torch.testing.assert_close(results(whole, tensors), results(function, tensors))
        counts.append(len(compilations))
    assert len(set(counts)) == 1, counts
    if _library.available("cpu"):
        targets = [str(node.target) for node in compilations[-1].graph.nodes]
        assert sum("seo_kernels.attention_forward" in target for target in targets) == 1


@pytest.mark.parametrize(
    "pattern", [None, sk.Causal() & sk.Strided(2), sk.BlockSparse(LAYOUT, 4) | sk.GlobalTokens(1)]
)
def test_patterns(pattern: sk.Pattern | None) -> None:
    def function(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return call(tensors, pattern=pattern)

    tensors = everything(2, query_length=7, key_length=6)
    torch.testing.assert_close(results(compiled(function), tensors), results(function, tensors))


def test_pattern_as_an_argument() -> None:
    """A pattern that comes from outside is a constant of the graph; another one is another graph."""

    def function(tensors: dict[str, Tensor], pattern: sk.Pattern) -> tuple[Tensor, Tensor]:
        return call(tensors, pattern=pattern)

    whole, tensors = compiled(function), everything(2)
    for pattern in (sk.Local(1), sk.Local(2), sk.Causal(), sk.Local(1)):
        torch.testing.assert_close(whole(tensors, pattern), function(tensors, pattern))


@native
def test_one_output_alone() -> None:
    """The gradient of the other output does not arrive."""
    tensors = everything(names=("query", "key", "value"))
    for chosen in (0, 1):

        def function(*operands: Tensor, chosen: int = chosen) -> Tensor:
            return sk.attention(*operands, return_lse=True)[chosen].sin()

        inputs = tuple(tensors.values())
        tested, expected = (
            torch.autograd.grad(f(*inputs).sum(), inputs, allow_unused=True, materialize_grads=True)
            for f in (compiled(function), function)
        )
        torch.testing.assert_close(tested, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """The compiled graph casts as eager does; fp32 tables beside it get fp32 gradients."""

    def function(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", dtype):
            return call(tensors)

    tensors = everything(2, dim=8, value_dim=8, dtype=torch.float32)
    tested, expected = results(compiled(function), tensors), results(function, tensors)
    assert tested[0].dtype == dtype
    assert {gradient.dtype for gradient in tested[2:]} == {torch.float32}
    torch.testing.assert_close(tested, expected)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint_inside_drops_the_same(use_reentrant: bool) -> None:
    def function(query: Tensor) -> Tensor:
        return sk.attention(query, query, query, dropout_p=0.5).sin()

    def checkpointed(query: Tensor) -> Tensor:
        return checkpoint(function, query, use_reentrant=use_reentrant)

    query = torch.randn(1, 2, 30, 4, dtype=torch.float64, requires_grad=True)
    gradients = []
    for run in (compiled(function), compiled(checkpointed)):
        torch.manual_seed(1)
        gradients.append(torch.autograd.grad(run(query).sum(), query)[0])
    torch.testing.assert_close(*gradients)


TRANSFORMS: dict[str, Callable] = {
    "grad": lambda f, query, other: torch.func.grad(lambda q: f(q, other).sin().sum())(query),
    "vmap": lambda f, query, other: torch.func.vmap(lambda q: f(q[None], other[:1]))(query),
    "jvp": lambda f, query, other: torch.func.jvp(lambda q: f(q, other), (query,), (other,))[1],
    "hessian": lambda f, query, other: torch.func.hessian(lambda q: f(q, other).sin().sum())(query),
    "jacfwd": lambda f, query, other: torch.func.jacfwd(lambda q: f(q, other))(query),
}


def causal(query: Tensor, other: Tensor) -> Tensor:
    return sk.attention(query, other, other, pattern=sk.Causal())


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_inside_compiled_code(name: str) -> None:
    """The registered op has no forward mode and no batching: silent zeros, were it called here."""
    query, other = torch.randn(2, 2, 2, 3, 2, dtype=torch.float64).unbind()

    def function(query: Tensor, other: Tensor) -> Tensor:
        return TRANSFORMS[name](causal, query, other)

    expected = function(query, other)
    assert bool((expected != 0).any())
    torch.testing.assert_close(compiled(function)(query, other), expected)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_compiled_code_under_transforms(name: str) -> None:
    query, other = torch.randn(2, 2, 2, 3, 2, dtype=torch.float64).unbind()
    whole = compiled(causal, fullgraph=False)
    torch.testing.assert_close(whole(query, other), causal(query, other))  # compiled before any transform
    expected = TRANSFORMS[name](causal, query, other)
    torch.testing.assert_close(TRANSFORMS[name](whole, query, other), expected)


def test_compiled_code_under_forward_mode() -> None:
    query, other = torch.randn(2, 2, 2, 3, 2, dtype=torch.float64).unbind()
    whole = compiled(causal)
    whole(query, other)
    tangents = []
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(query, other)
        for function in (whole, causal):
            tangents.append(forward_ad.unpack_dual(function(dual, other)).tangent)
    assert tangents[0] is not None
    torch.testing.assert_close(*tangents)


@native
def test_double_backward_of_compiled_code_is_refused() -> None:
    """torch itself says so; what must not be is a wrong second derivative."""
    query = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    out = compiled(causal)(query, query)
    (first,) = torch.autograd.grad(out.sin().sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(first.sum(), query)


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pattern = sk.Local(3) | sk.GlobalTokens(1)
        self.bias = torch.nn.Parameter(torch.randn(2, 5))

    def forward(self, query: Tensor, key: Tensor, key_lengths: Tensor) -> tuple[Tensor, Tensor]:
        relative = sk.RelativePosition(bias=self.bias)
        return sk.attention(
            query, key, key, pattern=self.pattern, relative=relative, key_lengths=key_lengths, return_lse=True
        )


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict: bool) -> None:
    batch, length = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("length", min=2, max=4096)
    module = Attention()
    exported = torch.export.export(
        module,
        (torch.randn(3, 2, 5, 4), torch.randn(3, 2, 7, 4), torch.tensor([7, 3, 2])),
        dynamic_shapes=({0: batch}, {0: batch, 2: length}, {0: batch}),
        strict=strict,
    )
    inputs = (torch.randn(2, 2, 5, 4), torch.randn(2, 2, 90, 4), torch.tensor([80, 3]))
    torch.testing.assert_close(exported.module()(*inputs), module(*inputs))
    if _library.available("cpu"):
        targets = [node.target for node in exported.graph.nodes]
        assert torch.ops.seo_kernels.attention_forward.default in targets


def test_relative_position_crosses_export() -> None:
    """A RelativePosition is a pytree: an input of an exported program, which can be saved and loaded."""

    class Tables(torch.nn.Module):
        def forward(self, query: Tensor, relative: sk.RelativePosition) -> Tensor:
            return sk.attention(query, query, query, relative=relative)

    inputs = (torch.randn(2, 2, 5, 4), sk.RelativePosition(key=torch.randn(3, 4), slopes=torch.randn(2)))
    exported = torch.export.export(Tables(), inputs)
    torch.testing.assert_close(exported.module()(*inputs), Tables()(*inputs))


@native
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("names", [("query", "key", "value"), DIFFERENTIABLE])
def test_opcheck_forward(names: tuple[str, ...], dtype: torch.dtype) -> None:
    tensors = everything(2, names=names, dtype=dtype)
    relative = sk.RelativePosition(bias=tensors.get("relative_bias"), key=tensors.get("relative_key"))
    arguments = normalise(
        *(tensors[name] for name in ("query", "key", "value")),
        pattern=sk.BlockSparse(LAYOUT, 2) | sk.Local(1),
        relative=relative,
        sinks=tensors.get("sinks"),
        mask=tensors.get("mask"),
        dropout_p=0.2,
    )
    torch.library.opcheck(torch.ops.seo_kernels.attention_forward.default, arguments.values())


@native
@pytest.mark.parametrize("through", ["out", "lse", "both"])
def test_opcheck_backward(through: str) -> None:
    tensors = {name: tensor.detach() for name, tensor in everything(2).items()}
    arguments = normalise(
        *(tensors[name] for name in ("query", "key", "value")),
        relative=sk.RelativePosition(bias=tensors["relative_bias"].float()),
        mask=tensors["mask"],
        key_lengths=torch.tensor([2, 0]),
    )
    out, lse = torch.ops.seo_kernels.attention_forward(*arguments.values())
    query, key, value, *rest = arguments.values()
    grad_out = None if through == "lse" else torch.randn_like(out)
    grad_lse = None if through == "out" else torch.randn_like(lse)
    wanted = [True, False, True, False, False, True, False, True, False]
    torch.library.opcheck(
        torch.ops.seo_kernels.attention_backward.default,
        (grad_out, grad_lse, query, key, value, out, lse, *rest, wanted),
    )


@pytest.mark.slow
def test_inductor() -> None:
    tensors = everything(3, 4, 2, 20, 30, dim=8, dtype=torch.float32)
    whole = compiled(call, backend="inductor", dynamic=True)
    torch.testing.assert_close(results(whole, tensors), results(call, tensors))
