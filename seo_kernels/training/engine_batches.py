"""What a loader yields, whatever it is: how many rows, which shapes, its loss and numbers beside it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.checks import kind
from seo_kernels.training.non_finite import check_loss


def tensors_of(batch: object) -> Iterator[Tensor]:
    """All tensors in nested mappings, lists and tuples, in order."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from tensors_of(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from tensors_of(value)


def row_count(batch: object) -> int:
    """The first size of the first tensor that has one; 1 where none has.

    Raises:
        ValueError: it is 0.
    """
    rows = next((len(tensor) for tensor in tensors_of(batch) if tensor.dim() > 0), 1)
    if rows == 0:
        raise ValueError(f"the batch {shapes(batch)} has no rows, expected at least one")
    return rows


def known_length(loader: Any) -> int | None:
    """How many batches it yields; None where it does not say."""
    try:
        return len(loader)
    except TypeError:  # a DataLoader of a stream has __len__ too
        return None


def shapes(batch: object) -> str:
    """The shapes of its tensors, for a message."""
    found = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(batch))
    return f"of shapes {found}" if found else f"({kind(batch)})"


def loss_and_metrics(given: object) -> tuple[Tensor, dict[str, Any]]:
    """The scalar loss, and the metrics by name, of what a ``loss_of_batch`` returned.

    Raises:
        TypeError, ValueError: no scalar loss, or metrics that are none.
    """
    metrics: Any = {}
    if isinstance(given, tuple) and len(given) == 2:
        given, metrics = given
        if not isinstance(metrics, Mapping):
            raise TypeError(f"the metrics are {kind(metrics)}, expected a mapping from names to numbers")
    loss = check_loss(given)
    for name, value in metrics.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"the metric {name!r} has shape {tuple(value.shape)}, expected one number")
        if not isinstance(value, (Tensor, int, float)):
            raise TypeError(f"the metric {name!r} is {kind(value)}, expected one number")
        if name == "loss":
            raise ValueError("a metric is named 'loss', expected another name beside the loss itself")
    return loss, dict(metrics)


def numbers(loss: Tensor, metrics: Mapping[str, Any]) -> Tensor:
    """Loss and metrics in one float64 tensor: one transfer to the host for all."""
    values = [torch.as_tensor(value, device=loss.device).detach().reshape(()) for value in metrics.values()]
    return torch.stack([value.double() for value in (loss.detach(), *values)])


def name_batch(error: Exception, batch: object, place: str) -> None:
    """Note at the error which batch it was."""
    if sys.version_info >= (3, 11):
        error.add_note(f"in {place}, a batch {shapes(batch)}")
