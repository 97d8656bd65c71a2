"""What a step is fed: checked here, where its keys have names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from seo_kernels.ops.checks import kind

REQUIRED = ("input_ids", "labels")
IGNORED = -100  # what torch's losses leave out


def checked_batch(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The batch on the device, once its keys, shapes and kinds are known to fit each other.

    Labels of tokens become -100 where the attention mask says padding.

    Args:
        batch: "input_ids" int (B, T), "labels" (B, T) or (B,), "attention_mask" (B, T) where there is
            padding, and whatever else the model takes by name, B first.

    Raises:
        TypeError: something that is no mapping of tensors, or ids that are no integers.
        ValueError: a key that is missing, or a shape that does not fit.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(f"batch is {kind(batch)}, expected a mapping with {' and '.join(REQUIRED)}")
    for name in REQUIRED:
        if name not in batch:
            raise ValueError(
                f"batch has the keys {', '.join(map(str, batch)) or 'none'}, expected {name} too"
            )
    for name, value in batch.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"batch[{name!r}] is {kind(value)}, expected a tensor")
    ids = batch["input_ids"]
    if ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"batch['input_ids'] has dtype {ids.dtype}, expected token ids, int64 (B, T)")
    if ids.dim() != 2 or ids.numel() == 0:
        raise ValueError(
            f"batch['input_ids'] has shape {tuple(ids.shape)}, expected (B, T) with at least one token"
        )
    for name, value in batch.items():
        _check_shape(name, value, ids)
    inputs = {name: value.to(device) for name, value in batch.items()}
    labels, mask = inputs["labels"], inputs.get("attention_mask")
    if mask is not None and of_tokens(labels):
        inputs["labels"] = labels.masked_fill(~present(mask), IGNORED)
    return inputs


def of_tokens(labels: Tensor) -> bool:
    """Whether these are labels of tokens, and not of whole rows or numbers."""
    return labels.dim() == 2 and not labels.is_floating_point()


def present(mask: Tensor) -> Tensor:
    """Which positions (B, T) are no padding by a mask of any dtype, of pairs too."""
    return (mask if mask.dim() == 2 else mask.amax(1)) != 0


def _check_shape(name: str, value: Tensor, ids: Tensor) -> None:
    count, length = ids.shape
    fits, expected = value.shape[:1] == ids.shape[:1], f"(B={count}, ...)"
    if name == "labels":
        fits = value.shape in (ids.shape, ids.shape[:1])
        expected = f"(B={count}, T={length}), or one for each row, (B={count},)"
    elif name == "attention_mask":
        fits = value.shape in (ids.shape, (count, length, length))
        expected = f"(B={count}, T={length}), or for pairs (B={count}, {length}, {length})"
    if not fits:
        raise ValueError(f"batch[{name!r}] has shape {tuple(value.shape)}, expected {expected}")
