"""``sk.cross_entropy``, ``sk.focal_loss``, ``sk.huber_loss``: kernels give losses of rows, torch sums."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.function_pair import FunctionPair
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
    huber_operands,
    reduced,
)
from seo_kernels.ops.loss_second_order import cross_entropy_second_order
from seo_kernels.ops.transforms import transformed
from seo_kernels.reference.losses import (
    cross_entropy_rows,
    focal_loss_rows,
    huber_loss_entries,
    soft_cross_entropy_rows,
)

HUBER_BLOCK = 4096  # kHuberBlock of csrc/cpu/loss_params.h


def fake_rows(input: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    """Of (N, C): losses (N,), and lse (N, 2), the largest score and what the log-sum-exp adds to it."""
    rows, dtype = input.shape[0], torch.promote_types(input.dtype, torch.float32)
    return input.new_empty(rows, dtype=dtype), input.new_empty(rows, 2, dtype=dtype)


_cross_entropy = FunctionPair(
    "cross_entropy",
    inputs=("input", "target", "weight", "ignore_index", "label_smoothing"),
    differentiable=("input",),
    plain=cross_entropy_rows,
    fake=fake_rows,
    outputs=("losses",),
    saved_outputs=("lse",),
    rows=("input", "target", "losses", "lse"),
    second_order=cross_entropy_second_order,
)
_soft_cross_entropy = FunctionPair(
    "soft_cross_entropy",
    inputs=("input", "target", "weight", "label_smoothing"),
    differentiable=("input", "target"),
    plain=soft_cross_entropy_rows,
    fake=fake_rows,
    outputs=("losses",),
    saved_outputs=("lse",),
    rows=("input", "target", "losses", "lse"),
)
_focal_loss = FunctionPair(
    "focal_loss",
    inputs=("input", "target", "alpha", "gamma", "ignore_index"),
    differentiable=("input",),
    plain=focal_loss_rows,
    fake=fake_rows,
    outputs=("losses",),
    saved_outputs=("lse",),
    rows=("input", "target", "losses", "lse"),
)


def _huber_rows(input: Tensor, target: Tensor, weight: Tensor | None, delta: float, sums: bool) -> Tensor:
    """The op in plain torch: losses (N, M), or sums over blocks of HUBER_BLOCK columns."""
    losses = huber_loss_entries(input, target, weight, delta)
    return torch.stack([part.sum(1) for part in losses.split(HUBER_BLOCK, 1)], 1) if sums else losses


def _fake_huber(input: Tensor, target: Tensor, weight: Tensor | None, delta: float, sums: bool) -> Tensor:
    dtype = torch.promote_types(torch.promote_types(input.dtype, target.dtype), torch.float32)
    if weight is not None:
        dtype = torch.promote_types(dtype, weight.dtype)
    rows, columns = input.shape
    return input.new_empty(rows, -(-columns // HUBER_BLOCK) if sums else columns, dtype=dtype)


_huber_loss = FunctionPair(
    "huber_loss",
    inputs=("input", "target", "weight", "delta", "sums"),
    differentiable=("input", "target", "weight"),
    plain=_huber_rows,
    fake=_fake_huber,
    outputs=("losses",),
    rows=("input", "target", "weight", "losses"),
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
    """Cross entropy between class scores and targets, as ``torch.nn.functional.cross_entropy``.

    With p = softmax(input) over the classes, s the label smoothing, y a row's target, t its probabilities:

        class indices:        (1 - s) w_y (-log p_y) + s / C sum_c w_c (-log p_c)
        class probabilities:  sum_c w_c ((1 - s) t_c + s / C) (-log p_c)

    One read of the input forward, one read and one write backward; nothing of the input's size is kept.

    Args:
        input: (C,), (N, C) or (N, C, d1, ...), scores; float64, float32, bfloat16 or float16; any strides.
        target: class indices (int64, int32 or uint8) of the input's shape without C, or probabilities of the
            input's shape (floating; they get a gradient).
        weight: (C,), of each class.
        ignore_index: rows with this target have no loss and no gradient, whatever they hold. Class
            indices only.
        reduction: "none", "mean" or "sum". The mean divides by the sum of the weights of the rows that
            count (by N for probabilities); it is NaN where none does.
        label_smoothing: in [0, 1].

    Returns:
        The loss in the dtype of the input (float32 under autocast); computed in float32, float64 for it.

    Raises:
        TypeError: an argument of another kind or dtype.
        ValueError: shapes that do not fit, a number out of range, a target that is no class.

    >>> input, target = torch.randn(3, 5), torch.tensor([1, -100, 4])
    >>> bool(torch.isclose(cross_entropy(input, target), torch.nn.functional.cross_entropy(input, target)))
    True
    """
    check_reduction(reduction)
    check_index("ignore_index", ignore_index)
    smoothing = check_smoothing(label_smoothing)
    rows = class_rows(input, target)
    if weight is not None:
        weight = class_weight("weight", weight, rows.input, rows.input.shape[1])
    plain = _differentiated(weight)
    if rows.soft:
        check_no_index(ignore_index)
        soft = soft_cross_entropy_rows if plain else _soft_cross_entropy
        losses = soft(rows.input, rows.target, weight, smoothing)
        return reduced(losses, reduction, rows.shape, rows.dtype, rows.input.shape[0])
    of_rows = cross_entropy_rows if plain else _cross_entropy
    losses = of_rows(rows.input, rows.target, weight, ignore_index, smoothing)
    if reduction != "mean":
        return reduced(losses, reduction, rows.shape, rows.dtype, 1)
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
    """Focal loss alpha_y (1 - p_y)^gamma (-log p_y), with p = softmax(input) over the classes.

    Easy rows, whose class is already likely, weigh less; gamma = 0 is cross entropy.

    Args:
        input: (C,), (N, C) or (N, C, d1, ...), scores; float64, float32, bfloat16 or float16; any strides.
        target: class indices (int64, int32 or uint8) of the input's shape without C.
        alpha: a number, or a tensor (C,) with one per class.
        gamma: at least 0.
        ignore_index: rows with this target have no loss and no gradient, whatever they hold.
        reduction: "none", "mean" or "sum". The mean divides by the number of rows that count.

    Returns:
        The loss in the dtype of the input (float32 under autocast).

    Raises:
        TypeError: an argument of another kind or dtype.
        ValueError: shapes that do not fit, a number out of range, a target that is no class.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 5, with softmax for more than two
    classes.

    >>> focal_loss(torch.tensor([[0.0, 0.0]]), torch.tensor([0]), gamma=2.0).item() * 4
    0.6931471824645996
    """
    check_reduction(reduction)
    check_index("ignore_index", ignore_index)
    gamma = check_gamma(gamma)
    rows = class_rows(input, target, soft=False)
    scale, weight = 1.0, None
    if isinstance(alpha, Tensor):
        weight = class_weight("alpha", alpha, rows.input, rows.input.shape[1])
    else:
        scale = check_number("alpha", alpha, "a number or a tensor (C,)")
    of_rows = focal_loss_rows if _differentiated(weight) else _focal_loss
    losses = of_rows(rows.input, rows.target, weight, gamma, ignore_index)
    if scale != 1.0:
        losses = losses * scale
    count = counted_weight(rows.target, ignore_index) if reduction == "mean" else 1
    return reduced(losses, reduction, rows.shape, rows.dtype, count)


def huber_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    weight: Tensor | None = None,
    delta: float = 1.0,
) -> Tensor:
    """Huber's loss, as ``torch.nn.functional.huber_loss``: with z = input - target,

        weight * z^2 / 2                          where |z| <= delta
        weight * delta (|z| - delta / 2)          beyond

    Args:
        input, target: tensors that broadcast together; float64, float32, bfloat16 or float16; any strides.
            Both get gradients, and so does the weight.
        reduction: "none", "mean" (over the entries, whatever their weights) or "sum".
        weight: of the shape of input and target together.
        delta: above 0.

    Returns:
        The loss in the promoted dtype of the tensors (float32 at least under autocast).

    Raises:
        TypeError: an argument of another kind or dtype.
        ValueError: shapes that do not fit, or a number out of range.

    Source: Huber 1964, "Robust Estimation of a Location Parameter".

    >>> huber_loss(torch.tensor([0.5, 3.0]), torch.zeros(2), reduction="none")
    tensor([0.1250, 2.5000])
    """
    check_reduction(reduction)
    delta = check_delta(delta)
    tensors, shape, dtype = huber_operands(input, target, weight)
    sums = reduction != "none"
    if sums and all(tensor is None or tensor.is_contiguous() for tensor in tensors):
        layout: tuple[int, ...] = (1, -1)  # long rows: few sums
    else:
        layout = (-1, shape[-1]) if len(shape) > 1 and shape[-1] > 0 else (1, -1)
    if 0 in shape:
        layout = (0, 1)
    operands = (None if tensor is None else tensor.reshape(layout) for tensor in tensors)
    losses = _huber_loss(*operands, delta, sums)
    return reduced(losses, reduction, shape, dtype, tensors[0].numel())


def _differentiated(weight: Tensor | None) -> bool:
    """Whether a weight may want a derivative, which plain torch gives and the kernels do not."""
    return weight is not None and (weight.requires_grad or transformed())
