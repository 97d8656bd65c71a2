"""The walk over visited tiles: it covers what the pattern shows, once, and its memory follows the pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from ops.everything import DIFFERENTIABLE, call, everything
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.ops.arguments import normalise
from seo_kernels.ops.attention_tile_sums import IndexedSum
from seo_kernels.ops.attention_tiles import visited_spans

pytestmark = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))

PATTERNS = {
    "dense": None,
    "causal": sk.Causal(),
    "local": sk.Local(40, 3),
    "gaps": sk.Dilated(2, 70) | sk.GlobalTokens(2),
    "blocks by head": sk.BlockSparse(
        torch.rand(4, 8, 9, generator=torch.Generator(torch.get_default_device()).manual_seed(0)) < 0.2, 32
    ),
    "nothing": sk.BlockSparse(torch.zeros(8, 9, dtype=torch.bool), 32),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_spans_cover_what_is_seen(name: str) -> None:
    """Every query lies in one span, and every key that it sees; no span visits a tile that nobody sees."""
    pattern, query_length, key_length = PATTERNS[name], 250, 280
    operands = (torch.zeros(1, 4, length, 8) for length in (query_length, key_length, key_length))
    spans = visited_spans(normalise(*operands, pattern=pattern))
    assert [spans[0].begin, *(span.end for span in spans)] == [span.begin for span in spans] + [query_length]
    seen = (pattern or sk.Dense()).dense_mask(query_length, key_length).any(0)
    visited = torch.zeros(len(spans), key_length, dtype=torch.bool)
    for row, span in zip(visited, spans, strict=True):
        for begin, end in span.keys:
            assert not bool(row[begin:end].any())
            row[begin:end] = True
        shown = seen[span.begin : span.end].any(0)
        assert not bool((shown & ~row).any())
        for begin in range(0, key_length, 64):
            assert bool(shown[begin : begin + 64].any()) == bool(row[begin : begin + 64].any())


@pytest.fixture
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any tensor had."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


def double_backward(tensors: dict[str, Tensor]) -> None:
    out, lse = call(tensors, pattern=sk.Local(64))
    leaves = tuple(tensors.values())
    first = torch.autograd.grad(out.square().sum() + lse.sum(), leaves, create_graph=True)
    torch.autograd.grad(sum(gradient.square().sum() for gradient in first), leaves)


def forward_mode(tensors: dict[str, Tensor]) -> None:
    def function(query: Tensor) -> tuple[Tensor, Tensor]:
        return call(tensors | {"query": query}, pattern=sk.Local(64))

    torch.func.jvp(function, (tensors["query"].detach(),), (tensors["query"].detach(),))


def hessian_product(tensors: dict[str, Tensor]) -> None:
    """Forward mode over reverse."""
    names = tuple(tensors)

    def gradient(*inputs: Tensor) -> tuple[Tensor, ...]:
        def number(*inputs: Tensor) -> Tensor:
            return call(dict(zip(names, inputs, strict=True)), pattern=sk.Local(64))[0].square().sum()

        return torch.func.grad(number, argnums=tuple(range(len(names))))(*inputs)

    inputs = tuple(tensor.detach() for tensor in tensors.values())
    torch.func.jvp(gradient, inputs, inputs)


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("derivative", [double_backward, forward_mode, hessian_product])
def test_memory_of_a_window_is_linear(derivative: Callable[[dict[str, Tensor]], None]) -> None:
    """No tensor larger than an operand or a tile, for lengths whose Tq x Tk is a hundred times that."""
    dim = 4
    for length in (2048, 8192):
        sizes = {"query_length": length, "key_length": length, "dim": dim, "value_dim": dim}
        tensors = everything(1, 2, 2, **sizes, dtype=torch.float32, names=DIFFERENTIABLE)
        with LargestTensor() as largest:
            derivative(tensors)
        operand, tile = 2 * length * dim, 2 * 96 * (96 + 2 * 64 + 2 * 64)
        assert largest.elements <= 2 * operand + tile, (length, largest.elements)


@pytest.mark.usefixtures("_one_thread")
def test_memory_of_the_graph_is_linear() -> None:
    """Under create_graph too, for the third order: all that the graph of a double backward keeps."""
    kept = []
    for length in (512, 2048):
        tensors = everything(1, 1, 1, query_length=length, key_length=length, names=DIFFERENTIABLE[:3])
        leaves = tuple(tensors.values())
        storages: dict[int, int] = {}

        def keep(tensor: Tensor, storages: dict[int, int] = storages) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        out, _lse = call(tensors, pattern=sk.Local(16))
        first = torch.autograd.grad(out.square().sum(), leaves, create_graph=True)
        number = sum(gradient.square().sum() for gradient in first)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            second = torch.autograd.grad(number, leaves, create_graph=True)
        kept.append(sum(storages.values()))
        torch.autograd.grad(sum(gradient.sum() for gradient in second), leaves)
    assert kept[1] < 5 * kept[0], kept


def test_indexed_sum() -> None:
    """Pieces that overlap, in any number, before and after a step of the sum."""
    whole = torch.zeros(2, 7, 3)
    total, expected = IndexedSum(whole, 1), torch.zeros(2, 7, 3)
    assert torch.equal(total.result(), whole)
    for index in ([0, 1, 2, 3], [2, 5], [6], [4, 2, 0, 1, 3, 5], [1]):
        piece = torch.randn(2, len(index), 3)
        total.add(torch.tensor(index), piece)
        expected.index_add_(1, torch.tensor(index), piece)
    torch.testing.assert_close(total.result(), expected)
