"""Self-attention over the states of a recurrent network, scored as in Luong et al. 2015, section 3.1."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seo_kernels.nn.activation import Tanh
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.sequences import bool_mask, check_embeddings, spread_over_heads
from seo_kernels.nn.sizes import check_choice, check_size
from seo_kernels.ops.arguments import MAX_DIM
from seo_kernels.ops.attention import attention

TILE = 1 << 22  # entries of the tensor (B, queries, S, hidden) that additive attention makes at a time


class DotProductAttention(nn.Module):
    """Attention of a sequence to itself, scored by h_i . h_j / sqrt(hidden_size), without parameters.

    The fused kernels take up to 256 columns: wider states are split into as few heads as possible.

    Args:
        hidden_size: width of the states.

    >>> DotProductAttention(16)(torch.randn(2, 9, 16)).shape
    torch.Size([2, 9, 16])
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = check_size("hidden_size", hidden_size)

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, S, hidden_size) -> the same.

        Args:
            mask: (B, S) or (B, S, S) of any dtype, 1 attends, 0 hides. A row that sees nothing gets zeros.

        Raises:
            TypeError, ValueError: an argument that does not fit.
        """
        return _attend(hidden_states, hidden_states, _visible(hidden_states, mask, self.hidden_size))

    def extra_repr(self) -> str:
        return f"hidden_size={self.hidden_size}"


class GeneralAttention(nn.Module):
    """As ``DotProductAttention``, scored by h_i^T W h_j / sqrt(hidden_size) with a learned W.

    Args:
        hidden_size: width of the states.

    >>> GeneralAttention(16)(torch.randn(2, 9, 16)).shape
    torch.Size([2, 9, 16])
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.query = Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """As of ``DotProductAttention``."""
        visible = _visible(hidden_states, mask, self.hidden_size)
        return _attend(self.query(hidden_states), hidden_states, visible)


class ConcatAttention(nn.Module):
    """As ``DotProductAttention``, scored by v . tanh(W [h_i; h_j]), which is no product of two vectors.

    Time is quadratic in the length; memory is not: the scores of a few queries are made at a time, and again
    in backward.

    Args:
        hidden_size: width of the states.

    >>> ConcatAttention(16)(torch.randn(2, 9, 16)).shape
    torch.Size([2, 9, 16])
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.query = Linear(hidden_size, hidden_size)  # W's half for h_i
        self.key = Linear(hidden_size, hidden_size, bias=False)  # W's half for h_j
        self.tanh = Tanh()
        self.score = Linear(hidden_size, 1, bias=False)

    def forward(self, hidden_states: Tensor, mask: Tensor | None = None) -> Tensor:
        """As of ``DotProductAttention``."""
        visible = _visible(hidden_states, mask, self.hidden_size)
        batch, length, width = hidden_states.shape
        queries, keys = self.query(hidden_states), self.key(hidden_states)
        rows = max(1, TILE // max(1, batch * length * width))
        if rows >= length:
            return self._tile(queries, keys, hidden_states, visible)
        tiles = []
        for begin in range(0, length, rows):
            shown = visible
            if visible is not None and visible.size(2) > 1:
                shown = visible[:, :, begin : begin + rows]
            tile = (queries[:, begin : begin + rows], keys, hidden_states, shown)
            tiles.append(checkpoint(self._tile, *tile, use_reentrant=False))
        return torch.cat(tiles, 1)

    def _tile(self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None) -> Tensor:
        """(B, rows, H), (B, S, H), (B, S, H), (B, 1, 1 or rows, S) -> (B, rows, H)."""
        scores = self.score(self.tanh(queries[:, :, None] + keys[:, None])).squeeze(3)  # (B, rows, S)
        if visible is None:
            return scores.softmax(2) @ values.to(scores.dtype)
        hidden = visible[:, 0].logical_not()  # (B, 1 or rows, S)
        weights = scores.masked_fill(hidden, torch.finfo(scores.dtype).min).softmax(2)
        return weights.masked_fill(hidden, 0.0) @ values.to(scores.dtype)


SEQUENCE_ATTENTIONS = {"dot": DotProductAttention, "general": GeneralAttention, "concat": ConcatAttention}


def sequence_attention(attention_type: str, hidden_size: int) -> nn.Module:
    """The attention layer of this name.

    Raises:
        TypeError, ValueError: no such name.

    >>> sequence_attention("dot", 16)
    DotProductAttention(hidden_size=16)
    """
    name = check_choice("attention_type", attention_type, tuple(SEQUENCE_ATTENTIONS))
    return SEQUENCE_ATTENTIONS[name](hidden_size)


def _visible(hidden_states: Tensor, mask: Tensor | None, hidden_size: int) -> Tensor | None:
    check_embeddings(hidden_states, hidden_size, "hidden_size")
    if mask is None:
        return None
    batch, length, _ = hidden_states.shape
    return spread_over_heads(bool_mask(mask, batch, length, length))


def _attend(query: Tensor, states: Tensor, visible: Tensor | None) -> Tensor:
    """Attention of (B, S, H) to (B, S, H), the states being keys and values."""
    batch, length, width = states.shape
    heads = -(-width // MAX_DIM)
    states = states.to(query.dtype)
    missing = -width % heads
    if missing:  # columns of zeros change no product
        query, states = F.pad(query, (0, missing)), F.pad(states, (0, missing))
    query, states = (x.view(batch, length, heads, -1).transpose(1, 2) for x in (query, states))
    out = attention(query, states, states, mask=visible, scale=width**-0.5)
    return out.transpose(1, 2).flatten(2)[:, :, :width]
