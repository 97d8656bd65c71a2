"""Losses and gradients that are NaN or infinite: how they are said, and the error that stops training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

from torch import Tensor

from seo_kernels.diagnostics.gradient_norms import GradientNorms
from seo_kernels.ops.checks import kind
from seo_kernels.training.training_history import StepResult

NAMED = 3  # parameters that a message names


class NonFiniteError(RuntimeError):
    """A loss or a gradient is NaN or infinite, and that stops the training; nothing was updated.

    Attributes:
        result: the ``StepResult`` of the step; None outside of an engine.
    """

    def __init__(self, message: str, result: StepResult | None = None) -> None:
        super().__init__(message)
        self.result = result


def check_loss(loss: object) -> Tensor:
    """The loss as a tensor (), once it is known to be one number that a gradient can be taken of.

    Raises:
        TypeError: no tensor of floating point.
        ValueError: more than one number, or no gradient flows from it.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"the loss is {kind(loss)}, expected a scalar tensor")
    if not loss.is_floating_point():
        raise TypeError(f"the loss has dtype {loss.dtype}, expected floating point")
    if loss.numel() != 1:
        raise ValueError(
            f"the loss has shape {tuple(loss.shape)}, expected a scalar: the mean over the batch's rows"
        )
    return loss.reshape(())


def check_differentiable(loss: Tensor) -> Tensor:
    """The loss, once a gradient flows from it.

    Raises:
        ValueError: it depends on nothing that requires a gradient.
    """
    if not loss.requires_grad:
        raise ValueError("the loss requires no gradient, expected one that depends on the model's parameters")
    return loss


def non_finite_gradient(norms: GradientNorms) -> str:
    """Which parameters' gradients are not finite, in words."""
    found = [
        f"{name!r} ({value})"
        for name, value in zip(norms.names, norms.norms, strict=True)
        if not math.isfinite(value)
    ]
    if not found:  # finite each, but not their sum of squares
        return f"the gradient's norm is {norms.total}"
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return f"the gradient's norm is {norms.total}, by {_listed(found[:NAMED])}{more}"


def warn_of_skipping(what: str, stacklevel: int = 3) -> None:
    """A ``RuntimeWarning`` that names what was not finite."""
    warnings.warn(f"{what}: this batch updates nothing", RuntimeWarning, stacklevel=stacklevel)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words)
