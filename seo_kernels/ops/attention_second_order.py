"""Directional derivatives of attention and of its gradients, by formula, in plain torch, tile by tile.

With x the differentiable inputs, f(x) = (out, lse), a direction u in the space of x and a cotangent g of f:

    tangent    J u               forward mode, and the double backward with respect to g
    curvature  d/dx <g, J u>     the double backward with respect to x, and forward mode over reverse mode

Per row, with p the softmax weights, w the dropout factors, z the scaled products, phi the softcap, s the
scores, d the distances, and ' for tangents (by the chain rule from eq. 3 and 4 of Shaw et al. 2018):

    z' = scale (q'.k + q.k' + the same of the table),   s' = phi'(z) z' + bias' - slope' |d| + mask'
    lse' = sum_j p_j s'_j + p_sink sink',               p'_j = p_j (s'_j - lse')
    out' = sum_j w_j (p'_j v_j + p_j v'_j)

    e_j = w_j g_out.v_j,   e'_j = w_j g_out.v'_j,   mean = sum_j p_j e_j,   delta = mean - g_lse
    t_j = (s'_j - lse') (e_j - delta) + e'_j,   h_sink = -sink' delta
    <g, J u> = sum_j p_j (t_j + lse' (e_j - delta)) + p_sink h_sink
    d/ds_j = p_j (t_j - <g, J u> + lse' g_lse),   d/ds'_j = p_j (e_j - delta),
    d/dsink = p_sink (h_sink - <g, J u> + lse' mean),    d/dv_j = w_j p'_j g_out
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from seo_kernels.ops.arguments import AttentionArguments
from seo_kernels.ops.attention_tile_sums import TileSums
from seo_kernels.ops.attention_tiles import Differentiable, Tile, visited_spans
from seo_kernels.ops.transforms import differentiated
from seo_kernels.patterns import decode


class SecondOrder(NamedTuple):
    """What ``second_order`` returns: the tangents, and the curvature for every wanted input."""

    out: Tensor | None  # (B, Hq, Tq, Dv)
    lse: Tensor | None  # (B, Hq, Tq)
    inputs: Differentiable

    def tangents(self) -> tuple[Tensor, Tensor]:
        """out and lse, which were wanted."""
        assert self.out is not None
        assert self.lse is not None
        return self.out, self.lse


def second_order(
    arguments: AttentionArguments,
    direction: Differentiable,
    grad_out: Tensor | None = None,
    grad_lse: Tensor | None = None,
    wanted: Sequence[bool] = (),
    *,
    want_tangents: bool = False,
) -> SecondOrder:
    """J u (if ``want_tangents``) and d/dx <g, J u> of every ``wanted`` input (if there is a cotangent g).

    Args:
        arguments: of the forward.
        direction: u, None where it is zero.
        grad_out: (B, Hq, Tq, Dv) or None, and grad_lse: (B, Hq, Tq) or None: g.
        wanted: one bool for each field of ``Differentiable``.

    Every result has the dtype and the shape of what it belongs to; all between is float32, or float64 for it.
    Memory: a few times (B, Hq, queries of a tile, visited keys), and what the results need.
    """
    query, pattern = arguments.query, decode(arguments.pattern, arguments.layout)
    dtype = torch.promote_types(query.dtype, torch.float32)
    operands = Differentiable(*(getattr(arguments, name) for name in Differentiable._fields))
    if operands.mask is not None and operands.mask.dtype == torch.bool:
        operands = operands._replace(mask=None)
    grads = None
    if any(wanted) and (grad_out is not None or grad_lse is not None):
        lse_shape = query.shape[:3]
        grads = (
            query.new_zeros(*lse_shape, arguments.value.shape[3]) if grad_out is None else grad_out,
            query.new_zeros(lse_shape) if grad_lse is None else grad_lse,
        )
    last = not differentiated(*operands, *direction, grad_out, grad_lse)
    sums = TileSums(operands, wanted if grads is not None else [False] * len(operands), in_place=last)
    outs, lses = [], []
    with torch.autocast(query.device.type, enabled=False):  # the dtypes are chosen here
        for span in visited_spans(arguments):
            tile = Tile(arguments, pattern, span)
            slices = (tile.slice(operands, dtype), tile.slice(direction, dtype))
            derivatives = _TileDerivatives(tile, *slices, readable=last and query.device.type == "cpu")
            if want_tangents:
                outs.append(derivatives.out_tangent())
                lses.append(derivatives.lse_tangent.squeeze(3))
            if grads is not None:
                sums.add(tile, derivatives.curvature(*(tile.of_queries(grad).to(dtype) for grad in grads)))
    if not want_tangents:
        return SecondOrder(None, None, sums.results())
    if not outs:  # no query
        empty = query.new_zeros(*query.shape[:3], arguments.value.shape[3])
        return SecondOrder(empty, empty.sum(3).to(dtype), sums.results())
    return SecondOrder(torch.cat(outs, 2).to(query.dtype), torch.cat(lses, 2), sums.results())


class _TileDerivatives:
    """The formulas of the module's head for one tile. Rows are (B, Hq, m, 1), pairs (B, Hq, m, n).

    ``readable``: the values of masks may be looked at.
    """

    def __init__(
        self, tile: Tile, point: Differentiable, direction: Differentiable, readable: bool = False
    ) -> None:
        self.tile = tile
        self.scale, self.softcap = tile.arguments.scale, tile.arguments.softcap
        self.visible = tile.visible if point.mask is None else tile.visible & (point.mask != -math.inf)
        self.full = readable and bool(self.visible.all())
        # What has no partner may hold anything: 0 * NaN would spread it.
        sees, seen = self.visible.any(3)[..., None], self.visible.any(2)[..., None]
        with_keys, with_rows = (
            None if readable and bool(partners.all()) else partners for partners in (sees, seen)
        )
        self.point, self.direction = (
            operands._replace(
                query=_scaled(_only(with_keys, operands.query), self.scale),
                key=_only(with_rows, operands.key),
                value=_only(with_rows, operands.value),
            )
            for operands in (point, direction)
        )
        self.zero = self.visible.new_zeros((), dtype=torch.float32)  # joins any dtype
        self._set_weights()
        self._set_tangents()

    def _set_weights(self) -> None:
        """p; p_sink, None without a sink; phi' (slope) and phi'' (bend), None without a softcap."""
        point = self.point
        scores = self._products(point.query, point.key, "relative_key", point)
        self.slope: Tensor | None = None
        self.bend: Tensor | None = None
        if self.softcap > 0.0:
            bounded = torch.tanh(scores / self.softcap)
            scores = self.softcap * bounded
            self.slope = 1.0 - bounded * bounded
            self.bend = (-2.0 / self.softcap) * bounded * self.slope
        terms = self._score_terms(point)
        scores = scores if terms is self.zero else scores + terms
        scores = scores if self.full else torch.where(self.visible, scores, -math.inf)
        self.p_sink: Tensor | None = None
        if self.full and point.sinks is None and scores.shape[3] > 0:
            self.p = scores.softmax(3)
            return
        top = scores.new_full((*scores.shape[:3], 1), -math.inf)
        if scores.shape[3] > 0:
            top = scores.detach().amax(3, keepdim=True)
        if point.sinks is not None:
            top = torch.maximum(top, point.sinks.detach()[:, None, None])
        top = torch.where(top == -math.inf, 0.0, top)
        weights = torch.exp(scores - top)
        total = weights.sum(3, keepdim=True)
        sink = None if point.sinks is None else torch.exp(point.sinks[:, None, None] - top)
        total = total if sink is None else total + sink
        total = torch.where(total == 0.0, 1.0, total)
        self.p = weights / total
        self.p_sink = None if sink is None else sink / total

    def _set_tangents(self) -> None:
        """z', s' - lse', sink', lse' and w p'."""
        point, direction = self.point, self.direction
        self.z_tangent = self._products(direction.query, point.key, "relative_key", point)
        self.z_tangent = self.z_tangent + self._products(
            point.query, direction.key, "relative_key", direction
        )
        scores = self.z_tangent if self.slope is None else self.slope * self.z_tangent
        terms = self._score_terms(direction)
        s_tangent = self._seen(scores if terms is self.zero else scores + terms)
        self.lse_tangent = (self.p * s_tangent).sum(3, keepdim=True)
        self.sink_tangent: Tensor | float = 0.0
        if self.p_sink is not None and direction.sinks is not None:
            self.sink_tangent = direction.sinks[:, None, None]
            self.lse_tangent = self.lse_tangent + self.p_sink * self.sink_tangent
        self.moved = s_tangent - self.lse_tangent
        self.p_tangent = self._dropped(self.p * self.moved)

    def out_tangent(self) -> Tensor:
        """out' (B, Hq, m, Dv)."""
        out = self._mixed(self.p_tangent, self.point.value, "relative_value", self.point)
        return out + self._mixed(
            self._dropped(self.p), self.direction.value, "relative_value", self.direction
        )

    def curvature(self, grad_out: Tensor, grad_lse: Tensor) -> Differentiable:
        """This tile's part of d/dx <g, J u>, as ``TileSums.add`` takes it; None for absent tables."""
        point, direction, p = self.point, self.direction, self.p
        e = self._seen(self._dropped(self._products(grad_out, point.value, "relative_value", point)))
        e_tangent = self._products(grad_out, direction.value, "relative_value", direction)
        mean = (p * e).sum(3, keepdim=True)
        delta = mean - grad_lse[..., None]
        centred = e - delta
        inner = self.moved * centred + self._seen(self._dropped(e_tangent))  # t
        weighted, by_s_tangent = p * inner, p * centred
        total = weighted.sum(3, keepdim=True) + self.lse_tangent * by_s_tangent.sum(3, keepdim=True)
        by_sinks = None
        if self.p_sink is not None:
            h_sink = -self.sink_tangent * delta
            total = total + self.p_sink * h_sink  # <g, J u>
            by_sinks = (self.p_sink * (h_sink - total + self.lse_tangent * mean)).sum((0, 2, 3))

        by_s = weighted - p * (total - self.lse_tangent * grad_lse[..., None])
        by_z, by_z_tangent = by_s, by_s_tangent
        if self.slope is not None and self.bend is not None:
            by_z = by_s * self.slope + by_s_tangent * self.bend * self.z_tangent
            by_z_tangent = by_s_tangent * self.slope

        by_relative_key = by_relative_value = by_bias = by_slopes = None
        if point.relative_key is not None:
            buckets, moved = (self._bucketed(pairs, "relative_key") for pairs in (by_z, by_z_tangent))
            by_relative_key = (self._outer(buckets, point.query) + self._outer(moved, direction.query)).sum(0)
        if point.relative_value is not None:
            by_relative_value = self._outer(self._bucketed(self.p_tangent, "relative_value"), grad_out).sum(0)
        if point.relative_bias is not None:
            by_bias = self._bucketed(by_s, "relative_bias").sum((0, 2))
        if point.slopes is not None:
            by_slopes = -(by_s * self.tile.distance.abs()).sum((0, 2, 3))
        return Differentiable(
            query=self.scale
            * (
                self._mixed(by_z, point.key, "relative_key", point)
                + self._mixed(by_z_tangent, direction.key, "relative_key", direction)
            ),
            key=self._outer(by_z, point.query) + self._outer(by_z_tangent, direction.query),
            value=self._outer(self.p_tangent, grad_out),
            relative_key=by_relative_key,
            relative_value=by_relative_value,
            relative_bias=by_bias,
            slopes=by_slopes,
            mask=by_s,
            sinks=by_sinks,
        )

    def _products(
        self, rows: Tensor | None, columns: Tensor | None, table: str, tables: Differentiable
    ) -> Tensor:
        """rows_i . (columns_j + table[r_ij]), (B, Hq, m, n); a zero where there is nothing."""
        entries = getattr(tables, table)
        total = self.zero
        if rows is not None and columns is not None:
            total = rows @ columns.mT
        if rows is not None and entries is not None:
            total = total + (rows @ entries.mT).gather(3, self._index(table))
        return total

    def _mixed(self, weights: Tensor, columns: Tensor | None, table: str, tables: Differentiable) -> Tensor:
        """sum_j weights_ij (columns_j + table[r_ij]), (B, Hq, m, D); a zero where there is nothing."""
        entries = getattr(tables, table)
        total = self.zero if columns is None else weights @ columns
        return total if entries is None else total + self._bucketed(weights, table) @ entries

    def _outer(self, pairs: Tensor, rows: Tensor | None) -> Tensor:
        """sum_i pairs_ij rows_i, (B, Hq, n, D); a zero where there is nothing."""
        return self.zero if rows is None else pairs.mT @ rows

    def _bucketed(self, weights: Tensor, table: str) -> Tensor:
        """sum over the keys of each table row, (B, Hq, m, rows)."""
        buckets = weights.new_zeros(*weights.shape[:3], self.tile.tables[table].count)
        return buckets.scatter_add(3, self._index(table), weights)

    def _index(self, table: str) -> Tensor:
        index = self.tile.tables[table].index
        return index.expand(*self.tile.arguments.query.shape[:2], *index.shape)

    def _score_terms(self, operands: Differentiable) -> Tensor:
        """bias[r] - slope |d| + mask; a zero where there are none of them."""
        total = self.zero
        if operands.relative_bias is not None:
            total = operands.relative_bias[:, self.tile.tables["relative_bias"].index]
        if operands.slopes is not None:
            total = total - operands.slopes[:, None, None] * self.tile.distance.abs()
        return total if operands.mask is None else total + operands.mask

    def _seen(self, pairs: Tensor) -> Tensor:
        return pairs if self.full else torch.where(self.visible, pairs, 0.0)

    def _dropped(self, pairs: Tensor) -> Tensor:
        """w * pairs."""
        kept, dropout_p = self.tile.kept, self.tile.arguments.dropout_p
        return pairs if kept is None else torch.where(kept, pairs / (1.0 - dropout_p), 0.0)


def _only(where: Tensor | None, operand: Tensor | None) -> Tensor | None:
    return operand if operand is None or where is None else torch.where(where, operand, 0.0)


def _scaled(operand: Tensor | None, scale: float) -> Tensor | None:
    return None if operand is None else operand * scale
