"""Losses by name, of the outputs of a head and the targets that a user has for it."""

from __future__ import annotations

import torch
from torch import Tensor

from seo_kernels.nn.sequences import check_tensor, readable
from seo_kernels.ops.losses import cross_entropy, focal_loss, huber_loss

OF_CLASSES = ("cross_entropy", "focal")
LOSS_TYPES = (*OF_CLASSES, "binary_cross_entropy", "huber")
NO_LABEL = -100  # as in torch.nn.functional.cross_entropy


def check_loss_type(name: str, loss_type: str, outputs: int) -> None:
    """Raise where a loss of this type would be zero for so many outputs, whatever they are.

    Args:
        name: what the number of outputs is called, for the message.
    """
    if loss_type in OF_CLASSES and outputs == 1:
        raise ValueError(
            f"{name} is 1 for the loss {loss_type!r}, expected 2 or more: one output is for "
            "'binary_cross_entropy' or 'huber'"
        )


def task_loss(loss_type: str, output: Tensor, target: Tensor, name: str) -> Tensor:
    """The mean loss, a scalar, of outputs (B, C).

    Args:
        loss_type: "cross_entropy", or "focal" (Lin et al. 2017, gamma 2): the target is class ids (B,) or
            (B, 1), -100 where there is no label. "binary_cross_entropy": each output is a logit of its own;
            the target is 0, 1 or between, of any dtype, (B, C), or (B,) for C = 1. "huber": numbers,
            (B, C), or (B,) for C = 1.
        name: what the target is called, for messages.

    Raises:
        TypeError: a target that is no tensor, or of another kind.
        ValueError: one of another shape, or with values out of range.

    >>> task_loss("binary_cross_entropy", torch.zeros(2, 1), torch.tensor([0, 1]), "labels")
    tensor(0.6931)
    """
    if loss_type in OF_CLASSES:
        labels = _class_ids(output, target, name)
        of_rows = cross_entropy if loss_type == "cross_entropy" else focal_loss
        # not "mean": where no row has a label, that is NaN, and so would be the sum over the tasks
        return of_rows(output, labels, reduction="sum") / (labels != NO_LABEL).sum().clamp(min=1)
    values = _numbers(output, target, name)
    if loss_type == "huber":
        return huber_loss(output, values)
    _check_range(values, 0, 1, name, "0, 1 or a number between")
    # -t log s(z) - (1 - t) log s(-z): the cross entropy of two classes with logits 0 and z
    pairs = torch.stack((torch.zeros_like(output), output), -1).flatten(0, 1)
    return cross_entropy(pairs, torch.stack((1 - values, values), -1).flatten(0, 1))


def _class_ids(output: Tensor, target: Tensor, name: str) -> Tensor:
    batch, classes = output.shape
    expected = f"class ids (batch={batch},) from 0 to {classes - 1}"
    check_tensor(name, target, expected)
    if target.is_floating_point() or target.is_complex() or target.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {target.dtype}, expected {expected}, int64")
    if target.shape not in ((batch,), (batch, 1)):
        raise ValueError(f"{name} has shape {tuple(target.shape)}, expected {expected}")
    labels = target.reshape(batch).long()
    _check_range(labels[labels != NO_LABEL] if readable(labels) else labels, 0, classes - 1, name, expected)
    return labels


def _numbers(output: Tensor, target: Tensor, name: str) -> Tensor:
    batch, width = output.shape
    expected = f"numbers (batch={batch}, {width})" + (f" or (batch={batch},)" if width == 1 else "")
    check_tensor(name, target, expected)
    if target.is_complex():
        raise TypeError(f"{name} has dtype {target.dtype}, expected {expected}")
    if target.shape != output.shape and (width > 1 or target.shape != (batch,)):
        raise ValueError(f"{name} has shape {tuple(target.shape)}, expected {expected}")
    return target.reshape(output.shape).to(output.dtype)


def _check_range(values: Tensor, least: int, most: int, name: str, expected: str) -> None:
    if readable(values) and values.numel():
        odd = values[(values < least) | (values > most) | values.isnan()]
        if odd.numel():
            raise ValueError(f"{name} holds {odd[0].item()}, expected {expected}")
