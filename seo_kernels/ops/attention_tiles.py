"""Tile by tile over what a pattern visits: where a tile stands, who sees whom in it, what it reads.

The derivatives that plain torch computes (forward mode, double backward) walk over these tiles, so that their
memory follows the visited keys and not Tq x Tk. All is out of place, as autograd and ``torch.func`` need it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import torch
from torch import Tensor

from seo_kernels.ops.arguments import AttentionArguments
from seo_kernels.patterns import Pattern
from seo_kernels.reference.philox import keep_mask


class Differentiable(NamedTuple):
    """The arguments of attention that have a gradient, in the order of ``wanted``; or a value for each."""

    query: Tensor | None = None
    key: Tensor | None = None
    value: Tensor | None = None
    relative_key: Tensor | None = None
    relative_value: Tensor | None = None
    relative_bias: Tensor | None = None
    slopes: Tensor | None = None
    mask: Tensor | None = None
    sinks: Tensor | None = None


@dataclass(frozen=True)
class Span:
    """A tile of the plan: a range of queries and the ranges of keys that any head visits for it."""

    begin: int
    end: int
    keys: tuple[tuple[int, int], ...]


def visited_spans(arguments: AttentionArguments) -> list[Span]:
    """The tiles of the plan by query range; heads with different plans share the union of their keys.

    The query ranges cover all queries once, those that visit nothing included.
    """
    query_length, key_length = arguments.query.shape[2], arguments.key.shape[2]
    plan = torch.ops.seo_kernels.attention_plan(
        arguments.pattern,
        arguments.layout,
        arguments.query.shape[1],
        query_length,
        key_length,
        arguments.query_offset,
    )
    visited: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for _head, begin, end, key_begin, key_end, _partial in plan.tolist():
        visited.setdefault((begin, end), []).append((key_begin, key_end))
    spans, covered = [], 0
    for begin, end in sorted(visited):
        if begin > covered:
            spans.append(Span(covered, begin, ()))
        spans.append(Span(begin, end, _joined(visited[begin, end])))
        covered = end
    if covered < query_length:
        spans.append(Span(covered, query_length, ()))
    return spans


def _joined(ranges: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Ranges in order, those that touch or overlap made one."""
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return tuple(joined)


@dataclass(frozen=True)
class TableRows:
    """The rows of a relative table that a tile reads: ``count`` from ``first``, and (m, n) indices."""

    first: int
    count: int
    index: Tensor


class Tile:
    """One span of one problem: where its queries and keys stand, and who sees whom."""

    def __init__(self, arguments: AttentionArguments, pattern: Pattern, span: Span) -> None:
        self.arguments = arguments
        self.pattern = pattern
        self.span = span
        device = arguments.query.device
        self.rows = torch.arange(span.begin, span.end, device=device)  # (m,)
        ranges = [torch.arange(begin, end, device=device) for begin, end in span.keys]
        self.keys = torch.cat(ranges) if ranges else self.rows[:0]  # (n,)
        self.distance = self.keys[None, :] - self.rows[:, None] - arguments.query_offset  # (m, n)

    @property
    def first_key(self) -> int | None:
        """Where the keys begin, if they lie side by side."""
        return self.span.keys[0][0] if len(self.span.keys) == 1 else None

    @cached_property
    def visible(self) -> Tensor:
        """True where the query sees the key: (B | 1, Hq | 1, m, n)."""
        arguments = self.arguments
        visible = self.pattern.element_mask(self.rows, self.keys, arguments.query_offset)[None]
        if arguments.mask is not None and arguments.mask.dtype == torch.bool:
            visible = visible & self.of_mask(arguments.mask)
        if arguments.key_lengths is not None:
            visible = visible & (self.keys < arguments.key_lengths[:, None])[:, None, None, :]
        if arguments.query_segments is not None and arguments.key_segments is not None:
            segments = self._rows_of(arguments.query_segments, 1)[:, None, :, None]
            visible = visible & (segments == self._keys_of(arguments.key_segments, 1)[:, None, None, :])
        return visible

    @cached_property
    def kept(self) -> Tensor | None:
        """True where dropout keeps the weight, (B, Hq, m, n); None without dropout."""
        arguments = self.arguments
        if arguments.seed is None:
            return None
        batch, heads = (torch.arange(size, device=self.rows.device) for size in arguments.query.shape[:2])
        return keep_mask(arguments.seed, batch, heads, self.rows, self.keys, arguments.dropout_p)

    @cached_property
    def tables(self) -> dict[str, TableRows]:
        """What this tile reads of each relative table, by the name of the argument."""
        arguments = self.arguments
        lengths = {
            "relative_key": None if arguments.relative_key is None else arguments.relative_key.shape[-2],
            "relative_value": None
            if arguments.relative_value is None
            else arguments.relative_value.shape[-2],
            "relative_bias": None if arguments.relative_bias is None else arguments.relative_bias.shape[-1],
        }
        return {name: self._table_rows(length) for name, length in lengths.items() if length is not None}

    def _table_rows(self, length: int) -> TableRows:
        if not self.span.keys:
            return TableRows(0, 0, self.distance)
        reach = length // 2
        offset = self.arguments.query_offset
        least = self.span.keys[0][0] - (self.span.end - 1) - offset
        most = self.span.keys[-1][1] - 1 - self.span.begin - offset
        begin, last = (min(max(distance, -reach), reach) + reach for distance in (least, most))
        return TableRows(begin, last + 1 - begin, self.distance.clamp(-reach, reach) + (reach - begin))

    def slice(self, whole: Differentiable, dtype: torch.dtype) -> Differentiable:
        """What this tile reads of each operand, in ``dtype``, keys and values repeated for query heads."""
        parts: dict[str, Callable[[Tensor], Tensor]] = {
            "query": self.of_queries,
            "key": self._of_keys,
            "value": self._of_keys,
            "mask": self.of_mask,
            **{name: partial(self._of_table, name) for name in self.tables},
        }
        return Differentiable(
            *(
                None if tensor is None else parts.get(name, _whole)(tensor).to(dtype)
                for name, tensor in zip(Differentiable._fields, whole, strict=True)
            )
        )

    def of_queries(self, tensor: Tensor) -> Tensor:
        """(B, Hq, Tq, ...) to (B, Hq, m, ...)."""
        return self._rows_of(tensor, 2)

    def of_mask(self, mask: Tensor) -> Tensor:
        """(B | 1, Hq | 1, Tq | 1, Tk | 1) to (B | 1, Hq | 1, m | 1, n | 1)."""
        mask = mask if mask.shape[2] == 1 else self._rows_of(mask, 2)
        return mask if mask.shape[3] == 1 else self._keys_of(mask, 3)

    def _of_keys(self, tensor: Tensor) -> Tensor:
        group = self.arguments.query.shape[1] // tensor.shape[1]
        part = self._keys_of(tensor, 2)
        return part if group == 1 else part.repeat_interleave(group, dim=1)  # (B, Hq, n, D)

    def _rows_of(self, tensor: Tensor, dim: int) -> Tensor:
        return tensor.narrow(dim, self.span.begin, self.span.end - self.span.begin)

    def _keys_of(self, tensor: Tensor, dim: int) -> Tensor:
        if len(self.span.keys) == 1:
            begin, end = self.span.keys[0]
            return tensor.narrow(dim, begin, end - begin)
        return tensor.index_select(dim, self.keys)

    def _of_table(self, name: str, table: Tensor) -> Tensor:
        rows = self.tables[name]
        return table.narrow(1 if name == "relative_bias" else table.ndim - 2, rows.first, rows.count)


def _whole(tensor: Tensor) -> Tensor:
    return tensor
