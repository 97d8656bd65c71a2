"""Several batches' gradients as one: the gradient of the large batch that they make together."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.gradient_norms import named_parameters
from seo_kernels.nn.sizes import check_positive, check_size
from seo_kernels.ops.checks import kind
from seo_kernels.training.non_finite import check_differentiable, check_loss


class GradientAccumulator:
    """Adds up gradients of mean losses over batches until an optimizer's step.

    Args:
        model: whose gradients these are.

    Raises:
        TypeError, ValueError: no module, or one without parameters.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> accumulator = GradientAccumulator(model)
    >>> for batch in torch.randn(3, 8, 2):  # a window of four that ends after three
    ...     accumulator.accumulate_gradients(model(batch).square().mean(), accumulation_steps=4)
    >>> accumulator.apply_gradients(optimizer)
    >>> accumulator.count, model.weight.grad is None
    (0, True)
    """

    def __init__(self, model: nn.Module) -> None:
        named_parameters(model)
        self.model = model
        self.reset()

    def reset(self) -> None:
        """Forget the window; the gradients themselves stay."""
        self.count = 0
        self.weight = 0.0
        self.steps: int | None = None

    def accumulate_gradients(self, loss: Tensor, accumulation_steps: int = 4, *, weight: float = 1.0) -> None:
        """Add the gradient of ``loss * weight / accumulation_steps``.

        Args:
            loss: a scalar, the mean over a batch.
            accumulation_steps: losses that make one update; the same for all of a window.
            weight: of this batch, proportional to its rows where batches differ in size.

        Raises:
            TypeError: an argument of another kind.
            ValueError: a loss that is not scalar or requires no gradient, a number out of range, or other
                accumulation steps than the window began with.
        """
        steps = check_size("accumulation_steps", accumulation_steps)
        check_positive("weight", weight)
        scalar = check_differentiable(check_loss(loss))
        if self.steps not in (None, steps):
            raise ValueError(
                f"accumulation_steps is {steps}, expected {self.steps}, which this window began with"
            )
        factor = weight / steps
        (scalar if factor == 1.0 else scalar * factor).backward()
        self.count, self.weight, self.steps = self.count + 1, self.weight + weight, steps

    def finish(self) -> None:
        """Make what has been added the gradient of the weighted mean of the losses, and forget the window.

        A full window of equal weights is that already; any other, a last partial one for example, is
        multiplied by ``accumulation_steps`` over the sum of its weights.

        Raises:
            ValueError: nothing has been added.
        """
        if self.steps is None:
            raise ValueError("no loss has been accumulated, expected accumulate_gradients before")
        if self.weight != self.steps:
            scale_gradients(self.model, self.steps / self.weight)
        self.reset()

    def apply_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """One step of the optimizer on the mean of the losses; the gradients are cleared afterwards.

        Raises:
            TypeError: no optimizer.
            ValueError: nothing has been accumulated.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer is {kind(optimizer)}, expected a torch.optim.Optimizer")
        self.finish()
        optimizer.step()
        optimizer.zero_grad()
        self.model.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The open window; its gradients are the model's."""
        return {"count": self.count, "weight": self.weight, "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What ``state_dict`` gave."""
        self.count, self.weight, self.steps = state["count"], state["weight"], state["steps"]


@torch.no_grad()
def scale_gradients(model: nn.Module, factor: float) -> None:
    """Multiply all gradients of the model, in one fused pass."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if gradients:
        torch._foreach_mul_(gradients, factor)
