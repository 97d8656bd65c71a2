"""Into heads and out of them: what surrounds attention in the layer.

Every function here compiles under TorchScript.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def project(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    weights: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    bias: Tensor | None,
    num_heads: int,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value of each head, (N, H, T, D): views, one matrix product for what is the same tensor.

    Args:
        weights: packed (3E, E) and three times None; or None and those of query (E, E), key (E, kdim) and
            value (E, vdim).
        bias: (3E,) or None.
    """
    packed, q_weight, k_weight, v_weight = weights
    q_bias: Tensor | None = None
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    if bias is not None:
        q_bias, k_bias, v_bias = bias.chunk(3)
    if packed is not None:
        size = packed.size(0) // 3
        if key is value:
            if query is key:
                q, k, v = split_heads(F.linear(query, packed, bias), 3, num_heads, batch_first)
                return q, k, v
            q = split_heads(F.linear(query, packed[:size], q_bias), 1, num_heads, batch_first)[0]
            key_value = F.linear(key, packed[size:], None if bias is None else bias[size:])
            k, v = split_heads(key_value, 2, num_heads, batch_first)
            return q, k, v
        q_weight, k_weight, v_weight = packed.chunk(3)
    assert q_weight is not None
    assert k_weight is not None
    assert v_weight is not None
    return (
        split_heads(F.linear(query, q_weight, q_bias), 1, num_heads, batch_first)[0],
        split_heads(F.linear(key, k_weight, k_bias), 1, num_heads, batch_first)[0],
        split_heads(F.linear(value, v_weight, v_bias), 1, num_heads, batch_first)[0],
    )


def split_heads(projected: Tensor, parts: int, num_heads: int, batch_first: bool) -> list[Tensor]:
    """``parts`` views (N, H, T, D) of (N, T, parts * E), (T, N, parts * E) or, unbatched, (T, parts * E)."""
    if projected.dim() == 2:
        projected, batch_first = projected[None], True
    dim = projected.size(2) // (parts * num_heads)
    heads = projected.view(projected.size(0), projected.size(1), parts, num_heads, dim)
    heads = heads.permute(2, 0, 3, 1, 4) if batch_first else heads.permute(2, 1, 3, 0, 4)
    return list(heads.unbind(0))


def merge_heads(out: Tensor, batched: bool, batch_first: bool) -> Tensor:
    """(N, H, T, D) to (N, T, E), (T, N, E) or, unbatched, (T, E)."""
    if not batched:
        return out[0].transpose(0, 1).flatten(1)
    if batch_first:
        return out.transpose(1, 2).flatten(2)
    return out.permute(2, 0, 1, 3).flatten(2)


def append_keys(heads: Tensor, learned: Tensor | None, zero: bool) -> Tensor:
    """Behind the keys (or values) (N, H, S, D): one that is learned (1, 1, E), then one of zeros."""
    batch, num_heads, _, dim = heads.shape
    if learned is not None:
        row = learned.to(heads.dtype).view(1, num_heads, 1, dim).expand(batch, -1, -1, -1)
        heads = torch.cat([heads, row], 2)
    if zero:
        heads = torch.cat(
            [heads, torch.zeros(batch, num_heads, 1, dim, dtype=heads.dtype, device=heads.device)], 2
        )
    return heads
