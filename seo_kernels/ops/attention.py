"""``sk.attention``: the public call, and the choice of what serves it."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from seo_kernels import _library
from seo_kernels.ops.arguments import AttentionArguments, normalise
from seo_kernels.ops.attention_autodiff import AttentionFunction, forward_op
from seo_kernels.ops.attention_registration import register
from seo_kernels.ops.transforms import transformed
from seo_kernels.patterns import Pattern
from seo_kernels.reference.attention import attention_op
from seo_kernels.relative import RelativePosition

if _library.available("cpu"):
    register()


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    pattern: Pattern | None = ...,
    relative: RelativePosition | None = ...,
    mask: Tensor | None = ...,
    key_lengths: Tensor | None = ...,
    segment_ids: Tensor | tuple[Tensor, Tensor] | None = ...,
    sinks: Tensor | None = ...,
    dropout_p: float = ...,
    scale: float | None = ...,
    softcap: float | None = ...,
    query_offset: int | None = ...,
    return_lse: Literal[False] = ...,
) -> Tensor: ...


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    pattern: Pattern | None = ...,
    relative: RelativePosition | None = ...,
    mask: Tensor | None = ...,
    key_lengths: Tensor | None = ...,
    segment_ids: Tensor | tuple[Tensor, Tensor] | None = ...,
    sinks: Tensor | None = ...,
    dropout_p: float = ...,
    scale: float | None = ...,
    softcap: float | None = ...,
    query_offset: int | None = ...,
    return_lse: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    pattern: Pattern | None = ...,
    relative: RelativePosition | None = ...,
    mask: Tensor | None = ...,
    key_lengths: Tensor | None = ...,
    segment_ids: Tensor | tuple[Tensor, Tensor] | None = ...,
    sinks: Tensor | None = ...,
    dropout_p: float = ...,
    scale: float | None = ...,
    softcap: float | None = ...,
    query_offset: int | None = ...,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


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
    """Attention with local, sparse and relative patterns, differentiable to any order.

    Key j stands at position j, query i at i + query_offset; distance_ij is key's minus query's position.
    With r_ij = clip(distance_ij, -R, R) + R (every table has its own R), for every batch entry and head:

        s_ij = scale * q_i . (k_j + relative.key[r_ij])
        s_ij = softcap * tanh(s_ij / softcap)                      (where a softcap is given)
        s_ij = s_ij + relative.bias[r_ij] - relative.slopes * |distance_ij| + mask_ij
        lse_i = log(sum_j exp(s_ij) + exp(sinks)),   p_ij = exp(s_ij - lse_i)
        out_i = sum_j dropout(p_ij) (v_j + relative.value[r_ij])

    where j runs over the keys that pattern, bool mask, key_lengths and segment_ids all let query i see. A row
    that sees no key gives zeros, zero gradients, and an lse of -inf (the sink, where there is one). Time and
    memory are those of the key tiles that the pattern visits, for derivatives of any order too.

    Args:
        query: (B, Hq, Tq, D), D and Dv from 1 to 256; float64, float32, bfloat16 or float16; any strides.
        key: (B, Hkv, Tk, D). Hkv divides Hq: query head h reads key head h // (Hq / Hkv).
        value: (B, Hkv, Tk, Dv).
        pattern: which keys a query sees, such as ``Causal()`` or ``Local(128) | GlobalTokens(2)``; None: all.
        relative: tables over the clipped distance, and slopes over the unclipped one (``RelativePosition``).
        mask: broadcastable to (B, Hq, Tq, Tk): bool, True attends; or floating point, added to the scores.
        key_lengths: (B,) int; keys from there on are not seen, whatever they hold.
        segment_ids: (B, T) int, or a pair (B, Tq) and (B, Tk): a query sees the keys of its own segment.
        sinks: (Hq,); one more logit per row, which takes part in the softmax and carries no value.
        dropout_p: in [0, 1), for the weights p; the bits follow from a seed of torch's default generator.
        scale: of the scores; None: 1 / sqrt(D).
        softcap: positive; None: no cap.
        query_offset: position of the first query; None: Tk - Tq, the last query stands at the last key.
        return_lse: whether to return lse too.

    Returns:
        out (B, Hq, Tq, Dv) in the dtype of the query; with ``return_lse`` also lse (B, Hq, Tq), a natural
        logarithm, in float32 (float64 for float64). Both are differentiable. Under autocast query, key and
        value take its dtype. Tables, slopes, sinks and a float mask may have any of the four dtypes, and get
        their gradients in it.

    Raises:
        TypeError: an argument is not of the kind that is expected, or has a wrong dtype.
        ValueError: a shape, a device or a number does not fit, or key_lengths holds a number outside [0, Tk].

    Backward, forward mode and ``torch.func`` transforms work in any nesting; ``torch.compile`` and
    ``torch.export`` give first-order gradients. ``vmap`` folds into the batch, and loops where tables or
    masks are batched or their gradients are wanted, and for dropout (which needs ``randomness=``).

    Sources: Vaswani et al. 2017, "Attention Is All You Need", eq. 1; Shaw et al. 2018, "Self-Attention with
    Relative Position Representations", eq. 3 and 4 (tables); Press et al. 2022, "Train Short, Test Long"
    (ALiBi slopes); Dao 2023, "FlashAttention-2", algorithms 1 and 2 (tiles, lse, backward).

    >>> import seo_kernels as sk
    >>> query, key, value = torch.randn(3, 1, 2, 1000, 16).unbind()
    >>> relative = sk.RelativePosition(bias=torch.zeros(2, 65, requires_grad=True))
    >>> out, lse = attention(query, key, value, pattern=sk.Local(32), relative=relative, return_lse=True)
    >>> out.shape, lse.shape
    (torch.Size([1, 2, 1000, 16]), torch.Size([1, 2, 1000]))
    >>> out.square().sum().backward()
    >>> relative.bias.grad.shape
    torch.Size([2, 65])
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
    out, lse = _serve(arguments)
    return (out, lse) if return_lse else out


def _serve(arguments: AttentionArguments) -> tuple[Tensor, Tensor]:
    values = arguments.values()
    device = arguments.query.device
    if not _library.available(device):
        _library.warn_once(device)
        return attention_op(*values)
    if torch.compiler.is_compiling():
        # The registered op knows backward only: transforms would take its derivative for zero.
        return attention_op(*values) if transformed() else torch.ops.seo_kernels.attention_forward(*values)
    if (torch.is_grad_enabled() and any(map(_requires_grad, values))) or transformed():
        return AttentionFunction.apply(*values)
    return forward_op(*values)


def _requires_grad(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
