"""Losses that take the place of torch's, and two that torch has not, on the fused kernels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seo_kernels.ops.linear_cross_entropy import linear_cross_entropy
from seo_kernels.ops.loss_arguments import (
    check_delta,
    check_gamma,
    check_index,
    check_number,
    check_reduction,
    check_smoothing,
)
from seo_kernels.ops.losses import cross_entropy, focal_loss, huber_loss


class CrossEntropyLoss(nn.CrossEntropyLoss):
    """``torch.nn.CrossEntropyLoss`` on ``sk.cross_entropy``: same constructor, state_dict and meaning.

    Raises:
        ValueError: reduction or label_smoothing out of range.

    >>> CrossEntropyLoss(label_smoothing=0.1)(torch.randn(3, 5), torch.tensor([1, 0, 4])).shape
    torch.Size([])
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_reduction(self.reduction)
        check_index("ignore_index", self.ignore_index)
        check_smoothing(self.label_smoothing)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return F.cross_entropy(
                input,
                target,
                weight=self.weight,
                ignore_index=self.ignore_index,
                reduction=self.reduction,
                label_smoothing=self.label_smoothing,
            )
        return cross_entropy(
            input,
            target,
            self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class HuberLoss(nn.HuberLoss):
    """``torch.nn.HuberLoss`` on ``sk.huber_loss``: same constructor and meaning.

    Raises:
        ValueError: reduction or delta out of range.

    >>> HuberLoss(delta=0.5)(torch.zeros(3), torch.ones(3))
    tensor(0.3750)
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction, delta)
        check_reduction(reduction)
        check_delta(delta)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)
        return huber_loss(input, target, reduction=self.reduction, delta=self.delta)


class FocalLoss(nn.Module):
    """``sk.focal_loss`` as a module (Lin et al. 2017, eq. 5).

    Args:
        alpha: a number, or a tensor (C,) with one per class, which becomes the buffer ``alpha``.
        gamma: at least 0.
        ignore_index, reduction: as for ``torch.nn.CrossEntropyLoss``.

    Raises:
        TypeError, ValueError: an argument of another kind, or out of range.

    >>> FocalLoss(gamma=2.0)(torch.randn(3, 5), torch.tensor([1, 0, 4])).shape
    torch.Size([])
    """

    __constants__ = ("gamma", "ignore_index", "reduction", "scale")
    alpha: Tensor | None

    def __init__(
        self,
        alpha: float | Tensor = 1.0,
        gamma: float = 2.0,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        check_index("ignore_index", ignore_index)
        self.gamma = check_gamma(gamma)
        self.ignore_index = ignore_index
        self.reduction = reduction
        self.scale = 1.0
        if isinstance(alpha, Tensor):
            self.register_buffer("alpha", alpha)
        else:
            self.scale = check_number("alpha", alpha, "a number or a tensor (C,)")
            self.register_buffer("alpha", None)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return _scripted_focal_loss(
                input, target, self.alpha, self.scale, self.gamma, self.ignore_index, self.reduction
            )
        return focal_loss(
            input,
            target,
            alpha=self.scale if self.alpha is None else self.alpha,
            gamma=self.gamma,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )

    def extra_repr(self) -> str:
        alpha = self.scale if self.alpha is None else f"({len(self.alpha)},)"
        rows = f"ignore_index={self.ignore_index}, reduction={self.reduction!r}"
        return f"alpha={alpha}, gamma={self.gamma}, {rows}"


class LinearCrossEntropyLoss(nn.Module):
    """A linear layer and the cross entropy of its outputs, on ``sk.linear_cross_entropy``, without logits.

    Constructor arguments, ``linear`` inside, and state_dict keys are those of torch's own module of this name
    (torch 2.13), which has more of them: ``weight``, ``out_features``, ``options`` and probabilities
    as targets are not offered here.

    ``linear`` may be replaced, by a model's output layer, say, whose weight is then shared. One that is more
    than ``nn.Linear`` (LoRA, quantised, with hooks) is called as a module, and its outputs, the logits, go to
    ``sk.cross_entropy``.

    Args:
        in_features: D of the input (..., D).
        num_classes: classes; targets (...) are in [0, num_classes).
        bias, device, dtype: of the layer.
        reduction, ignore_index, label_smoothing: as for ``torch.nn.CrossEntropyLoss``; an ignore_index of
            None is -100.

    Raises:
        TypeError, ValueError: an argument of another kind, or out of range.

    >>> loss = LinearCrossEntropyLoss(16, 1000)
    >>> loss(torch.randn(2, 3, 16), torch.randint(1000, (2, 3))).shape
    torch.Size([])
    """

    __constants__ = ("ignore_index", "label_smoothing", "num_classes", "reduction")

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        self.ignore_index = -100 if ignore_index is None else ignore_index
        check_index("ignore_index", self.ignore_index)
        self.label_smoothing = check_smoothing(label_smoothing)
        self.num_classes = num_classes
        self.reduction = reduction
        self.linear = nn.Linear(in_features, num_classes, bias=bias, device=device, dtype=dtype)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            logits = self.linear(input)
            losses = F.cross_entropy(
                logits.reshape(-1, self.num_classes),
                target.reshape(-1),
                ignore_index=self.ignore_index,
                reduction=self.reduction,
                label_smoothing=self.label_smoothing,
            )
            return losses.reshape(target.shape) if self.reduction == "none" else losses
        if _is_plain(self.linear):
            return linear_cross_entropy(
                input,
                self.linear.weight,
                target,
                self.linear.bias,
                ignore_index=self.ignore_index,
                reduction=self.reduction,
                label_smoothing=self.label_smoothing,
            )
        return self._of_logits(self.linear(input), target)

    @torch.jit.unused
    def _of_logits(self, logits: Tensor, target: Tensor) -> Tensor:
        losses = cross_entropy(
            logits.reshape(-1, logits.shape[-1]),
            target.reshape(-1),
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
        return losses.reshape(target.shape) if self.reduction == "none" else losses

    def extra_repr(self) -> str:
        return (
            f"reduction={self.reduction!r}, ignore_index={self.ignore_index}, "
            f"label_smoothing={self.label_smoothing}"
        )


def _is_plain(linear: nn.Module) -> bool:
    """Whether calling the layer does nothing but multiply by its weight."""
    return (
        isinstance(linear, nn.Linear)
        and type(linear).forward is nn.Linear.forward
        and "forward" not in linear.__dict__
        and not (linear._forward_hooks or linear._forward_pre_hooks or linear._backward_hooks)
        and not linear._backward_pre_hooks
    )


def _scripted_focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: Tensor | None,
    scale: float,
    gamma: float,
    ignore_index: int,
    reduction: str,
) -> Tensor:
    """``sk.focal_loss`` for TorchScript, in plain torch."""
    surprise = F.cross_entropy(input, target, ignore_index=ignore_index, reduction="none")
    losses = surprise
    if gamma > 0.0:
        lost, sure = torch.exp(-surprise) == 0.0, surprise <= 0.0
        rest = -torch.expm1(-torch.where(lost | sure, torch.ones_like(surprise), surprise))
        factor = torch.where(lost, torch.ones_like(rest), rest.pow(gamma))
        losses = torch.where(sure, torch.zeros_like(rest), factor) * surprise
    counted = target != ignore_index
    if alpha is not None:
        losses = losses * alpha.to(losses.dtype)[torch.where(counted, target, torch.zeros_like(target))]
    losses = losses * scale
    if reduction == "none":
        return losses
    return losses.sum() / counted.sum() if reduction == "mean" else losses.sum()
