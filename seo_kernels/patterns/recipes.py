"""Patterns of published models, composed from the others."""

from __future__ import annotations

import torch

from seo_kernels.patterns.base import Pattern, check_int
from seo_kernels.patterns.blocks import BlockSparse
from seo_kernels.patterns.positions import Dilated, GlobalTokens, Local


def longformer(window: int, global_tokens: int, dilation: int = 1) -> Pattern:
    """A (dilated) window and global tokens (Beltagy et al. 2020, "Longformer", section 3.1).

    Args:
        window: how many keys are seen on either side (half of the paper's w).
        global_tokens: the first so many positions see all and are seen by all.
        dilation: from one seen key of the window to the next.

    >>> longformer(128, 2)
    (Local(left=128, right=128) | GlobalTokens(n=2))
    """
    near = Local(window) if dilation == 1 else Dilated(window, dilation)
    return near | GlobalTokens(global_tokens)


def bigbird(
    length: int,
    block_size: int = 64,
    window_blocks: int = 3,
    global_blocks: int = 1,
    random_blocks: int = 3,
    seed: int = 0,
) -> BlockSparse:
    """Window, global and random blocks (Zaheer et al. 2020, "Big Bird", section 2), for Tq = Tk = length.

    Args:
        length: number of queries and of keys.
        block_size: block edge.
        window_blocks: odd; a block sees itself and (window_blocks - 1) / 2 blocks on either side.
        global_blocks: the first so many blocks see all and are seen by all.
        random_blocks: each query block sees so many further blocks, drawn without repetition; all where fewer
            are left.
        seed: of the drawing.

    Raises:
        TypeError: an argument is not an int.
        ValueError: an argument is out of range, or window_blocks is even.
    """
    for name, value, least in (
        ("length", length, 0),
        ("block_size", block_size, 1),
        ("window_blocks", window_blocks, 1),
        ("global_blocks", global_blocks, 0),
        ("random_blocks", random_blocks, 0),
    ):
        check_int("bigbird", name, value, least)
    if window_blocks % 2 == 0:
        raise ValueError(f"bigbird: window_blocks is {window_blocks}, expected an odd int")
    count = -(-length // block_size)
    index = torch.arange(count, device="cpu")
    layout = (index[:, None] - index[None, :]).abs() <= window_blocks // 2
    layout |= (index < global_blocks)[:, None] | (index < global_blocks)[None, :]
    generator = torch.Generator().manual_seed(seed)
    rank = (
        torch.rand(count, count, generator=generator, device="cpu")
        .masked_fill(layout, 2.0)
        .argsort(1)
        .argsort(1)
    )
    return BlockSparse(layout | (rank < random_blocks), block_size)
