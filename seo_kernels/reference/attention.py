"""Attention in plain torch: the oracle of the tests, the fallback of the op, and the formula of its double
backward.

Everything is computed in the dtype of the query, as written; nothing is upcast on the way. It shares no code
with the kernels. ``attention_tile`` holds the mathematics; the other functions only lay out its arguments.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from seo_kernels.ops.arguments import normalise
from seo_kernels.patterns import Pattern, decode
from seo_kernels.reference.philox import keep_mask
from seo_kernels.relative import RelativePosition


def attention(
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
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """``seo_kernels.attention`` in plain torch, over whole (B, Hq, Tq, Tk) tensors: same arguments, meaning
    and errors.

    Differentiable to any order by autograd, in forward mode and under ``torch.func``. For equal states of
    torch's default generator the dropout bits are those of ``seo_kernels.attention``.
    """
    arguments = normalise(
        query,
        key,
        value,
        pattern=pattern,
        relative=relative,
        mask=mask,
        key_lengths=key_lengths,
        segment_ids=segment_ids,
        sinks=sinks,
        dropout_p=dropout_p,
        scale=scale,
        softcap=softcap,
        query_offset=query_offset,
    )
    out, lse = attention_op(*arguments.values())
    return (out, lse) if return_lse else out


def attention_op(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pattern: str,
    layout: Tensor | None,
    relative_key: Tensor | None,
    relative_value: Tensor | None,
    relative_bias: Tensor | None,
    slopes: Tensor | None,
    mask: Tensor | None,
    key_lengths: Tensor | None,
    query_segments: Tensor | None,
    key_segments: Tensor | None,
    sinks: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    scale: float,
    softcap: float,
    query_offset: int,
) -> tuple[Tensor, Tensor]:
    """``torch.ops.seo_kernels.attention_forward`` in plain torch: the same arguments in the same order.

    Returns:
        out (B, Hq, Tq, Dv) in the dtype of the query, and lse (B, Hq, Tq) in float32 (float64 for float64).

    Raises:
        ValueError: key_lengths reach outside [0, Tk] (eager, on the CPU).
    """
    _check_key_lengths(key_lengths, key.shape[2])
    return attention_tile(
        query,
        key,
        value,
        torch.arange(query.shape[2], device=query.device),
        torch.arange(key.shape[2], device=query.device),
        pattern,
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
        seed,
        dropout_p,
        scale,
        softcap,
        query_offset,
    )


def attention_tile(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_index: Tensor,
    key_index: Tensor,
    pattern: str,
    layout: Tensor | None,
    relative_key: Tensor | None,
    relative_value: Tensor | None,
    relative_bias: Tensor | None,
    slopes: Tensor | None,
    mask: Tensor | None,
    key_lengths: Tensor | None,
    query_segments: Tensor | None,
    key_segments: Tensor | None,
    sinks: Tensor | None,
    seed: Tensor | None,
    dropout_p: float,
    scale: float,
    softcap: float,
    query_offset: int,
) -> tuple[Tensor, Tensor]:
    """Attention of some queries to some keys of a larger problem.

    Args:
        query: (B, Hq, m, D), the rows ``query_index`` (m,) of the whole query.
        key: (B, Hkv, n, D), the rows ``key_index`` (n,) of the whole key. Keys that are left out are not
            seen.
        value: (B, Hkv, n, Dv).
        pattern, layout, ... query_offset: as for ``attention_op``, all for the whole problem.

    Returns:
        out (B, Hq, m, Dv), lse (B, Hq, m).
    """
    batch, heads = query.shape[0], query.shape[1]
    dtype = query.dtype
    distance = key_index[None, :] - query_index[:, None] - query_offset  # (m, n)
    mask = None if mask is None else _select(_select(mask, 2, query_index), 3, key_index)

    # (1, 1 | Hq, m, n)
    visible = decode(pattern, layout).element_mask(query_index, key_index, query_offset)[None]
    if mask is not None:
        visible = visible & (mask if mask.dtype == torch.bool else mask != -math.inf)
    if key_lengths is not None:
        visible = visible & (key_index < key_lengths[:, None])[:, None, None, :]
    if query_segments is not None and key_segments is not None:
        query_segment = query_segments.index_select(1, query_index)[:, None, :, None]
        visible = visible & (query_segment == key_segments.index_select(1, key_index)[:, None, None, :])
    visible = visible.expand(batch, heads, -1, -1)

    # What is seen by nobody holds zeros from here on: 0 * NaN would spread whatever it held.
    seen = visible.any(2).unflatten(1, (key.shape[1], -1)).any(2)[..., None]  # (B, Hkv, n, 1)
    query = torch.where(visible.any(3)[..., None], query, 0.0)
    key = _repeat_heads(torch.where(seen, key, 0.0), heads)
    value = _repeat_heads(torch.where(seen, value, 0.0), heads)

    scores = query @ key.transpose(2, 3)  # (B, Hq, m, n)
    if relative_key is not None:
        projected = query @ relative_key.to(dtype).transpose(-1, -2)  # (B, Hq, m, 2R + 1)
        index = _table_index(distance, relative_key.shape[-2])
        scores = scores + projected.gather(3, index.expand_as(scores))
    scores = scores * scale
    if softcap > 0.0:
        scores = softcap * torch.tanh(scores / softcap)
    if relative_bias is not None:
        scores = scores + relative_bias.to(dtype)[:, _table_index(distance, relative_bias.shape[-1])]
    if slopes is not None:
        scores = scores - slopes.to(dtype)[:, None, None] * distance.abs().to(dtype)
    if mask is not None and mask.dtype != torch.bool:
        scores = scores + mask.to(dtype)

    weights, lse = _softmax(scores, visible, None if sinks is None else sinks.to(dtype))
    if seed is not None:
        batch_index = torch.arange(batch, device=query.device)
        head_index = torch.arange(heads, device=query.device)
        keep = keep_mask(seed, batch_index, head_index, query_index, key_index, dropout_p)
        weights = torch.where(keep, weights / (1.0 - dropout_p), 0.0)
    out = weights @ value
    if relative_value is not None:
        index = _table_index(distance, relative_value.shape[-2]).expand_as(weights)
        buckets = weights.new_zeros(*weights.shape[:3], relative_value.shape[-2])
        out = out + buckets.scatter_add(3, index, weights) @ relative_value.to(dtype)
    return out, lse.to(torch.promote_types(dtype, torch.float32))


def _softmax(scores: Tensor, visible: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weights (B, Hq, m, n) and lse (B, Hq, m): zero and -inf for rows that see nothing."""
    visible = visible & (scores != -math.inf)
    scores = torch.where(visible, scores, 0.0)  # before any exp: no infinity ever reaches a derivative
    shift = scores.new_full(scores.shape[:3], -math.inf)
    if scores.shape[3] > 0:
        shift = torch.where(visible, scores.detach(), -math.inf).amax(3)
    if sinks is not None:
        shift = torch.maximum(shift, sinks.detach()[:, None])
    shift = torch.where(shift == -math.inf, 0.0, shift)
    weights = torch.where(visible, torch.exp(torch.where(visible, scores - shift[..., None], 0.0)), 0.0)
    total = weights.sum(3)
    if sinks is not None:
        total = total + torch.exp(sinks[:, None] - shift)
    empty = total == 0.0
    total = torch.where(empty, 1.0, total)
    return weights / total[..., None], torch.where(empty, -math.inf, shift + torch.log(total))


def _table_index(distance: Tensor, rows: int) -> Tensor:
    """Row of a table of 2R + 1 rows for every distance."""
    reach = rows // 2
    return distance.clamp(-reach, reach) + reach


def _repeat_heads(tensor: Tensor, heads: int) -> Tensor:
    """(B, Hkv, n, D) to (B, Hq, n, D): query head h reads head h // (Hq / Hkv)."""
    return tensor if tensor.shape[1] == heads else tensor.repeat_interleave(heads // tensor.shape[1], dim=1)


def _select(mask: Tensor, dim: int, index: Tensor) -> Tensor:
    return mask if mask.shape[dim] == 1 else mask.index_select(dim, index)


def _check_key_lengths(key_lengths: Tensor | None, length: int) -> None:
    if key_lengths is None or key_lengths.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if torch._C._are_functorch_transforms_active():
        return
    if not bool(((key_lengths >= 0) & (key_lengths <= length)).all()):
        raise ValueError(f"key_lengths holds {key_lengths.tolist()}, expected values from 0 to {length}")
