"""The learned tables of relative positions, as a module."""

import torch
from torch import Tensor, nn

from seo_kernels.relative import RelativePosition


class RelativePositionTables(nn.Module):
    """Tables over the distance between query and key, clipped to max_distance.

    Called, it gives the ``RelativePosition`` for ``sk.attention``; ``sk.nn.MultiheadAttention(relative=...)``
    takes the module itself. Several layers may share one module, or have one each.

    Args:
        max_distance: R; a table has 2R + 1 rows, for the distances -R to R; keys farther away count as at R.
        head_dim: embed_dim // num_heads, the columns of the key and value tables.
        num_heads: heads of the queries.
        key: learn a table added to the keys, Shaw et al. 2018, "Self-Attention with Relative Position
            Representations", eq. 4.
        value: learn a table added to the values, eq. 3.
        bias: learn a bias on the scores per head and distance, Raffel et al. 2020 (T5), without its buckets.
        alibi: subtract slope * distance, not clipped, with one fixed slope per head, Press et al. 2022,
            "Train Short, Test Long". The slopes are a buffer that is not saved.
        per_head: a key and value table for each head, (num_heads, 2R + 1, head_dim), instead of one for all.

    The key and value tables start normal with a standard deviation of 0.02, the bias at zero.

    Raises:
        TypeError: a size is not an int.
        ValueError: a size is out of range, or no table is asked for.

    >>> RelativePositionTables(128, head_dim=64, num_heads=8)()
    RelativePosition(key=(257, 64), value=(257, 64))
    """

    key: Tensor | None
    value: Tensor | None
    bias: Tensor | None
    slopes: Tensor | None

    def __init__(
        self,
        max_distance: int,
        head_dim: int,
        num_heads: int,
        key: bool = True,
        value: bool = True,
        bias: bool = False,
        alibi: bool = False,
        per_head: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, size, least in (
            ("max_distance", max_distance, 0),
            ("head_dim", head_dim, 1),
            ("num_heads", num_heads, 1),
        ):
            if isinstance(size, bool) or not isinstance(size, int):
                raise TypeError(f"{name} is {size!r} ({type(size).__name__}), expected an int >= {least}")
            if size < least:
                raise ValueError(f"{name} is {size}, expected an int >= {least}")
        if not (key or value or bias or alibi):
            raise ValueError("key, value, bias and alibi are all False, expected at least one table")
        if per_head and not (key or value):
            raise ValueError(
                "per_head is True without a key or value table: bias and slopes are per head anyway"
            )
        self.max_distance = max_distance
        self.head_dim = head_dim
        self.num_heads = num_heads
        rows = 2 * max_distance + 1
        shape = (num_heads, rows, head_dim) if per_head else (rows, head_dim)

        def table(wanted: bool, *size: int) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(size, device=device, dtype=dtype)) if wanted else None

        self.register_parameter("key", table(key, *shape))
        self.register_parameter("value", table(value, *shape))
        self.register_parameter("bias", table(bias, num_heads, rows))
        slopes = torch.empty(num_heads, device=device, dtype=dtype) if alibi else None
        self.register_buffer("slopes", slopes, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the key and value tables anew, set the bias to zero and the slopes to ALiBi's."""
        for table in (self.key, self.value):
            if table is not None:
                nn.init.normal_(table, std=0.02)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
        if self.slopes is not None:
            self.slopes.copy_(torch.tensor(alibi_slopes(self.num_heads)))

    @torch.jit.unused
    def forward(self) -> RelativePosition:
        """The tables as ``sk.attention(relative=...)`` takes them."""
        key, value, bias, slopes = self.tables()
        return RelativePosition(key, value, bias, slopes)

    def tables(self) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
        """key, value, bias and slopes: what TorchScript, which knows no ``RelativePosition``, can call."""
        return self.key, self.value, self.bias, self.slopes

    def extra_repr(self) -> str:
        return f"max_distance={self.max_distance}, " + ", ".join(
            f"{name}={tuple(table.shape)}"
            for name, table in zip(("key", "value", "bias", "slopes"), self.tables(), strict=True)
            if table is not None
        )


def alibi_slopes(num_heads: int) -> list[float]:
    """The fixed slopes of ALiBi: 2^(-8/n), 2^(-16/n), ... for n heads (Press et al. 2022, section 3).

    Where n is no power of two: those of the next lower power, then every other one of the next higher, as in
    the authors' code.

    >>> alibi_slopes(4)
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    power = 2 ** (num_heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * i / power) for i in range(1, power + 1)]
    extra = [2.0 ** (-4.0 * i / power) for i in range(1, 2 * power + 1, 2)]
    return slopes + extra[: num_heads - power]


def check_relative(relative: object, num_heads: int, head_dim: int) -> None:
    """Raise where an attention layer of these sizes can't take this as its ``relative``."""
    if not isinstance(relative, nn.Module):
        raise TypeError(
            f"relative is a {type(relative).__name__}, expected a module that gives a RelativePosition when "
            "called, such as sk.nn.RelativePositionTables"
        )
    if isinstance(relative, RelativePositionTables):
        made_for = (relative.num_heads, relative.head_dim)
        if made_for != (num_heads, head_dim):
            raise ValueError(
                f"relative is made for num_heads={made_for[0]} and head_dim={made_for[1]}, "
                f"expected num_heads={num_heads} and head_dim={head_dim}"
            )
