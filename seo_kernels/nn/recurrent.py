"""Recurrent networks over sequences of several lengths, packed."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def run_packed(rnn: nn.RNNBase, x: Tensor, lengths: Tensor) -> Tensor:
    """The outputs of a batch-first network over sequences that end at their lengths: zeros from there on.

    Args:
        x: (B, S, input_size); what lies beyond a length is not read.
        lengths: int (B,), from 0 to S, in any order.

    Returns:
        (B, S, width).
    """
    lengths = lengths.cpu()
    empty: Tensor | None = None
    if not bool(lengths.all()):  # torch packs no empty sequence: a zero stands in, and is taken out again
        empty = (lengths == 0).to(x.device)[:, None, None]
        x, lengths = x.masked_fill(empty, 0.0), lengths.clamp(min=1)
    packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    out, _ = pad_packed_sequence(rnn(packed)[0], batch_first=True, total_length=x.size(1))
    return out if empty is None else out.masked_fill(empty, 0.0)


def left_aligned(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """What is present, moved to the front of each sequence in its order, and which positions that fills.

    Args:
        x: (B, S, D); present: bool (B, S), anywhere.

    >>> import torch
    >>> left_aligned(torch.tensor([[[5.0], [6.0], [7.0]]]), torch.tensor([[False, True, True]]))
    (tensor([[[6.],
             [7.],
             [5.]]]), tensor([[ True,  True, False]]))
    """
    present, order = present.sort(dim=1, descending=True, stable=True)
    return x.gather(1, order[:, :, None].expand_as(x)), present
