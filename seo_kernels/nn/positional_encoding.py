"""Absolute positions, added to embeddings."""

import torch
from torch import Tensor, nn

from seo_kernels.nn.attention_inputs import shape_text
from seo_kernels.nn.sizes import check_probability, check_size


class PositionalEncoding(nn.Module):
    """x + sinusoids + a learned table, then dropout.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.5, with a learned correction that starts at
    zero.

    Args:
        d_model: width of the embeddings, even or odd.
        max_len: the longest sequence.
        dropout: in [0, 1).

    Raises:
        TypeError, ValueError: a size or probability that is none.

    >>> PositionalEncoding(8)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    sinusoids: Tensor

    def __init__(self, d_model: int, max_len: int = 5000, dropout: float = 0.1) -> None:
        super().__init__()
        self.d_model = check_size("d_model", d_model)
        self.max_len = check_size("max_len", max_len)
        self.register_buffer("sinusoids", sinusoids(max_len, d_model), persistent=False)
        self.learned = nn.Parameter(torch.zeros(max_len, d_model))
        self.dropout = nn.Dropout(check_probability("dropout", dropout))

    def forward(self, x: Tensor) -> Tensor:
        """(..., length, d_model) -> the same: the sequence lies next to last, batched or not.

        Raises:
            ValueError: another width, or a sequence longer than max_len.
        """
        if x.dim() < 2 or x.size(-1) != self.d_model:
            raise ValueError(f"x has shape {shape_text(x)}, expected (..., length, d_model={self.d_model})")
        length = x.size(-2)
        if length > self.max_len:
            raise ValueError(f"x is {length} positions long, expected at most max_len={self.max_len}")
        return self.dropout(x + (self.sinusoids[:length] + self.learned[:length]).to(x.dtype))

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, max_len={self.max_len}"


def sinusoids(max_len: int, d_model: int) -> Tensor:
    """(max_len, d_model): sines in the even columns, cosines in the odd ones (Vaswani et al. 2017, 3.5).

    >>> sinusoids(2, 3)
    tensor([[0.0000, 1.0000, 0.0000],
            [0.8415, 0.5403, 0.0022]])
    """
    positions = torch.arange(max_len, dtype=torch.float64)[:, None]
    angles = positions * 10000.0 ** (-torch.arange(0, d_model, 2, dtype=torch.float64) / d_model)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)[:, :d_model].float()
