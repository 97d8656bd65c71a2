"""Dropout in the place of torch's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seo_kernels.ops.dropout import dropout


def dropped(input: Tensor, p: float, training: bool = True) -> Tensor:
    """``sk.dropout``; torch's in TorchScript and for nested tensors, whose random bits are others."""
    if torch.jit.is_scripting():
        return F.dropout(input, p, training)
    else:
        return F.dropout(input, p, training) if input.is_nested else dropout(input, p, training=training)


class Dropout(nn.Dropout):
    """``torch.nn.Dropout`` on ``sk.dropout``; with ``inplace=True`` it is torch's own.

    >>> Dropout(0.1)
    Dropout(p=0.1, inplace=False)
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.inplace:
            return F.dropout(input, self.p, self.training, True)
        return dropped(input, self.p, self.training)
