"""Buffers as they were before a batch that turned out to be left out: running statistics above all."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def kept_buffers(model: nn.Module) -> dict[Tensor, Tensor]:
    """A copy of the values of each buffer.

    All of them: batch normalisation writes its statistics without counting up their version.
    """
    return {buffer: buffer.detach().clone() for buffer in model.buffers()}


@torch.no_grad()
def restore_buffers(kept: dict[Tensor, Tensor]) -> None:
    """Give the buffers the values that ``kept_buffers`` copied."""
    for buffer, values in kept.items():
        buffer.copy_(values)
