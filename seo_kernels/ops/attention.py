"""``sk.attention``: the public call, and the choice of what serves it."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor
from torch.autograd import forward_ad

from seo_kernels import _library
from seo_kernels.ops.arguments import AttentionArguments, normalise
from seo_kernels.ops.attention_autodiff import AttentionFunction, forward_op
from seo_kernels.ops.attention_registration import register
from seo_kernels.patterns import Pattern
from seo_kernels.reference.attention import attention_op
from seo_kernels.relative import RelativePosition

if _library.available("cpu"):
    register()


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
    """DOC"""
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
    device = arguments.query.device.type
    if not _library.available("cpu" if device == "meta" else device):
        _library.warn_once(device)
        return attention_op(*values)
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    if torch.compiler.is_compiling():
        # The registered op knows backward only: transforms would take its derivative for zero.
        return attention_op(*values) if transformed else torch.ops.seo_kernels.attention_forward(*values)
    if transformed or (torch.is_grad_enabled() and any(isinstance(v, Tensor) and v.requires_grad for v in values)):
        return AttentionFunction.apply(*values)
    return forward_op(*values)
