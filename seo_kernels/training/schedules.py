"""Learning rates over a training: warm-up, then constant, linear to 0, or a half cosine to 0."""

from __future__ import annotations

from dataclasses import dataclass

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from seo_kernels.nn.sizes import check_choice, check_size
from seo_kernels.training.optimizers import WarmupCosine

SCHEDULES = ("constant", "linear", "cosine")


@dataclass(frozen=True)
class WarmupConstant:
    """(step + 1) / warmup_steps, then 1; not a lambda, so that schedules can be pickled."""

    warmup_steps: int

    def __call__(self, step: int) -> float:
        return min((step + 1) / max(self.warmup_steps, 1), 1.0)


@dataclass(frozen=True)
class WarmupLinear:
    """(step + 1) / warmup_steps, then a line to 0 at num_training_steps; 0 from there on."""

    warmup_steps: int
    num_training_steps: int

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / (self.num_training_steps - self.warmup_steps)
        return max(1.0 - done, 0.0)


def warmup_schedule(
    optimizer: Optimizer, schedule: str, warmup_steps: int = 0, num_training_steps: int | None = None
) -> LambdaLR:
    """A scheduler that multiplies the optimizer's rates, a step for each update.

    Args:
        optimizer: whose rates these are.
        schedule: "constant", "linear" or "cosine", after the warm-up.
        warmup_steps: in which the rate rises, a straight line from 1 / warmup_steps.
        num_training_steps: warm-up included; "constant" needs none.

    Raises:
        TypeError, ValueError: another schedule, or numbers that do not fit.

    >>> import torch
    >>> optimizer = torch.optim.SGD(torch.nn.Linear(1, 1).parameters(), lr=1.0)
    >>> warmup_schedule(optimizer, "linear", 2, 10).get_last_lr()
    [0.5]
    """
    check_choice("schedule", schedule, SCHEDULES)
    warmup = check_size("warmup_steps", warmup_steps, least=0)
    if schedule == "constant":
        return LambdaLR(optimizer, WarmupConstant(warmup))
    if num_training_steps is None:
        raise ValueError(f"num_training_steps is None, expected the updates that {schedule!r} is to take")
    steps = check_size("num_training_steps", num_training_steps)
    if warmup >= steps:
        raise ValueError(f"warmup_steps is {warmup}, expected fewer than num_training_steps={steps}")
    kind = WarmupLinear if schedule == "linear" else WarmupCosine
    return LambdaLR(optimizer, kind(warmup, steps))
