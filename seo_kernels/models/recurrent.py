"""Recurrent models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seo_kernels.models.model import Model
from seo_kernels.nn.attention_inputs import shape_text
from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.layer_stack import LayerStack
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.recurrent import run_packed
from seo_kernels.nn.sequence_attention import sequence_attention
from seo_kernels.nn.sequences import check_embeddings, check_tensor, present_by_lengths
from seo_kernels.nn.sizes import check_probability, check_size


class LSTMWithAttention(Model):
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

    >>> import torch
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
        lstm = nn.LSTM(
            input_size,
            hidden_size,
            num_layers,
            batch_first=True,
            dropout=between,
            bidirectional=bidirectional,
        )
        attention = sequence_attention(attention_type, self.output_dim)
        self.layers = LayerStack([AttendedStates(lstm, attention, self.output_dim, dropout)])

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(B, S, input_size) -> (B, S, output_dim), zeros beyond the lengths.

        Args:
            lengths: int (B,), from 0 to S, in any order; None: all as long as x.

        Raises:
            TypeError, ValueError: an argument that does not fit.
        """
        check_embeddings(x, self.input_size, "input_size")
        present = None if lengths is None else present_by_lengths(lengths, x.size(0), x.size(1), x.device)
        return self.layers(x, present)


class AttendedStates(nn.Module):
    """The states of an LSTM, each combined with what it attends to; zeros where nothing is present."""

    def __init__(self, lstm: nn.LSTM, attention: nn.Module, width: int, dropout: float) -> None:
        super().__init__()
        self.lstm = lstm
        self.dropout = Dropout(dropout)
        self.attention = attention
        self.combine = Linear(2 * width, width, activation="tanh")

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, S, input_size), present bool (B, S), from the front -> (B, S, width)."""
        states = self.lstm(x)[0] if present is None else run_packed(self.lstm, x, present.sum(1))
        states = self.dropout(states)
        context = self.attention(states, present)
        out = self.combine(torch.cat((context, states.to(context.dtype)), 2))
        return out if present is None else out.masked_fill(present.logical_not()[:, :, None], 0.0)


class CustomRNNModel(Model):
    """LSTM layers over a sequence (Hochreiter and Schmidhuber 1997).

    Args:
        input_size: width of the sequence.
        hidden_size: width of the states.
        num_layers: one after the other.

    Raises:
        TypeError, ValueError: a size that is none.

    >>> import torch
    >>> CustomRNNModel(input_size=10, hidden_size=16)(torch.randn(4, 7, 10)).shape
    torch.Size([4, 7, 16])
    """

    def __init__(self, input_size: int, hidden_size: int = 128, num_layers: int = 1) -> None:
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        check_size("hidden_size", hidden_size)
        check_size("num_layers", num_layers)
        inputs = [input_size, *[hidden_size] * (num_layers - 1)]
        self.layers = LayerStack(LSTMStates(width, hidden_size) for width in inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, input_size) -> the states (B, S, hidden_size); (S, input_size) -> (S, hidden_size).

        Raises:
            TypeError: no floating-point tensor.
            ValueError: another shape.
        """
        check_tensor("x", x, f"a sequence (batch, length, input_size={self.input_size})")
        if x.dim() not in (2, 3):
            raise ValueError(
                f"x has shape {shape_text(x)}, expected (batch, length, input_size={self.input_size}) or "
                f"unbatched (length, input_size={self.input_size})"
            )
        check_embeddings(x if x.dim() == 3 else x[None], self.input_size, "input_size")
        return self.layers(x)


class LSTMStates(nn.Module):
    """One LSTM layer that gives its states only."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(x)[0]
