"""The attention probabilities themselves, for those who ask for them: plain torch, a (B, H, Tq, Tk) tensor.

Every function here compiles under TorchScript.
"""

import torch
from torch import Tensor


def attention_weights(
    query: Tensor,
    key: Tensor,
    visible: Tensor | None,
    mask: Tensor | None,
    relative_key: Tensor | None,
    relative_bias: Tensor | None,
    slopes: Tensor | None,
) -> Tensor:
    """softmax(scale * q . (k + relative_key) + relative_bias - slopes * |distance| + mask).

    Args:
        query: (B, H, Tq, D).
        key: (B, H, Tk, D).
        visible: bool, broadcastable to (B, H, Tq, Tk); the softmax is over the visible keys.
        mask: broadcastable to (B, H, Tq, Tk), bool (True: attend) or added to the scores.
        relative_key, relative_bias, slopes: the tables of ``sk.RelativePosition``.

    Returns:
        (B, H, Tq, Tk); a row that sees no key is zero.
    """
    distance = key_distance(query, key)  # (Tq, Tk)
    scores = query @ key.transpose(-2, -1)
    if relative_key is not None:
        by_row = query @ relative_key.to(query.dtype).transpose(-2, -1)  # (B, H, Tq, 2R + 1)
        scores = scores + by_row.gather(-1, table_rows(distance, relative_key.size(-2)).expand_as(scores))
    scores = scores * query.size(-1) ** -0.5
    if relative_bias is not None:
        scores = scores + relative_bias.to(scores.dtype)[:, table_rows(distance, relative_bias.size(-1))]
    if slopes is not None:
        scores = scores - slopes.to(scores.dtype)[:, None, None] * distance.abs()
    if mask is not None:
        shown = mask if mask.dtype == torch.bool else mask != float("-inf")
        visible = shown if visible is None else visible & shown
        if mask.dtype != torch.bool:
            scores = scores + torch.where(shown, mask, 0.0).to(scores.dtype)
    if visible is None:
        return scores.softmax(-1)
    scores = torch.where(visible, scores, float("-inf"))
    # a row of -inf alone would become NaN, here and in the gradient
    scores = torch.where(visible.any(-1, keepdim=True), scores, 0.0)
    return torch.where(visible, scores.softmax(-1), 0.0)


def weighted_values(weights: Tensor, value: Tensor, relative_value: Tensor | None) -> Tensor:
    """sum_j weights_ij (v_j + relative_value[distance]): (B, H, Tq, Dv)."""
    out = weights @ value
    if relative_value is not None:
        rows = table_rows(key_distance(weights, value), relative_value.size(-2)).expand_as(weights)
        totals = torch.zeros(
            weights.size(0),
            weights.size(1),
            weights.size(2),
            relative_value.size(-2),
            dtype=weights.dtype,
            device=weights.device,
        ).scatter_add(-1, rows, weights)  # (B, H, Tq, 2R + 1)
        out = out + totals @ relative_value.to(totals.dtype)
    return out


def key_distance(query: Tensor, key: Tensor) -> Tensor:
    """pos_key - pos_query (Tq, Tk), the last query standing at the last key."""
    queries, keys = query.size(-2), key.size(-2)
    key_index = torch.arange(keys, device=query.device)
    return key_index - (torch.arange(queries, device=query.device) + (keys - queries))[:, None]


def table_rows(distance: Tensor, rows: int) -> Tensor:
    """The row of a table of 2R + 1 for every distance."""
    reach = rows // 2
    return distance.clamp(-reach, reach) + reach
