"""What ``nn.MultiheadAttention`` takes, checked and translated: shapes, and masks whose True hides.

Every function here but ``check_operands`` and its helper compiles under TorchScript.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def check_operands(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    weight: Tensor,
) -> None:
    """Raise where an input is no tensor, or not of the dtype and device of the weights."""
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}, expected a tensor")
        if tensor.device != weight.device:
            raise ValueError(f"{name} is on {tensor.device}, expected the weights' device {weight.device}")
        if tensor.dtype != weight.dtype and not (_cast_by_autocast(tensor) and _cast_by_autocast(weight)):
            raise TypeError(f"{name} has dtype {tensor.dtype}, expected the weights' {weight.dtype}")
    for name, mask in (("key_padding_mask", key_padding_mask), ("attn_mask", attn_mask)):
        if mask is not None and not isinstance(mask, Tensor):
            raise TypeError(f"{name} is a {type(mask).__name__}, expected a tensor or None")


def _cast_by_autocast(tensor: Tensor) -> bool:
    kind = tensor.device.type
    enabled = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return enabled and tensor.is_floating_point() and tensor.dtype != torch.float64


def check_shapes(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None,
    attn_mask: Tensor | None,
    embed_dim: int,
    kdim: int,
    vdim: int,
    num_heads: int,
    batch_first: bool,
) -> tuple[int, int, int]:
    """Sizes (batch, query length, key length) of inputs that fit together; batch is 1 for unbatched ones.

    Raises:
        ValueError: a shape does not fit.
        TypeError: a mask that is neither bool nor floating point.
    """
    batched = query.dim() == 3
    if query.dim() not in (2, 3) or query.size(-1) != embed_dim:
        expected = "(batch, length" if batch_first else "(length, batch"
        raise ValueError(
            f"query has shape {shape_text(query)}, expected {expected}, embed_dim={embed_dim}) "
            f"or unbatched (length, embed_dim={embed_dim})"
        )
    batch_dim = 0 if batch_first else 1
    length_dim = 1 - batch_dim if batched else 0
    batch = query.size(batch_dim) if batched else 1

    for name, tensor, dim_name, dim in (("key", key, "kdim", kdim), ("value", value, "vdim", vdim)):
        if (
            tensor.dim() != query.dim()
            or tensor.size(-1) != dim
            or (batched and tensor.size(batch_dim) != batch)
            or tensor.size(length_dim) != key.size(length_dim)
        ):
            length = "length" if name == "key" else f"length={key.size(length_dim)}"
            if batched:
                length = f"batch={batch}, {length}" if batch_first else f"{length}, batch={batch}"
            raise ValueError(f"{name} has shape {shape_text(tensor)}, expected ({length}, {dim_name}={dim})")
    query_length = query.size(length_dim)
    key_length = key.size(length_dim)

    if key_padding_mask is not None:
        check_mask_dtype("key_padding_mask", key_padding_mask)
        expected_padding = [batch, key_length] if batched else [key_length]
        if list(key_padding_mask.shape) != expected_padding:
            named = f"batch={batch}, key length={key_length}" if batched else f"key length={key_length},"
            raise ValueError(f"key_padding_mask has shape {shape_text(key_padding_mask)}, expected ({named})")
    if attn_mask is not None:
        check_mask_dtype("attn_mask", attn_mask)
        shape = list(attn_mask.shape)
        if shape != [query_length, key_length] and shape != [batch * num_heads, query_length, key_length]:
            lengths = f"query length={query_length}, key length={key_length}"
            raise ValueError(
                f"attn_mask has shape {shape_text(attn_mask)}, expected ({lengths}) "
                f"or (batch * num_heads={batch * num_heads}, {lengths})"
            )
    return batch, query_length, key_length


def check_mask_dtype(name: str, mask: Tensor) -> None:
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"{name} has dtype {mask.dtype}, expected torch.bool (True: hide) or floating point")


def shape_text(tensor: Tensor) -> str:
    """The shape in parentheses; TorchScript makes no tuple of it."""
    return "(" + ", ".join([str(size) for size in tensor.shape]) + ")"


def translate_masks(
    key_padding_mask: Tensor | None, attn_mask: Tensor | None, batch: int, num_heads: int, appended: int
) -> tuple[Tensor | None, Tensor | None]:
    """From masks whose True hides to what ``sk.attention`` takes.

    Args:
        key_padding_mask: (N, S), (S,) or None.
        attn_mask: (L, S), (N * num_heads, L, S) or None.
        appended: keys behind the S, seen by everybody.

    Returns:
        mask: (N or 1, num_heads or 1, L or 1, S + appended), bool (True: attend) or added to the scores.
        padding: bool (N, S + appended), True where a key is hidden from every query; apart from the mask so
            that no (N, L, S) tensor comes to be.
    """
    mask: Tensor | None = None
    padding: Tensor | None = None
    if attn_mask is not None:
        mask = attn_mask[None, None]
        if attn_mask.dim() == 3:
            mask = attn_mask.view(batch, num_heads, attn_mask.size(1), attn_mask.size(2))
    if key_padding_mask is not None:
        if key_padding_mask.dtype == torch.bool:
            padding = key_padding_mask.view(batch, key_padding_mask.size(-1))
        else:
            added = key_padding_mask.view(batch, 1, 1, key_padding_mask.size(-1))
            mask = added if mask is None else as_added(mask, added) + added
    if appended > 0:
        mask = mask if mask is None else F.pad(mask, [0, appended])
        padding = padding if padding is None else F.pad(padding, [0, appended])
    if mask is not None and mask.dtype == torch.bool:
        mask = mask.logical_not()
    return mask, padding


def as_added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as terms of the scores: -inf where a bool one hides."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, float("-inf"))
