"""Relative positions: the tables that make a score or an output depend on how far apart query and key
stand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

_FIELDS = ("key", "value", "bias", "slopes")


class RelativePosition:
    """Learned or fixed terms over the distance between query and key, each optional, each with a gradient.

    With distance = pos_key - pos_query and r = clip(distance, -R, R) + R (every table has its own R), for
    head h:

        score_ij = scale * q_i . (k_j + key[h, r]) + bias[h, r] - slopes[h] * |distance|  (unclipped)
        out_i = sum_j p_ij (v_j + value[h, r])

    key and value are the tables of Shaw et al. 2018, "Self-Attention with Relative Position Representations",
    eq. 3 and 4; bias is that of Raffel et al. 2020 (T5), its buckets written out; slopes are those of Press
    et al. 2022, "Train Short, Test Long" (ALiBi).

    Args:
        key: (2R + 1, D), shared by all heads, or (Hq, 2R + 1, D).
        value: (2R + 1, Dv), shared by all heads, or (Hq, 2R + 1, Dv).
        bias: (Hq, 2R + 1).
        slopes: (Hq,).

    Raises:
        TypeError: a table is not a floating point tensor.
        ValueError: a table has the wrong number of dimensions, or an even number of rows.

    It is a pytree: ``torch.func`` transforms, ``torch.utils.checkpoint`` and ``torch.export`` see the
    tables that are present.

    >>> import torch
    >>> RelativePosition(key=torch.zeros(257, 64), slopes=torch.ones(8))
    RelativePosition(key=(257, 64), slopes=(8,))
    """

    __slots__ = _FIELDS

    def __init__(
        self,
        key: Tensor | None = None,
        value: Tensor | None = None,
        bias: Tensor | None = None,
        slopes: Tensor | None = None,
    ) -> None:
        _check_table("key", key, (2, 3), "(2R + 1, dim) or (heads, 2R + 1, dim)", rows=-2)
        _check_table("value", value, (2, 3), "(2R + 1, dim) or (heads, 2R + 1, dim)", rows=-2)
        _check_table("bias", bias, (2,), "(heads, 2R + 1)", rows=-1)
        _check_table("slopes", slopes, (1,), "(heads,)", rows=None)
        self.key = key
        self.value = value
        self.bias = bias
        self.slopes = slopes

    def __repr__(self) -> str:
        tables = ((name, getattr(self, name)) for name in _FIELDS)
        return f"RelativePosition({', '.join(f'{n}={tuple(t.shape)}' for n, t in tables if t is not None)})"


def _check_table(
    name: str, table: Tensor | None, ndims: tuple[int, ...], expected: str, rows: int | None
) -> None:
    if table is None:
        return
    if not isinstance(table, Tensor):
        raise TypeError(
            f"relative {name} is a {type(table).__name__}, expected a floating point tensor or None"
        )
    if not table.is_floating_point():
        raise TypeError(f"relative {name} has dtype {table.dtype}, expected a floating point dtype")
    shape = tuple(table.shape)
    if table.ndim not in ndims:
        raise ValueError(f"relative {name} has shape {shape}, expected {expected}")
    if rows is not None and shape[rows] % 2 != 1:
        raise ValueError(f"relative {name} has shape {shape}, expected {expected}: an odd number of rows")


def _present(relative: RelativePosition) -> list[str]:
    return [name for name in _FIELDS if getattr(relative, name) is not None]


def _flatten(relative: RelativePosition) -> tuple[list[Any], str]:
    present = _present(relative)
    return [getattr(relative, name) for name in present], " ".join(present)


def _flatten_with_keys(relative: RelativePosition) -> tuple[list[tuple[Any, Any]], str]:
    present = _present(relative)
    return [(pytree.GetAttrKey(name), getattr(relative, name)) for name in present], " ".join(present)


def _unflatten(tables: Iterable[Any], present: str) -> RelativePosition:
    # unchecked: transforms put batched tensors, axis numbers and other placeholders where the tables were
    relative = RelativePosition()
    for name, table in zip(present.split(), tables, strict=True):
        setattr(relative, name, table)
    return relative


pytree.register_pytree_node(
    RelativePosition,
    _flatten,
    _unflatten,
    serialized_type_name="seo_kernels.RelativePosition",
    flatten_with_keys_fn=_flatten_with_keys,
)
