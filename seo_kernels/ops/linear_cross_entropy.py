"""``sk.linear_cross_entropy``: a linear layer and its cross entropy, without the logits."""

from __future__ import annotations

from torch import Tensor

from seo_kernels.ops.function_pair import FunctionPair
from seo_kernels.ops.loss_arguments import (
    check_index,
    check_reduction,
    check_smoothing,
    counted_weight,
    hidden_rows,
    reduced,
)
from seo_kernels.ops.losses import fake_rows
from seo_kernels.reference.losses import linear_cross_entropy_rows

_linear_cross_entropy = FunctionPair(
    "linear_cross_entropy",
    inputs=("hidden", "weight", "target", "bias", "ignore_index", "label_smoothing"),
    differentiable=("hidden", "weight", "bias"),
    plain=linear_cross_entropy_rows,
    fake=fake_rows,
    outputs=("losses",),
    saved_outputs=("lse",),
    rows=("hidden", "target", "losses", "lse"),
)


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
    """``cross_entropy(linear(hidden, weight, bias), target)`` for many classes, without the logits in memory.

    Logits exist for a block of tokens by a block of classes at a time: forward keeps a running log-sum-exp,
    backward computes them once more and adds what they give to all gradients while they are in cache. Beyond
    inputs and gradients that takes memory for tokens x dim numbers, and some blocks for each thread. Tokens
    that are ignored cost nothing.

    Args:
        hidden: (..., D), any leading dimensions; float64, float32, bfloat16 or float16; any strides.
        weight: (V, D), of hidden's dtype; a row per class. Any strides.
        target: (...) class indices (int64, int32 or uint8).
        bias: (V,), of any of these dtypes.
        ignore_index: tokens with this target have no loss and no gradient, whatever they hold.
        reduction: "none", "mean" (over the tokens that count; NaN where none does) or "sum".
        label_smoothing: in [0, 1].

    Returns:
        The loss in the dtype of hidden; in float32 under autocast, which casts hidden and weight. Logits and
        loss are computed in float32 (float64 for float64), gradients are rounded once at the end.

    Raises:
        TypeError: an argument of another kind or dtype.
        ValueError: shapes that do not fit, a number out of range, a target that is no class.

    Derivatives of second order and forward mode are computed in plain torch, with whole logits.

    Source: Wijmans et al. 2025, "Cut Your Losses in Large-Vocabulary Language Models", algorithms 1 to 3.

    >>> import torch
    >>> hidden, weight = torch.randn(2, 3, 8), torch.randn(100, 8)
    >>> linear_cross_entropy(hidden, weight, torch.randint(100, (2, 3))).shape
    torch.Size([])
    """
    check_reduction(reduction)
    check_index("ignore_index", ignore_index)
    smoothing = check_smoothing(label_smoothing)
    rows = hidden_rows(hidden, weight, target, bias)
    losses = _linear_cross_entropy(rows.hidden, rows.weight, rows.target, bias, ignore_index, smoothing)
    count = counted_weight(rows.target, ignore_index) if reduction == "mean" else 1
    return reduced(losses, reduction, rows.shape, rows.dtype, count)
