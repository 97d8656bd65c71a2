"""From what the user passes to a loss to rows of classes, with every error in the user's words.

Shapes, dtypes and devices only: what targets hold is checked by the op, since a look at values here would
break ``torch.compile``, ``torch.export`` and ``torch.func.vmap``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
REDUCTIONS = ("none", "mean", "sum")
_INDICES = (torch.int64, torch.int32, torch.uint8)
_NUMBER = (float, int, torch.SymFloat, torch.SymInt)


@dataclass(frozen=True)
class ClassRows:
    """A loss of class scores, as rows: N is the product of all dimensions but the classes'."""

    input: Tensor  # (N, C)
    target: Tensor  # int64 (N,), or probabilities (N, C)
    shape: torch.Size  # of the loss before it is reduced
    dtype: torch.dtype  # of the result

    @property
    def soft(self) -> bool:
        return self.target.ndim == 2


def class_rows(input: Tensor, target: Tensor, *, soft: bool = True) -> ClassRows:
    """Rows of input (C,), (N, C) or (N, C, d1, ...), and of target: indices of the same shape without C, or
    (where ``soft`` allows it) probabilities of the same shape.

    Raises:
        TypeError: not a tensor, or a wrong dtype.
        ValueError: shapes or devices that do not fit.
    """
    check_floating("input", input)
    if not isinstance(target, Tensor):
        raise TypeError(f"target is {kind(target)}, expected a tensor of class indices")
    check_device("target", target, input.device)
    if input.ndim == 0:
        raise ValueError("input has shape (), expected (C,), (N, C) or (N, C, d1, ...)")
    place = 0 if input.ndim == 1 else 1
    classes = input.shape[place]
    if classes == 0:
        raise ValueError(f"input has shape {tuple(input.shape)}, expected at least one class")
    shape = torch.Size((*input.shape[:place], *input.shape[place + 1 :]))
    dtype = result_dtype(input)
    if soft and target.is_floating_point():
        check_floating("target", target)
        if target.shape != input.shape:
            raise ValueError(
                f"target has shape {tuple(target.shape)}, expected probabilities of the input's shape "
                f"{tuple(input.shape)}, or class indices of shape {tuple(shape)} and dtype torch.int64"
            )
        wide = torch.promote_types(input.dtype, target.dtype)
        if wide == torch.float64:
            input, target = input.double(), target.double()
        return ClassRows(_flat(input, place), _flat(target, place), shape, torch.promote_types(dtype, wide))
    return ClassRows(_flat(input, place), class_indices(target, shape, soft=soft).reshape(-1), shape, dtype)


@dataclass(frozen=True)
class HiddenRows:
    """A linear layer with a loss, as rows: T is the product of all dimensions of the target."""

    hidden: Tensor  # (T, D)
    weight: Tensor  # (V, D)
    target: Tensor  # int64 (T,)
    shape: torch.Size  # of the loss before it is reduced
    dtype: torch.dtype  # of the result


def hidden_rows(hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None) -> HiddenRows:
    """Rows of hidden (..., D) and target (...). Under autocast hidden and weight are cast.

    Raises:
        TypeError: not a tensor, or a wrong dtype.
        ValueError: shapes or devices that do not fit.
    """
    check_floating("hidden", hidden)
    check_floating("weight", weight)
    device = hidden.device
    dtype = result_dtype(hidden)
    if device.type != "meta" and torch.is_autocast_enabled(device.type):
        wanted = torch.get_autocast_dtype(device.type)
        hidden, weight = (t if t.dtype == torch.float64 else t.to(wanted) for t in (hidden, weight))
    if weight.dtype != hidden.dtype:
        raise TypeError(f"weight has dtype {weight.dtype}, expected hidden's {hidden.dtype}")
    if not isinstance(target, Tensor):
        raise TypeError(f"target is {kind(target)}, expected a tensor of class indices")
    check_device("weight", weight, device)
    check_device("target", target, device)
    if hidden.ndim == 0:
        raise ValueError("hidden has shape (), expected (..., dim)")
    dim = hidden.shape[-1]
    if weight.ndim != 2 or weight.shape[1] != dim:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected (classes, dim={dim})")
    classes = weight.shape[0]
    if classes == 0:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected at least one class")
    if bias is not None:
        check_floating("bias", bias)
        check_device("bias", bias, device)
        if bias.shape != (classes,):
            raise ValueError(f"bias has shape {tuple(bias.shape)}, expected one per class, ({classes},)")
    shape = hidden.shape[:-1]
    indices = class_indices(target, shape)
    flat = hidden if hidden.ndim == 2 else hidden.reshape(shape.numel(), dim)
    return HiddenRows(flat, weight, indices.reshape(-1), shape, dtype)


def class_indices(target: Tensor, shape: tuple[int, ...], *, soft: bool = False) -> Tensor:
    """The target as int64, if it is integer and has that shape."""
    if target.dtype not in _INDICES:
        also = ", or floating point of the input's shape" if soft else ""
        raise TypeError(f"target has dtype {target.dtype}, expected class indices of torch.int64{also}")
    if target.shape != shape:
        also = ", or probabilities of the input's shape" if soft else ""
        raise ValueError(
            f"target has shape {tuple(target.shape)}, expected one class index per row, {tuple(shape)}{also}"
        )
    return target.long()


def _flat(tensor: Tensor, place: int) -> Tensor:
    """(..., C, ...) with the classes at ``place`` to (N, C)."""
    return tensor if tensor.ndim == 2 else tensor.movedim(place, -1).reshape(-1, tensor.shape[place])


def result_dtype(input: Tensor) -> torch.dtype:
    """The dtype of a loss: the input's; under autocast, where losses run in float32, at least that."""
    device = input.device.type
    if device != "meta" and torch.is_autocast_enabled(device):  # autocast knows no meta
        return torch.promote_types(input.dtype, torch.float32)
    return input.dtype


def reduced(
    losses: Tensor, reduction: str, shape: tuple[int, ...], dtype: torch.dtype, count: Tensor | int
) -> Tensor:
    """Losses (N,) as the user wants them: of that shape, or their sum, or the sum divided by ``count``."""
    if reduction == "none":
        return losses.reshape(shape).to(dtype)
    total = losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32))
    return (total / count if reduction == "mean" else total).to(dtype)


def counted_weight(target: Tensor, ignore_index: int, weight: Tensor | None = None) -> Tensor:
    """The sum of the class weights (1 each, without) of the targets that are not ignored."""
    counted = target != ignore_index
    if weight is None:
        return counted.sum()
    return torch.where(counted, weight[torch.where(counted, target, 0)], 0.0).sum()


def huber_operands(
    input: Tensor, target: Tensor, weight: Tensor | None
) -> tuple[tuple[Tensor, Tensor, Tensor | None], torch.Size, torch.dtype]:
    """The tensors of one shape (float64 all, if one is), that shape, and the dtype of the result.

    Raises:
        TypeError: not tensors, or a wrong dtype.
        ValueError: shapes or devices that do not fit.
    """
    present = [("input", input), ("target", target)]
    for name, tensor in present if weight is None else [*present, ("weight", weight)]:
        check_floating(name, tensor)
        check_device(name, tensor, input.device)
    try:
        shape = torch.broadcast_shapes(input.shape, target.shape)
    except RuntimeError:
        raise ValueError(
            f"target has shape {tuple(target.shape)}, expected one that broadcasts with the input's "
            f"{tuple(input.shape)}"
        ) from None
    if weight is not None and weight.shape != shape:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}, expected that of input and target, {tuple(shape)}"
        )
    dtype = torch.promote_types(result_dtype(input), target.dtype)
    if weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype)
    if dtype == torch.float64:
        input, target = input.double(), target.double()
        weight = None if weight is None else weight.double()
    return (input.expand(shape), target.expand(shape), weight), shape, dtype


def class_weight(name: str, weight: Tensor, input: Tensor, classes: int) -> Tensor:
    """A weight per class, in the accumulation dtype of the input."""
    check_floating(name, weight)
    check_device(name, weight, input.device)
    if weight.shape != (classes,):
        raise ValueError(
            f"{name} has shape {tuple(weight.shape)}, expected one number per class, ({classes},)"
        )
    return weight.to(torch.promote_types(input.dtype, torch.float32))


def check_floating(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is {kind(tensor)}, expected a tensor")
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected float32, bfloat16, float16 or float64")


def check_device(name: str, tensor: Tensor, device: torch.device) -> None:
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected the input's device {device}")


def check_reduction(reduction: Any) -> None:
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction is {reduction!r}, expected 'none', 'mean' or 'sum'")


def check_index(name: str, index: Any) -> None:
    if not isinstance(index, (int, torch.SymInt)) or isinstance(index, bool):
        raise TypeError(f"{name} is {kind(index)}, expected an int")


def check_no_index(ignore_index: int) -> None:
    """Class probabilities have no index to ignore; a negative one, such as the default, says nothing."""
    if ignore_index >= 0:
        raise ValueError(f"ignore_index is {ignore_index}, expected none: target holds class probabilities")


def check_number(name: str, number: Any, expected: str) -> float:
    """A finite number, as a float. ``expected`` ends the error's sentence."""
    if not isinstance(number, _NUMBER) or isinstance(number, bool):
        raise TypeError(f"{name} is {kind(number)}, expected {expected}")
    if not -math.inf < number < math.inf:
        raise ValueError(f"{name} is {number}, expected {expected}")
    return float(number)


def check_smoothing(label_smoothing: Any) -> float:
    smoothing = check_number("label_smoothing", label_smoothing, "a number in [0, 1]")
    if not 0.0 <= smoothing <= 1.0:
        raise ValueError(f"label_smoothing is {label_smoothing}, expected a number in [0, 1]")
    return smoothing


def check_gamma(gamma: Any) -> float:
    number = check_number("gamma", gamma, "a number of at least 0")
    if number < 0.0:
        raise ValueError(f"gamma is {gamma}, expected a number of at least 0")
    return number


def check_delta(delta: Any) -> float:
    number = check_number("delta", delta, "a number above 0")
    if number <= 0.0:
        raise ValueError(f"delta is {delta}, expected a number above 0")
    return number


def kind(value: Any) -> str:
    return f"a {type(value).__name__}"
