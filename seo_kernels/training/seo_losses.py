"""Loss and accuracy of batches of texts and labels, for the SEO models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.gradient_norms import unwrapped
from seo_kernels.models.seo_classifier import BATCH_KEYS
from seo_kernels.models.seo_multi_task import CustomMultiTaskSEOModel
from seo_kernels.models.task_losses import NO_LABEL, OF_CLASSES, task_loss
from seo_kernels.ops.checks import kind

Metrics = dict[str, Tensor]


def named_batch(batch: Any) -> Mapping[str, Any]:
    """The batch by the names of its parts.

    Args:
        batch: a mapping of "input_ids", "labels" and, where there is padding, "attention_mask"; or a tuple or
            list: ids, mask, labels, or ids, labels.

    Raises:
        TypeError: something else.
        ValueError: a key that is missing or unknown, or another number of parts.
    """
    if isinstance(batch, (tuple, list)):
        names = {2: ("input_ids", "labels"), 3: BATCH_KEYS}.get(len(batch))
        if names is None:
            raise ValueError(f"the batch has {len(batch)} parts, expected input_ids, attention_mask, labels")
        return dict(zip(names, batch, strict=True))
    if not isinstance(batch, Mapping):
        raise TypeError(
            f"the batch is {kind(batch)}, expected a mapping or a tuple of {', '.join(BATCH_KEYS)}"
        )
    missing = [name for name in ("input_ids", "labels") if name not in batch]
    unknown = [str(name) for name in batch if name not in BATCH_KEYS]
    for names_, problem in ((missing, "lacks"), (unknown, "has")):
        if names_:
            raise ValueError(f"the batch {problem} {', '.join(names_)}, expected {', '.join(BATCH_KEYS)}")
    return batch


def classifier_loss(model: nn.Module, batch: Any) -> tuple[Tensor, Metrics]:
    """The mean loss of a classifier, and its accuracy from 0 to 1.

    Args:
        model: called with ids and mask gives logits (B, C); C = 1: of one class or not.
        batch: see ``named_batch``; labels are class ids (B,), -100 for none; for C = 1 numbers from 0 to 1.

    Raises:
        TypeError, ValueError: a batch or outputs that do not fit.
    """
    parts = named_batch(batch)
    logits = model(parts["input_ids"], parts.get("attention_mask"))
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        shown = f"of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"({kind(logits)})"
        raise TypeError(f"the model's output {shown} is something else, expected logits (B, num_classes)")
    loss_type = "cross_entropy" if logits.shape[1] > 1 else "binary_cross_entropy"
    loss = task_loss(loss_type, logits, parts["labels"], "labels")
    return loss, {"accuracy": _accuracy(loss_type, logits, parts["labels"])}


def multi_task_loss(model: nn.Module, batch: Any) -> tuple[Tensor, Metrics]:
    """The sum of the tasks' mean losses; "accuracy", the mean over the tasks of classes, and that of each.

    Args:
        model: a ``CustomMultiTaskSEOModel``, wrapped or not.
        batch: see ``named_batch``; labels are a mapping from tasks to theirs.

    Raises:
        TypeError, ValueError: a batch that does not fit.
    """
    parts = named_batch(batch)
    tasks = unwrapped(model)
    assert isinstance(tasks, CustomMultiTaskSEOModel)
    outputs = model(parts["input_ids"], parts.get("attention_mask"))
    loss = tasks.compute_multi_task_loss(outputs, parts["labels"])
    each = {
        f"accuracy_{name}": _accuracy(loss_type, outputs[name], parts["labels"][name])
        for name, (loss_type, _) in tasks.tasks.items()
        if loss_type != "huber"
    }
    mean = torch.stack(list(each.values())).mean() if each else torch.tensor(torch.nan)
    return loss, {"accuracy": mean, **each}


def _accuracy(loss_type: str, outputs: Tensor, labels: Tensor) -> Tensor:
    """The share of labels that are hit; of rows without a label none is: NaN where no row has one."""
    outputs, labels = outputs.detach(), labels.to(outputs.device)
    if loss_type in OF_CLASSES:
        wanted = labels.reshape(-1)
        counted = wanted != NO_LABEL
        hits = (outputs.argmax(1) == wanted) & counted
        return hits.sum() / counted.sum()
    return ((outputs > 0) == (labels.reshape(outputs.shape) > 0.5)).float().mean()
