"""The losses in plain torch: oracle of the tests, fallback of the ops, formulas of their double backward.

Everything is computed in the dtype of the result, as written, and shares no code with the kernels. Functions
that end in ``_rows`` take what the ops take and give unreduced losses; the others lay out arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, log_softmax

from seo_kernels.ops.loss_arguments import (
    check_delta,
    check_gamma,
    check_index,
    check_no_index,
    check_number,
    check_reduction,
    check_smoothing,
    class_rows,
    class_weight,
    counted_weight,
    hidden_rows,
    huber_operands,
    reduced,
)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``seo_kernels.cross_entropy`` in plain torch: same arguments, meaning and errors."""
    check_reduction(reduction)
    check_index("ignore_index", ignore_index)
    smoothing = check_smoothing(label_smoothing)
    rows = class_rows(input, target)
    if weight is not None:
        weight = class_weight("weight", weight, rows.input, rows.input.shape[1]).to(rows.dtype)
    if rows.soft:
        check_no_index(ignore_index)
        losses = soft_cross_entropy_rows(rows.input.to(rows.dtype), rows.target, weight, smoothing)
        return reduced(losses, reduction, rows.shape, rows.dtype, rows.input.shape[0])
    losses = cross_entropy_rows(rows.input.to(rows.dtype), rows.target, weight, ignore_index, smoothing)
    count = counted_weight(rows.target, ignore_index, weight)
    return reduced(losses, reduction, rows.shape, rows.dtype, count)


def focal_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float | Tensor = 1.0,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """``seo_kernels.focal_loss`` in plain torch: same arguments, meaning and errors."""
    check_reduction(reduction)
    check_index("ignore_index", ignore_index)
    gamma = check_gamma(gamma)
    rows = class_rows(input, target, soft=False)
    scale, weight = 1.0, None
    if isinstance(alpha, Tensor):
        weight = class_weight("alpha", alpha, rows.input, rows.input.shape[1]).to(rows.dtype)
    else:
        scale = check_number("alpha", alpha, "a number or a tensor (C,)")
    losses = focal_loss_rows(rows.input.to(rows.dtype), rows.target, weight, gamma, ignore_index) * scale
    return reduced(losses, reduction, rows.shape, rows.dtype, counted_weight(rows.target, ignore_index))


def huber_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    delta: float = 1.0,
) -> Tensor:
    """``seo_kernels.huber_loss`` in plain torch: same arguments, meaning and errors."""
    check_reduction(reduction)
    delta = check_delta(delta)
    (input, target, weight), _shape, dtype = huber_operands(input, target, weight)
    losses = huber_loss_entries(input.to(dtype), target.to(dtype), weight, delta)
    return reduced(losses, reduction, losses.shape, dtype, losses.numel())


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """``seo_kernels.linear_cross_entropy`` in plain torch, with whole logits: same arguments and meaning."""
    check_reduction(reduction)
    check_index("ignore_index", ignore_index)
    smoothing = check_smoothing(label_smoothing)
    rows = hidden_rows(hidden, weight, target, bias)
    logits = _logits(rows.hidden, rows.weight, rows.target, bias, ignore_index).to(rows.dtype)
    losses = cross_entropy_rows(logits, rows.target, None, ignore_index, smoothing)
    return reduced(losses, reduction, rows.shape, rows.dtype, counted_weight(rows.target, ignore_index))


def cross_entropy_rows(
    input: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> Tensor:
    """(1 - s) w_y (-log p_y) + s / C sum_c w_c (-log p_c), s the label smoothing; 0 for an ignored row.

    Args:
        input: (N, C). target: int64 (N,). weight: (C,) or None.
    """
    counted, index, log_p = _log_probabilities(input, target, ignore_index)
    direct = -log_p.gather(1, index[:, None]).squeeze(1)
    if weight is not None:
        direct = direct * weight.to(log_p.dtype)[index]
    if label_smoothing > 0.0:
        spread = -(log_p if weight is None else log_p * weight.to(log_p.dtype)).sum(1)
        direct = (1.0 - label_smoothing) * direct + (label_smoothing / input.shape[1]) * spread
    return torch.where(counted, direct, 0.0)


def linear_cross_entropy_rows(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    bias: Tensor | None,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    """``cross_entropy_rows`` of the logits hidden weight^T + bias.

    Args:
        hidden: (T, D). weight: (V, D). target: int64 (T,). bias: (V,) or None.
    """
    logits = _logits(hidden, weight, target, bias, ignore_index)
    return cross_entropy_rows(logits, target, None, ignore_index, label_smoothing)


def soft_cross_entropy_rows(
    input: Tensor, target: Tensor, weight: Tensor | None, label_smoothing: float
) -> Tensor:
    """sum_c w_c ((1 - s) t_c + s / C) (-log p_c), s the label smoothing.

    Args:
        input, target: (N, C). weight: (C,) or None.
    """
    log_p = log_softmax(input, 1)
    mixed = target * (1.0 - label_smoothing) + label_smoothing / input.shape[1]
    return -(log_p * mixed if weight is None else log_p * mixed * weight.to(log_p.dtype)).sum(1)


def focal_loss_rows(
    input: Tensor, target: Tensor, alpha: Tensor | None, gamma: float, ignore_index: int
) -> Tensor:
    """alpha_y (1 - p_y)^gamma (-log p_y), eq. 5 of Lin et al. 2017; 0 for an ignored row.

    Args:
        input: (N, C). target: int64 (N,). alpha: (C,) or None.
    """
    counted, index, log_p = _log_probabilities(input, target, ignore_index)
    surprise = -log_p.gather(1, index[:, None]).squeeze(1)
    if alpha is not None:
        counted_alpha = alpha.to(log_p.dtype)[index]
    losses = surprise
    if gamma != 0.0:
        # Both limits by themselves: (1 - p)^gamma is 1 where p is 0, and the loss vanishes where p is 1.
        lost, sure = torch.exp(-surprise) == 0.0, surprise <= 0.0
        rest = -torch.expm1(-torch.where(lost | sure, 1.0, surprise))
        factor = torch.where(lost, 1.0, torch.where(sure, 0.0, rest**gamma))
        losses = factor * surprise
    if alpha is not None:
        losses = losses * counted_alpha
    return torch.where(counted, losses, 0.0)


def huber_loss_entries(input: Tensor, target: Tensor, weight: Tensor | None, delta: float) -> Tensor:
    """z^2 / 2 where |z| <= delta, delta (|z| - delta / 2) beyond (Huber 1964), for z = input - target."""
    difference = input - target
    far = difference.abs() > delta  # a NaN is near
    near = torch.where(far, delta * difference.sign(), difference)
    losses = 0.5 * near.square() + delta * torch.where(far, difference.abs() - delta, 0.0)
    return losses if weight is None else losses * weight


def _logits(hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, ignore_index: int) -> Tensor:
    """hidden weight^T + bias, with zeros for ignored rows of hidden, whatever they hold."""
    hidden = torch.where((target != ignore_index)[:, None], hidden, 0.0)
    return linear(hidden, weight, None if bias is None else bias.to(weight.dtype))


def _log_probabilities(input: Tensor, target: Tensor, ignore_index: int) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) whether a row counts, (N,) its class (0 where it does not), (N, C) log p.

    Rows that do not count are zeros from the start: 0 * NaN would spread whatever they held.
    """
    counted = target != ignore_index
    _check_targets(target, counted, input.shape[1], ignore_index)
    index = torch.where(counted, target, 0)
    return counted, index, log_softmax(torch.where(counted[:, None], input, 0.0), 1)


def _check_targets(target: Tensor, counted: Tensor, classes: int, ignore_index: int) -> None:
    if target.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if torch._C._are_functorch_transforms_active():
        return
    wrong = counted & ((target < 0) | (target >= classes))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"target is {int(target[row])} in row {row}, expected a class from 0 to {classes - 1}, "
            f"or ignore_index {ignore_index}"
        )
