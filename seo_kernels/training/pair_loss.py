"""A loss of pairs: what the model makes of an input, against a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from seo_kernels.diagnostics.undisturbed import call_model
from seo_kernels.ops.checks import kind


class PairLoss:
    """``loss_function(model(input), target)``, as a ``TrainingEngine`` calls it with batches (input, target).

    Args:
        loss_function: of output and target gives a scalar, the mean over the rows.

    Raises:
        TypeError: it cannot be called.

    >>> import torch
    >>> model = nn.Linear(2, 1)
    >>> PairLoss(nn.MSELoss())(model, (torch.ones(4, 2), torch.ones(4, 1))).shape
    torch.Size([])
    """

    def __init__(self, loss_function: Callable[[Any, Any], Tensor]) -> None:
        if not callable(loss_function):
            raise TypeError(
                f"loss_function is {kind(loss_function)}, expected a function of output and target"
            )
        self.loss_function = loss_function

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of one batch.

        Args:
            model: called with the input; with its parts where it is a tuple or list, or with a mapping's
                values by name.
            batch: a pair, input and target.

        Raises:
            TypeError: no pair.
            ValueError: input and target have another number of rows.
        """
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            shown = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else kind(batch)
            raise TypeError(f"the batch is {shown}, expected a pair (input, target)")
        given, target = batch
        both = isinstance(given, Tensor) and isinstance(target, Tensor) and given.dim() and target.dim()
        if both and len(given) != len(target):
            raise ValueError(
                f"the input has shape {tuple(given.shape)}, the target {tuple(target.shape)}, "
                "expected as many rows"
            )
        # loaders make lists of tuples
        return self.loss_function(
            call_model(model, tuple(given) if isinstance(given, list) else given), target
        )
