"""From what the user passes to ``sk.attention`` to what the op takes, with every error in the user's words.

Shapes, dtypes and devices only: what tensors hold is checked by the op, since a look at values here would
break ``torch.compile``, ``torch.export`` and ``torch.func.vmap``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.checks import (
    autocast,
    autocast_dtype,
    check_dropout,
    check_finite,
    check_floating,
    check_placement,
    draw_seed,
    kind,
)
from seo_kernels.patterns import Dense, Pattern
from seo_kernels.patterns.base import LARGEST
from seo_kernels.relative import RelativePosition

MAX_DIM = 256
_INTEGER = (torch.int64, torch.int32)
_DENSE = Dense()
_INT = (int, torch.SymInt)


@dataclass(frozen=True)
class AttentionArguments:
    """The arguments of ``torch.ops.seo_kernels.attention_forward``, in the order of its schema."""

    query: Tensor  # (B, Hq, Tq, D)
    key: Tensor  # (B, Hkv, Tk, D)
    value: Tensor  # (B, Hkv, Tk, Dv)
    pattern: str
    layout: Tensor | None  # bool (elements of all block layouts,), on the CPU
    relative_key: Tensor | None  # (2R + 1, D) or (Hq, 2R + 1, D)
    relative_value: Tensor | None  # (2R + 1, Dv) or (Hq, 2R + 1, Dv)
    relative_bias: Tensor | None  # (Hq, 2R + 1)
    slopes: Tensor | None  # (Hq,)
    mask: Tensor | None  # 4-D, broadcastable to (B, Hq, Tq, Tk)
    key_lengths: Tensor | None  # int64 (B,)
    query_segments: Tensor | None  # int64 (B, Tq)
    key_segments: Tensor | None  # int64 (B, Tk)
    sinks: Tensor | None  # (Hq,)
    seed: Tensor | None  # int64 (), None iff dropout_p is 0
    dropout_p: float
    scale: float
    softcap: float  # 0.0: none
    query_offset: int

    def values(self) -> tuple[Any, ...]:
        """All fields, ready for the op: ``op(*arguments.values())``."""
        return (
            self.query,
            self.key,
            self.value,
            self.pattern,
            self.layout,
            self.relative_key,
            self.relative_value,
            self.relative_bias,
            self.slopes,
            self.mask,
            self.key_lengths,
            self.query_segments,
            self.key_segments,
            self.sinks,
            self.seed,
            self.dropout_p,
            self.scale,
            self.softcap,
            self.query_offset,
        )


def normalise(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    pattern: Pattern | None = None,
    relative: RelativePosition | None = None,
    mask: Tensor | None = None,
    key_lengths: Tensor | None = None,
    segment_ids: Tensor | tuple[Tensor, Tensor] | None = None,
    sinks: Tensor | None = None,
    dropout_p: float = 0.0,
    scale: float | None = None,
    softcap: float | None = None,
    query_offset: int | None = None,
) -> AttentionArguments:
    """Check the arguments of ``sk.attention``, fill in the defaults, and draw the seed where there is
    dropout.

    Under autocast query, key and value are cast to its dtype here.

    Raises:
        TypeError: not a tensor or number where one is expected, or a wrong dtype.
        ValueError: a shape, a device or a number that does not fit.
    """
    for name, operand in (("query", query), ("key", key), ("value", value)):
        if not isinstance(operand, Tensor):
            raise TypeError(f"{name} is {kind(operand)}, expected a tensor (batch, heads, length, dim)")
    device = query.device
    dtype = autocast_dtype(device)
    if dtype is not None:
        query, key, value = (autocast(tensor, dtype) for tensor in (query, key, value))
    batch, heads, query_length, key_length, dim, value_dim = _check_operands(query, key, value, device)

    if pattern is None:
        pattern = _DENSE
    elif not isinstance(pattern, Pattern):
        raise TypeError(
            f"pattern is {kind(pattern)}, expected a pattern such as Causal(); a tensor goes to mask="
        )
    pattern_text, layout = pattern.encode()
    if layout is not None:
        pattern.check(heads, query_length, key_length)

    relative_key = relative_value = relative_bias = slopes = None
    if relative is not None:
        if not isinstance(relative, RelativePosition):
            raise TypeError(f"relative is {kind(relative)}, expected a RelativePosition")
        relative_key, relative_value = relative.key, relative.value
        relative_bias, slopes = relative.bias, relative.slopes
        _check_table("relative key", relative_key, heads, dim, device)
        _check_table("relative value", relative_value, heads, value_dim, device)
        _check_bias(relative_bias, heads, device)
        _check_per_head("relative slopes", slopes, heads, device)

    if mask is not None:
        mask = _broadcastable(mask, (batch, heads, query_length, key_length), device)
    if key_lengths is not None:
        key_lengths = _integers("key_lengths", key_lengths, (batch,), device)
    query_segments = key_segments = None
    if segment_ids is not None:
        query_segments, key_segments = _segments(segment_ids, batch, query_length, key_length, device)
    _check_per_head("sinks", sinks, heads, device)

    check_dropout(dropout_p)
    if softcap is not None:
        check_finite("softcap", softcap)
        if not softcap > 0.0:
            raise ValueError(f"softcap is {softcap}, expected a positive number or None")
    if scale is not None:
        check_finite("scale", scale)
    if query_offset is not None and (not isinstance(query_offset, _INT) or isinstance(query_offset, bool)):
        raise TypeError(f"query_offset is {kind(query_offset)}, expected an int or None")
    if query_offset is not None and not -LARGEST <= query_offset <= LARGEST:
        raise ValueError(f"query_offset is {query_offset}, expected an int from {-LARGEST} to {LARGEST}")

    return AttentionArguments(
        query,
        key,
        value,
        pattern_text,
        layout,
        relative_key,
        relative_value,
        relative_bias,
        slopes,
        mask,
        key_lengths,
        query_segments,
        key_segments,
        sinks,
        draw_seed(dropout_p, device),
        float(dropout_p),
        1.0 / math.sqrt(dim) if scale is None else float(scale),
        0.0 if softcap is None else float(softcap),
        key_length - query_length if query_offset is None else query_offset,
    )


def _check_operands(
    query: Tensor, key: Tensor, value: Tensor, device: torch.device
) -> tuple[int, int, int, int, int, int]:
    """Sizes B, Hq, Tq, Tk, D, Dv of three tensors that belong together."""
    check_floating("query", query, device)
    if not (key.dtype == value.dtype == query.dtype and key.device == value.device == device):
        for name, tensor in (("key", key), ("value", value)):
            check_floating(name, tensor, device)
            if tensor.dtype != query.dtype:
                raise TypeError(f"{name} has dtype {tensor.dtype}, expected the query's {query.dtype}")
    if query.ndim != 4:
        raise ValueError(f"query has shape {tuple(query.shape)}, expected (batch, heads, length, dim)")
    batch, heads, query_length, dim = query.shape
    if not 1 <= dim <= MAX_DIM:
        raise ValueError(
            f"query has shape {tuple(query.shape)}, expected a last dimension from 1 to {MAX_DIM}"
        )
    if heads == 0:
        raise ValueError(f"query has shape {tuple(query.shape)}, expected at least one head")
    if key.ndim != 4 or key.shape[0] != batch or key.shape[3] != dim:
        raise ValueError(
            f"key has shape {tuple(key.shape)}, expected (batch={batch}, heads, length, dim={dim})"
        )
    key_heads, key_length = key.shape[1], key.shape[2]
    if key_heads == 0 or heads % key_heads != 0:
        raise ValueError(
            f"key has {key_heads} heads, expected a number that divides the query's {heads} heads"
        )
    if value.ndim != 4 or value.shape[:3] != key.shape[:3]:
        raise ValueError(
            f"value has shape {tuple(value.shape)}, expected "
            f"(batch={batch}, heads={key_heads}, length={key_length}, dim)"
        )
    value_dim = value.shape[3]
    if not 1 <= value_dim <= MAX_DIM:
        raise ValueError(
            f"value has shape {tuple(value.shape)}, expected a last dimension from 1 to {MAX_DIM}"
        )
    return batch, heads, query_length, key_length, dim, value_dim


def _check_table(name: str, table: Tensor | None, heads: int, dim: int, device: torch.device) -> None:
    if table is None:
        return
    check_floating(name, table, device)
    shape = table.shape
    if (
        len(shape) not in (2, 3)
        or shape[-1] != dim
        or shape[-2] % 2 != 1
        or (len(shape) == 3 and shape[0] != heads)
    ):
        raise ValueError(
            f"{name} has shape {tuple(shape)}, expected (2R + 1, dim={dim}) or "
            f"(heads={heads}, 2R + 1, dim={dim})"
        )


def _check_bias(bias: Tensor | None, heads: int, device: torch.device) -> None:
    if bias is None:
        return
    check_floating("relative bias", bias, device)
    if bias.ndim != 2 or bias.shape[0] != heads or bias.shape[1] % 2 != 1:
        raise ValueError(f"relative bias has shape {tuple(bias.shape)}, expected (heads={heads}, 2R + 1)")


def _check_per_head(name: str, tensor: Tensor | None, heads: int, device: torch.device) -> None:
    if tensor is None:
        return
    check_floating(name, tensor, device)
    if tensor.ndim != 1 or tensor.shape[0] != heads:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected (heads={heads},)")


def _broadcastable(mask: Tensor, full: tuple[int, int, int, int], device: torch.device) -> Tensor:
    """The mask with dimensions of size 1 put in front up to four."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        check_floating("mask", mask, device, "bool (True: attend) or floating point (added to the scores)")
    check_placement("mask", mask, device)
    missing = 4 - mask.ndim
    if missing < 0 or any(size not in (1, full[missing + i]) for i, size in enumerate(mask.shape)):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}, expected one that broadcasts to (batch={full[0]}, "
            f"heads={full[1]}, query length={full[2]}, key length={full[3]})"
        )
    return mask[(None,) * missing] if missing else mask


def _integers(name: str, tensor: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """An int64 tensor of this shape from an int32 or int64 one."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is {kind(tensor)}, expected an int64 or int32 tensor")
    if tensor.dtype not in _INTEGER:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected torch.int64 or torch.int32")
    check_placement(name, tensor, device)
    if tensor.ndim != len(shape) or tuple(tensor.shape) != shape:
        named = ", ".join(f"{n}={size}" for n, size in zip(("batch", "length"), shape, strict=False))
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)}, expected ({named}{',' if len(shape) == 1 else ''})"
        )
    return tensor.to(torch.int64)


def _segments(
    segment_ids: Tensor | tuple[Tensor, Tensor],
    batch: int,
    query_length: int,
    key_length: int,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Segments of the queries (B, Tq) and of the keys (B, Tk)."""
    if isinstance(segment_ids, Tensor):
        if query_length != key_length:
            raise ValueError(
                f"segment_ids is one tensor for {query_length} queries and {key_length} keys, "
                "expected a pair (for the queries, for the keys)"
            )
        segments = _integers("segment_ids", segment_ids, (batch, query_length), device)
        return segments, segments
    if not isinstance(segment_ids, (tuple, list)):
        raise TypeError(f"segment_ids is {kind(segment_ids)}, expected an integer tensor or a pair of them")
    if len(segment_ids) != 2:
        raise ValueError(
            f"segment_ids has {len(segment_ids)} parts, expected a pair (for the queries, for the keys)"
        )
    return (
        _integers("segment_ids[0]", segment_ids[0], (batch, query_length), device),
        _integers("segment_ids[1]", segment_ids[1], (batch, key_length), device),
    )
