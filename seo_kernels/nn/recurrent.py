"""Recurrent networks over sequences of several lengths, packed."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from seo_kernels.nn.linear import Linear
from seo_kernels.nn.sequence_attention import sequence_attention
from seo_kernels.nn.sequences import check_embeddings, present_by_lengths
from seo_kernels.nn.sizes import check_probability, check_size


def run_packed(rnn: nn.RNNBase, x: Tensor, lengths: Tensor) -> Tensor:
    """The outputs of a batch-first network over sequences that end at their lengths: zeros from there on.

    Args:
        x: (B, S, input_size); what lies beyond a length is not read.
        lengths: int (B,), from 0 to S, in any order.

    Returns:
        (B, S, width).
    """
    # torch packs no empty sequence: one position stands in, and is taken out again
    packed = pack_padded_sequence(x, lengths.cpu().clamp(min=1), batch_first=True, enforce_sorted=False)
    out, _ = pad_packed_sequence(rnn(packed)[0], batch_first=True, total_length=x.size(1))
    return out.masked_fill((lengths == 0).to(out.device)[:, None, None], 0.0)


def left_aligned(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """What is present, moved to the front of each sequence in its order, and which positions that fills.

    Args:
        x: (B, S, D); present: bool (B, S), anywhere.

    >>> left_aligned(torch.tensor([[[5.0], [6.0], [7.0]]]), torch.tensor([[False, True, True]]))
    (tensor([[[6.],
             [7.],
             [5.]]]), tensor([[ True,  True, False]]))
    """
    present, order = present.sort(dim=1, descending=True, stable=True)
    return x.gather(1, order[:, :, None].expand_as(x)), present


class LSTMWithAttention(nn.Module):
    """An LSTM whose outputs attend to each other: tanh(W [context_i; h_i]), Luong et al. 2015, eq. 5.

    Args:
        input_size, hidden_size, num_layers, bidirectional: as for ``torch.nn.LSTM``.
        dropout: between the layers of the LSTM and of its outputs, in [0, 1).
        attention_type: "dot", "general" or "concat", see ``DotProductAttention``, ``GeneralAttention`` and
            ``ConcatAttention``.

    Attributes:
        output_dim: hidden_size, twice that where bidirectional.

    Raises:
        TypeError, ValueError: a size, probability or name that is none.

    >>> layer = LSTMWithAttention(6, 4)
    >>> layer(torch.randn(2, 5, 6), torch.tensor([3, 5])).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 128,
        num_layers: int = 2,
        bidirectional: bool = True,
        dropout: float = 0.1,
        attention_type: str = "dot",
    ) -> None:
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        check_size("hidden_size", hidden_size)
        check_size("num_layers", num_layers)
        between = check_probability("dropout", dropout) if num_layers > 1 else 0.0
        self.output_dim = hidden_size * (2 if bidirectional else 1)
        self.lstm = nn.LSTM(
            input_size,
            hidden_size,
            num_layers,
            batch_first=True,
            dropout=between,
            bidirectional=bidirectional,
        )
        self.dropout = nn.Dropout(dropout)
        self.attention = sequence_attention(attention_type, self.output_dim)
        self.combine = Linear(2 * self.output_dim, self.output_dim, activation="tanh")

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, S, input_size) -> (B, S, output_dim), zeros beyond the lengths.

        Args:
            lengths: int (B,), from 0 to S, in any order; None: all as long as x.

        Raises:
            TypeError, ValueError: an argument that does not fit.
        """
        check_embeddings(x, self.input_size, "input_size")
        present = None if lengths is None else present_by_lengths(lengths, x.size(0), x.size(1), x.device)
        states = self.lstm(x)[0] if lengths is None else run_packed(self.lstm, x, lengths)
        states = self.dropout(states)
        context = self.attention(states, present)
        out = self.combine(torch.cat((context, states.to(context.dtype)), 2))
        return out if present is None else out.masked_fill(present.logical_not()[:, :, None], 0.0)
