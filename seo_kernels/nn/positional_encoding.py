"""Absolute positions, added to embeddings."""

import torch
from torch import Tensor, nn

from seo_kernels.nn.attention_inputs import shape_text
from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.sizes import check_probability, check_size


class PositionalEncoding(nn.Module):
    """x + sinusoids + a learned table, then dropout.

    Vaswani et al. 2017, "Attention Is All You Need", section 3.5, with a learned correction that starts at
    zero.

    Args:
        d_model: width of the embeddings, even or odd.
        max_len: the longest sequence.
        dropout: in [0, 1).
        sinusoidal: False leaves the sinusoids out; then the table starts normal, with a deviation of 0.02.
        learnable: False leaves the table out.

    Raises:
        TypeError, ValueError: a size or probability that is none, or nothing to add.

    >>> PositionalEncoding(8)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    sinusoids: Tensor | None
    learned: Tensor | None

    def __init__(
        self,
        d_model: int,
        max_len: int = 5000,
        dropout: float = 0.1,
        *,
        sinusoidal: bool = True,
        learnable: bool = True,
    ) -> None:
        super().__init__()
        self.d_model = check_size("d_model", d_model)
        self.max_len = check_size("max_len", max_len)
        if not (sinusoidal or learnable):
            raise ValueError("sinusoidal and learnable are both False, expected one of them at least")
        table = sinusoids(max_len, d_model) if sinusoidal else None
        self.register_buffer("sinusoids", table, persistent=False)
        self.register_parameter("learned", nn.Parameter(torch.zeros(max_len, d_model)) if learnable else None)
        if self.learned is not None and not sinusoidal:
            nn.init.normal_(self.learned, std=0.02)
        self.dropout = Dropout(check_probability("dropout", dropout))

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """(..., length, d_model) -> the same: the sequence lies next to last, batched or not.

        Args:
            start: position of the first vector.

        Raises:
            ValueError: another width, or a sequence longer than max_len.
        """
        if x.dim() < 2 or x.size(-1) != self.d_model:
            raise ValueError(f"x has shape {shape_text(x)}, expected (..., length, d_model={self.d_model})")
        end = start + x.size(-2)
        if end > self.max_len:
            raise ValueError(f"x is {end} positions long, expected at most max_len={self.max_len}")
        fixed, learned = self.sinusoids, self.learned
        if fixed is not None and learned is not None:
            encoding = fixed[start:end] + learned[start:end]
        elif learned is not None:
            encoding = learned[start:end]
        else:
            assert fixed is not None
            encoding = fixed[start:end]
        return self.dropout(x + encoding.to(x.dtype))

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
