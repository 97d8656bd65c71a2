"""One small call of sk.attention that uses every tensor argument at once, as a function of those tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import seo_kernels as sk

DIFFERENTIABLE = (
    "query",
    "key",
    "value",
    "relative_key",
    "relative_value",
    "relative_bias",
    "slopes",
    "mask",
    "sinks",
)
WINDOW = sk.Local(2)
INTEGERS = ("key_lengths", "query_segments", "key_segments")


def everything(
    batch: int = 1,
    heads: int = 2,
    key_heads: int = 1,
    query_length: int = 3,
    key_length: int = 4,
    dim: int = 2,
    value_dim: int = 3,
    dtype: torch.dtype = torch.float64,
    names: tuple[str, ...] = DIFFERENTIABLE,
) -> dict[str, Tensor]:
    """The named differentiable arguments, each of which asks for a gradient."""
    shapes = {
        "query": (batch, heads, query_length, dim),
        "key": (batch, key_heads, key_length, dim),
        "value": (batch, key_heads, key_length, value_dim),
        "relative_key": (3, dim),
        "relative_value": (heads, 5, value_dim),
        "relative_bias": (heads, 3),
        "slopes": (heads,),
        "mask": (1, heads, 1, key_length),
        "sinks": (heads,),
    }
    return {name: torch.randn(shapes[name], dtype=dtype, requires_grad=True) for name in names}


def integers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Lengths and segments that hide some keys of these operands."""
    batch, query_length, key_length = *tensors["query"].shape[0:3:2], tensors["key"].shape[2]
    return {
        "key_lengths": torch.randint(1, key_length + 1, (batch,)),
        "query_segments": torch.randint(2, (batch, query_length)),
        "key_segments": torch.randint(2, (batch, key_length)),
    }


def call(
    tensors: dict[str, Tensor],
    attention: Callable[..., tuple[Tensor, Tensor]] = sk.attention,
    *,
    pattern: sk.Pattern | None = WINDOW,
    softcap: float | None = 2.0,
    dropout_p: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """(out, lse) of the named tensors."""
    rest = dict(tensors)
    tables = {
        name: rest.pop(full, None)
        for name, full in (
            ("key", "relative_key"),
            ("value", "relative_value"),
            ("bias", "relative_bias"),
            ("slopes", "slopes"),
        )
    }
    segments = (rest.pop("query_segments", None), rest.pop("key_segments", None))
    return attention(
        **rest,
        pattern=pattern,
        relative=None if all(table is None for table in tables.values()) else sk.RelativePosition(**tables),
        segment_ids=None if segments[0] is None else segments,
        softcap=softcap,
        dropout_p=dropout_p,
        return_lse=True,
    )


def of(names: tuple[str, ...], **options: object) -> Callable[..., tuple[Tensor, Tensor]]:
    """``call`` as a function of positional tensors with these names; lse is 0 for a row that sees nothing."""

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        out, lse = call(dict(zip(names, tensors, strict=True)), **options)  # type: ignore[arg-type]
        return out, torch.where(lse == -torch.inf, 0.0, lse)

    return function


def scalar(names: tuple[str, ...], **options: object) -> Callable[..., Tensor]:
    """A number that is curved in everything, as a function of positional tensors with these names."""
    function = of(names, **options)

    def number(*tensors: Tensor) -> Tensor:
        out, lse = function(*tensors)
        return out.sin().sum() + (lse * lse.cos()).sum()

    return number
