"""What ``torch.compile`` and ``torch.export`` need to know of the ops: their shapes, and their backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.attention_autodiff import AttentionFunction


def register() -> None:
    """Give the loaded ops their fake kernels, and the forward its first-order autograd."""
    torch.library.register_fake("seo_kernels::attention_forward", _fake_forward)
    torch.library.register_fake("seo_kernels::attention_backward", _fake_backward)
    torch.library.register_autograd(
        "seo_kernels::attention_forward",
        AttentionFunction.backward,
        setup_context=AttentionFunction.setup_context,
    )


def _fake_forward(query: Tensor, key: Tensor, value: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    rows = query.shape[:3]  # B, Hq, Tq
    lse_dtype = torch.promote_types(query.dtype, torch.float32)
    return query.new_empty(*rows, value.shape[3]), query.new_empty(rows, dtype=lse_dtype)


def _fake_backward(
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
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
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    inputs = (query, key, value, relative_key, relative_value, relative_bias, slopes, mask, sinks)
    return tuple(
        query.new_empty(0) if tensor is None or not want else tensor.new_empty(tensor.shape)
        for tensor, want in zip(inputs, wanted, strict=True)
    )
