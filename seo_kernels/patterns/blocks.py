"""Patterns made of whole blocks of the (query, key) matrix."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from seo_kernels.patterns.base import Pattern, check_int, set_fields


@dataclass(frozen=True, init=False, eq=False, repr=False)
class BlockSparse(Pattern):
    """Whole blocks: query i sees key j where layout[head, i // block_size, j // block_size] is True.

    It goes by indices, not by positions: query_offset does not move it.

    Args:
        layout: bool (nq, nk), for all heads, or (Hq, nq, nk); nq = ceil(Tq / block_size) and
            nk = ceil(Tk / block_size). Copied to the CPU at construction: changing the tensor later
            does not change the pattern.
        block_size: block edge in queries and keys.

    Raises:
        TypeError: layout is not a bool tensor, or block_size is not an int.
        ValueError: layout has not 2 or 3 dimensions or no head, or block_size is less than 1.
    """

    layout: Tensor  # bool (1 | Hq, nq, nk)
    block_size: int
    digest: str  # of the layout, 16 hexadecimal digits

    def __init__(self, layout: Tensor, block_size: int = 64) -> None:
        check_int("BlockSparse", "block_size", block_size, 1)
        if not isinstance(layout, Tensor):
            raise TypeError(f"BlockSparse: layout is {type(layout).__name__}, expected a bool tensor")
        if layout.dtype != torch.bool:
            raise TypeError(f"BlockSparse: layout has dtype {layout.dtype}, expected torch.bool")
        if layout.ndim not in (2, 3) or (layout.ndim == 3 and layout.shape[0] == 0):
            raise ValueError(
                f"BlockSparse: layout has shape {tuple(layout.shape)}, expected (query blocks, key blocks) "
                "or (heads, query blocks, key blocks)"
            )
        blocks = layout.detach().to("cpu", copy=True).contiguous()
        blocks = blocks[None] if layout.ndim == 2 else blocks
        digest = hashlib.sha256(str(tuple(blocks.shape)).encode() + blocks.numpy().tobytes()).hexdigest()[:16]
        self._fill(blocks, block_size, digest)

    @classmethod
    def of_parts(cls, blocks: Tensor, block_size: int, digest: str) -> BlockSparse:
        """For decode: a view of a layout that was copied, checked and hashed before."""
        pattern = cls.__new__(cls)
        pattern._fill(blocks, block_size, digest)
        return pattern

    def _fill(self, blocks: Tensor, block_size: int, digest: str) -> None:
        heads, rows, columns = blocks.shape
        text = f"blocks {block_size} {heads} {rows} {columns} 0 {digest}"
        set_fields(self, layout=blocks, block_size=block_size, digest=digest)
        self._encode_as(text, blocks.reshape(-1), heads)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockSparse):
            return NotImplemented
        return self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        shape = tuple(self.layout.shape[self.heads == 1 :])
        return f"BlockSparse(layout={shape} #{self.digest}, block_size={self.block_size})"

    def check(self, heads: int, query_length: int, key_length: int) -> None:
        size = self.block_size
        expected = (-(-query_length // size), -(-key_length // size))
        got = tuple(self.layout.shape)
        if got[1:] != expected or got[0] not in (1, heads):
            raise ValueError(
                f"pattern: the BlockSparse layout has shape {got}, expected (1 or heads={heads}, "
                f"{expected[0]}, {expected[1]}) for {query_length} queries and {key_length} keys "
                f"in blocks of {size}"
            )

    def element_mask(self, query_index: Tensor, key_index: Tensor, query_offset: int) -> Tensor:
        blocks = self.layout.to(query_index.device)
        rows = blocks.index_select(1, query_index // self.block_size)
        return rows.index_select(2, key_index // self.block_size)
