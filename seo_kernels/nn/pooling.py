"""From a sequence to one vector, padding left out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seo_kernels.nn.linear import Linear
from seo_kernels.nn.sizes import check_choice, check_size


class MeanPooling(nn.Module):
    """The mean over the positions that are present; zeros where none is.

    >>> MeanPooling()(torch.tensor([[[1.0], [3.0], [9.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, S, D), present bool (B, S) -> (B, D)."""
        if present is None:
            return x.mean(1)
        total = x.masked_fill(present.logical_not()[:, :, None], 0.0).sum(1)
        return total / present.sum(1, keepdim=True).clamp(min=1).to(x.dtype)


class MaxPooling(nn.Module):
    """The largest entry of each column over the positions that are present; zeros where none is."""

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, S, D), present bool (B, S) -> (B, D)."""
        if present is None:
            return x.amax(1)
        largest = x.masked_fill(present.logical_not()[:, :, None], float("-inf")).amax(1)
        return largest.masked_fill(present.any(1, keepdim=True).logical_not(), 0.0)


class FirstPooling(nn.Module):
    """The vector of the first position that is present, where tokenizers put ``[CLS]``; zeros where none is.

    Devlin et al. 2019, "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
    section 3.

    >>> FirstPooling()(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[False, True]]))
    tensor([[3.]])
    """

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, S, D), present bool (B, S) -> (B, D)."""
        if present is None:
            return x[:, 0]
        first = present.int().argmax(1)[:, None, None].expand(-1, 1, x.size(2))
        return x.gather(1, first).squeeze(1).masked_fill(present.any(1, keepdim=True).logical_not(), 0.0)


class AttentionPooling(nn.Module):
    """sum_i a_i x_i with a = softmax(u . tanh(W x_i + b)); zeros where no position is present.

    Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", eq. 5 to 7.

    Args:
        width: D of the vectors that are pooled.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = Linear(check_size("width", width), width, activation="tanh")
        self.context = Linear(width, 1, bias=False)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, S, D), present bool (B, S) -> (B, D)."""
        scores = self.context(self.hidden(x)).squeeze(2)  # (B, S)
        if present is None:
            weights = scores.softmax(1)
        else:
            hidden = present.logical_not()
            weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(1)
            x = x.masked_fill(hidden[:, :, None], 0.0)
        return (weights[:, None] @ x.to(weights.dtype)).squeeze(1)


POOLINGS = ("mean", "max", "attention", "cls")


def pooling_layer(pooling: str, width: int) -> nn.Module:
    """The layer of this name, for vectors of this width.

    Raises:
        TypeError, ValueError: no such name.

    >>> pooling_layer("mean", 8)
    MeanPooling()
    """
    name = check_choice("pooling", pooling, POOLINGS)
    if name == "attention":
        return AttentionPooling(width)
    return {"mean": MeanPooling, "max": MaxPooling, "cls": FirstPooling}[name]()
