"""Convolutions over sequences that keep the length and leave padding out.

``present``, bool (B, L), says which positions are no padding. What lies in the others is neither read by the
convolutions nor counted by the batch normalisations, and what comes out there means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seo_kernels.nn.activation import activation_layer
from seo_kernels.nn.attention_inputs import shape_text
from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.sizes import check_probability, check_size


class Conv1DBlock(nn.Module):
    """Convolution, batch normalisation, activation, dropout.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as for ``torch.nn.Conv1d``.
        padding: zeros on either side; None: as many as keep the length, also for even kernels (the odd one
            then is on the right); with a stride, half the kernel's reach on either side.
        activation: a name that ``sk.bias_act`` knows.
        dropout: in [0, 1).
        batch_norm: False leaves it out.

    Raises:
        TypeError, ValueError: a size, probability or name that is none.

    >>> Conv1DBlock(4, 6, kernel_size=4)(torch.randn(2, 4, 20)).shape
    torch.Size([2, 6, 20])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        activation: str = "relu",
        dropout: float = 0.1,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        self.in_channels = check_size("in_channels", in_channels)
        check_size("out_channels", out_channels)
        check_size("kernel_size", kernel_size)
        check_size("stride", stride)
        check_size("dilation", dilation)
        reach = dilation * (kernel_size - 1)
        if padding is None and stride == 1:
            self.conv: nn.Conv1d = SameConv1d(in_channels, out_channels, kernel_size, dilation, groups, bias)
        else:
            zeros = reach // 2 if padding is None else check_size("padding", padding, least=0)
            self.conv = nn.Conv1d(
                in_channels, out_channels, kernel_size, stride, zeros, dilation, groups, bias=bias
            )
        self.keeps_length = stride == 1 and (padding is None or 2 * padding == reach)
        self.norm = SequenceBatchNorm(out_channels) if batch_norm else None
        self.activation = activation_layer(activation)
        self.dropout = Dropout(check_probability("dropout", dropout))

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, in_channels, L) -> (B, out_channels, L), or as long as stride and padding make it.

        Raises:
            ValueError: another shape, or present where the length changes.
        """
        if x.dim() != 3 or x.size(1) != self.in_channels:
            raise ValueError(
                f"x has shape {shape_text(x)}, expected (batch, in_channels={self.in_channels}, length)"
            )
        if present is not None and not self.keeps_length:
            raise ValueError("present is given, expected None: stride or padding change the length")
        x = self.conv(without_padding(x, present))
        if self.norm is not None:
            x = self.norm(x, present)
        return self.dropout(self.activation(x))


class SameConv1d(nn.Conv1d):
    """``torch.nn.Conv1d`` that keeps the length: for even kernels with one zero more on the right."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        reach = dilation * (kernel_size - 1)
        super().__init__(in_channels, out_channels, kernel_size, 1, reach // 2, dilation, groups, bias)
        self.odd_zero = reach % 2

    def forward(self, input: Tensor) -> Tensor:
        if self.odd_zero > 0:
            input = F.pad(input, [0, self.odd_zero])
        return self._conv_forward(input, self.weight, self.bias)


class SequenceBatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy 2015, algorithm 1) over the positions that are present."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(channels)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, C, L), present bool (B, L) -> (B, C, L)."""
        if present is None or not self.training:
            return self.norm(x)
        rows = x.transpose(1, 2)  # (B, L, C)
        chosen = rows[present]  # (N, C)
        if chosen.size(0) == 0:
            return x
        out = torch.zeros_like(rows)
        out[present] = self.norm(chosen)
        return out.transpose(1, 2)


def without_padding(x: Tensor, present: Tensor | None) -> Tensor:
    """(B, C, L) with zeros where nothing is present."""
    return x if present is None else x.masked_fill(present.logical_not()[:, None], 0.0)


class MultiKernelConv(nn.Module):
    """``Conv1DBlock`` of several kernel sizes beside each other (Kim 2014, "Convolutional Neural Networks for
    Sentence Classification", section 2), their channels concatenated."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_sizes: Sequence[int],
        dropout: float,
        activation: str,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Conv1DBlock(in_channels, out_channels, size, activation=activation, dropout=dropout)
            for size in kernel_sizes
        )

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, in_channels, L) -> (B, len(kernel_sizes) * out_channels, L)."""
        return torch.cat([block(x, present) for block in self.blocks], 1)


class ResidualBlock(nn.Module):
    """relu(x + f(x)), f two convolutions with batch normalisation, a ReLU and dropout between them.

    He et al. 2016, "Deep Residual Learning for Image Recognition", eq. 1, in one dimension.

    Args:
        channels: of input and output.
        kernel_size: odd or even; the length is kept.
        dropout: in [0, 1).

    >>> ResidualBlock(4)(torch.randn(2, 4, 20)).shape
    torch.Size([2, 4, 20])
    """

    def __init__(self, channels: int, kernel_size: int = 3, dropout: float = 0.1) -> None:
        super().__init__()
        self.first = Conv1DBlock(channels, channels, kernel_size, bias=False, dropout=dropout)
        self.second = SameConv1d(channels, channels, kernel_size, bias=False)
        self.norm = SequenceBatchNorm(channels)
        self.activation = activation_layer("relu")

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, channels, L), present bool (B, L) -> (B, channels, L)."""
        inner = self.second(without_padding(self.first(x, present), present))
        return self.activation(x + self.norm(inner, present))
