"""What tiles add up to: the way back from ``Tile.slice``, from gradients of parts to those of the whole."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from seo_kernels.ops.attention_tiles import Differentiable, Tile


class TileSums:
    """Sums over tiles of the gradients of what ``Tile.slice`` gave, for the ``wanted`` operands.

    ``in_place``: nobody differentiates or transforms the sums.
    """

    def __init__(self, whole: Differentiable, wanted: Sequence[bool], in_place: bool = False) -> None:
        self.whole = Differentiable(*(t if want else None for t, want in zip(whole, wanted, strict=True)))
        self.sums = {
            name: IndexedSum(tensor, _summed_dim(name, tensor), in_place)
            for name, tensor in self.whole._asdict().items()
            if tensor is not None
        }

    def add(self, tile: Tile, parts: Differentiable) -> None:
        """Add the gradients of one tile; the parts of operands that are not wanted are not looked at.

        The parts are per query head, and those of tables, slopes and sinks summed over the batch:
        query (B, Hq, m, D), key (B, Hq, n, D), value (B, Hq, n, Dv), mask (B, Hq, m, n),
        relative_key (Hq, rows, D), relative_value (Hq, rows, Dv), relative_bias (Hq, rows), slopes (Hq,).
        """
        for name, total in self.sums.items():
            whole, part = getattr(self.whole, name), getattr(parts, name)
            index, begin = None, None
            if name == "query":
                index, begin = tile.rows, tile.span.begin
            elif name in ("key", "value"):
                index, begin = tile.keys, tile.first_key
                group = part.shape[1] // whole.shape[1]
                if group > 1:
                    part = part.reshape(part.shape[0], whole.shape[1], group, *part.shape[2:]).sum(2)
            elif name.startswith("relative"):
                rows = tile.tables[name]
                index = torch.arange(rows.first, rows.first + rows.count, device=part.device)
                begin = rows.first
                part = part.sum(0) if whole.ndim == 2 and name != "relative_bias" else part
            elif name == "mask":
                part = part.sum_to_size(tile.of_mask(whole).shape)
                if total.dim == 2:
                    index, begin = tile.rows, tile.span.begin
                    part = part if whole.shape[3] == 1 else _spread(part, 3, tile.keys, whole.shape[3])
                elif total.dim == 3:
                    index, begin = tile.keys, tile.first_key
            total.add(index, part, begin)

    def results(self) -> Differentiable:
        """The gradients in the shapes and dtypes of the operands; None for those that are not wanted."""
        return self.whole._replace(**{name: total.result() for name, total in self.sums.items()})


def _summed_dim(name: str, whole: Tensor) -> int | None:
    """The dimension that tiles cut; None where every tile reads the whole."""
    if name in ("query", "key", "value"):
        return 2
    if name in ("relative_key", "relative_value"):
        return whole.ndim - 2
    if name == "relative_bias":
        return 1
    if name == "mask":
        return 2 if whole.shape[2] > 1 else 3 if whole.shape[3] > 1 else None
    return None


class IndexedSum:
    """Sum of pieces that each cover some indices of one dimension of ``whole``, or all of it (None).

    Pieces are added where they lie, if ``in_place``. Else they are gathered until they are as long as the
    whole and then added in one step: neither their number nor the out-of-place sum (which autograd and
    ``torch.func`` need) costs more than the pieces themselves.
    """

    def __init__(self, whole: Tensor, dim: int | None, in_place: bool = False) -> None:
        self.whole = whole
        self.dim = dim
        self.in_place = in_place
        self.total: Tensor | None = None
        self.pieces: list[Tensor] = []
        self.indices: list[Tensor] = []

    def add(self, index: Tensor | None, piece: Tensor, begin: int | None = None) -> None:
        """Add ``piece``, which lies at ``index`` of the dimension: from ``begin`` on, if that is known."""
        if self.dim is None or index is None:
            self.total = piece if self.total is None else self.total + piece
            return
        if self.in_place:
            if self.total is None:
                shape = list(piece.shape)
                shape[self.dim] = self.whole.shape[self.dim]
                self.total = piece.new_zeros(shape)
            if begin is None:
                self.total.index_add_(self.dim, index, piece)
            else:
                self.total.narrow(self.dim, begin, piece.shape[self.dim]).add_(piece)
            return
        self.pieces.append(piece)
        self.indices.append(index)
        if sum(index.shape[0] for index in self.indices) >= self.whole.shape[self.dim]:
            self._flush(self.dim)

    def result(self) -> Tensor:
        """The sum in the shape and the dtype of the whole, zero where nothing was added."""
        if self.pieces and self.dim is not None:
            self._flush(self.dim)
        return torch.zeros_like(self.whole) if self.total is None else self.total.to(self.whole.dtype)

    def _flush(self, dim: int) -> None:
        pieces = torch.cat(self.pieces, dim)
        if self.total is None:
            self.total = _spread(pieces, dim, torch.cat(self.indices), self.whole.shape[dim])
        else:
            self.total = self.total.index_add(dim, torch.cat(self.indices), pieces)
        self.pieces, self.indices = [], []


def _spread(piece: Tensor, dim: int, index: Tensor, length: int) -> Tensor:
    """Zeros of ``length`` in the dimension, with ``piece`` added at ``index``."""
    shape = list(piece.shape)
    shape[dim] = length
    return piece.new_zeros(shape).index_add(dim, index, piece)
