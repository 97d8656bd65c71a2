"""Attention under TorchScript: the op itself, without keyword-only arguments or patterns as objects.

Gradients are first order, from the op's registered autograd formula.
"""

import torch
from torch import Tensor

from seo_kernels.ops.arguments import MAX_DIM


def scripted_attention(
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
    segments: tuple[Tensor, Tensor] | None,
    dropout_p: float,
    query_offset: int,
) -> Tensor:
    """``sk.attention`` for arguments that are already what the op takes: (B, H, Tq, Dv)."""
    seed: Tensor | None = None
    if dropout_p > 0.0:
        seed = torch.randint(0x7FFFFFFFFFFFFFFF, [], dtype=torch.int64, device=query.device)
    query_segments: Tensor | None = None
    key_segments: Tensor | None = None
    if segments is not None:
        query_segments, key_segments = segments
    out, _lse = torch.ops.seo_kernels.attention_forward(
        query,
        key,
        value,
        pattern,
        layout,
        relative_key,
        relative_value,
        relative_bias,
        slopes,
        mask,
        None,
        query_segments,
        key_segments,
        None,
        seed,
        dropout_p,
        query.size(-1) ** -0.5,
        0.0,
        query_offset,
    )
    return out


def scripted_visibility(
    pattern: str,
    layout: Tensor | None,
    heads: int,
    query_length: int,
    key_length: int,
    device: torch.device,
    columns: int = MAX_DIM,
) -> Tensor:
    """What ``pattern.dense_mask`` gives, read off the op: bool (1, heads, Tq, Tk).

    With scores that are all zero and one-hot values, a query's output is above zero at the keys that it sees:
    as many keys at a time as a value may have columns.
    """
    query = torch.zeros(1, heads, query_length, 1, device=device)
    key = torch.zeros(1, 1, key_length, 1, device=device)
    visible = [torch.zeros(1, heads, query_length, 0, dtype=torch.bool, device=device)]
    for begin in range(0, key_length, columns):
        shown = torch.arange(begin, min(begin + columns, key_length), device=device)
        value = (torch.arange(key_length, device=device)[:, None] == shown).to(query.dtype)[None, None]
        out = scripted_attention(
            query,
            key,
            value,
            pattern,
            layout,
            None,
            None,
            None,
            None,
            None,
            None,
            0.0,
            key_length - query_length,
        )
        visible.append(out > 0.0)
    return torch.cat(visible, -1)
