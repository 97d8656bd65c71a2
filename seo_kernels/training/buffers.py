"""Buffers as they were before a batch that turned out to be left out: running statistics above all."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BufferKeeper:
    """Remembers a model's buffers, and puts them back; what never changes is copied once only.

    Args:
        model: whose buffers these are.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.copies: dict[Tensor, tuple[int, Tensor]] = {}  # by identity: the version, the values

    def keep(self) -> dict[Tensor, Tensor]:
        """The values that the buffers have now."""
        buffers = list(self.model.buffers())
        for buffer in buffers:
            known = self.copies.get(buffer)
            if known is None or known[0] != buffer._version:
                self.copies[buffer] = (buffer._version, buffer.detach().clone())
        self.copies = {buffer: self.copies[buffer] for buffer in buffers}
        return {buffer: values for buffer, (_, values) in self.copies.items()}

    @staticmethod
    @torch.no_grad()
    def restore(kept: dict[Tensor, Tensor]) -> None:
        """Give the buffers the values that ``keep`` gave."""
        for buffer, values in kept.items():
            buffer.copy_(values)
