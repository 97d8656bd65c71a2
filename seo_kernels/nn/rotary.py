"""Positions as rotations: queries and keys are turned by where they stand."""

import torch
from torch import Tensor, nn

from seo_kernels.nn.attention_inputs import shape_text
from seo_kernels.nn.sizes import check_size


class RotaryPositions(nn.Module):
    """RoPE (Su et al. 2021, "RoFormer", eq. 15 and 34): entries 2i and 2i + 1 of a vector at position p, as
    a point of the plane, are turned by the angle p * 10000^(-2i / dim).

    The product of two vectors then depends on their positions by the distance alone.

    Args:
        dim: width of the vectors, even.
        max_len: positions are below it.
        learnable: a learned factor on each angle, ``angle_scale`` (dim / 2,), which starts at 1.

    Raises:
        TypeError, ValueError: a size that is none, or an odd dim.

    >>> RotaryPositions(4, 10)(torch.tensor([[1.0, 0.0, 1.0, 0.0]]), 1)
    tensor([[0.5403, 0.8415, 0.9999, 0.0100]])
    """

    turns: Tensor | None
    angle_scale: Tensor | None

    def __init__(self, dim: int, max_len: int, *, learnable: bool = False) -> None:
        super().__init__()
        self.dim = check_size("dim", dim, least=2)
        if dim % 2 != 0:
            raise ValueError(f"rotary positions are for a width of {dim}, expected an even one")
        self.max_len = check_size("max_len", max_len)
        turns: Tensor | None = None
        scale: nn.Parameter | None = None
        if learnable:
            scale = nn.Parameter(torch.ones(dim // 2))
        else:
            angles = rotary_angles(0, max_len, dim, torch.zeros([], dtype=torch.float64))
            turns = torch.stack((angles.cos(), angles.sin()), -1).float()  # (max_len, dim / 2, 2)
        self.register_buffer("turns", turns, persistent=False)
        self.register_parameter("angle_scale", scale)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """(..., length, dim), of positions from ``start`` on -> the same, turned, in the dtype of x.

        Raises:
            ValueError: another width, or positions that reach beyond max_len.
        """
        if x.dim() < 2 or x.size(-1) != self.dim:
            raise ValueError(f"x has shape {shape_text(x)}, expected (..., length, d_model={self.dim})")
        end = start + x.size(-2)
        if end > self.max_len:
            raise ValueError(f"x is {end} positions long, expected at most max_len={self.max_len}")
        wide = x if x.dtype == torch.float32 or x.dtype == torch.float64 else x.float()
        turns, scale = self.turns, self.angle_scale
        if scale is not None:
            angles = rotary_angles(start, end, self.dim, wide) * scale.to(wide.dtype)
            turn = torch.complex(angles.cos(), angles.sin())
        else:
            assert turns is not None
            turn = torch.view_as_complex(turns[start:end].to(wide.dtype))
        turned = torch.view_as_complex(_in_pairs(wide)) * turn  # one pass, where sines and cosines are six
        return torch.view_as_real(turned).flatten(-2).to(x.dtype)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, max_len={self.max_len}, learnable={self.angle_scale is not None}"


def rotary_angles(start: int, end: int, dim: int, like: Tensor) -> Tensor:
    """p * 10000^(-2i / dim) for p from start to end - 1 and i below dim / 2: (end - start, dim / 2).

    In the dtype of ``like``, at least float32: of bfloat16 positions nothing would be left.
    """
    exponents = torch.arange(0, dim, 2, dtype=like.dtype, device=like.device) / -dim
    positions = torch.arange(start, end, dtype=like.dtype, device=like.device)
    return positions[:, None] * torch.pow(10000.0, exponents)


def _in_pairs(x: Tensor) -> Tensor:
    """(..., dim) as (..., dim / 2, 2) with strides that a complex view can have."""
    odd = x.stride(-1) != 1 or x.storage_offset() % 2 != 0
    for i in range(x.dim() - 1):
        odd = odd or x.stride(i) % 2 != 0
    if odd:
        x = x.clone(memory_format=torch.contiguous_format)
    return x.unflatten(-1, [-1, 2])
