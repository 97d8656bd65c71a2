"""What training reports: of a step, of an epoch, of all of it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class StepResult:
    """What a batch did.

    Args:
        loss: the batch's, a mean over its rows and over the processes.
        grad_norm: L2 over all gradients of the update, unscaled, before clipping; NaN where this batch
            closed no window of accumulation, or its loss was not finite.
        learning_rate: of the optimizer's first group, for this update.
        seconds: it took.
        updated: the parameters changed.
        skipped: a loss or a gradient was not finite, and was left out.
        rows: of the batch, in this process.
        metrics: what ``loss_of_batch`` gave beside the loss, means over the rows.
    """

    loss: float
    grad_norm: float
    learning_rate: float
    seconds: float
    updated: bool
    skipped: bool
    rows: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass
class EpochResult:
    """What an epoch did.

    Args:
        epoch: counted from 0.
        losses: one for each batch, in order.
        grad_norms: before clipping, one for each update, in order.
        loss: their mean, weighted by rows, over those that are finite; NaN where none is.
        metrics: as the losses, by name.
        updates: of the parameters.
        skipped: batches and windows that were left out.
        seconds: it took.
        learning_rate: of the last update.
        validation: what ``evaluate`` gave, "loss" and the metrics; None: there was none.
    """

    epoch: int
    losses: list[float] = field(default_factory=list)
    grad_norms: list[float] = field(default_factory=list)
    loss: float = math.nan
    metrics: dict[str, float] = field(default_factory=dict)
    updates: int = 0
    skipped: int = 0
    seconds: float = 0.0
    learning_rate: float = math.nan
    validation: dict[str, float] | None = None
    sums: dict[str, float] = field(default_factory=dict, repr=False)  # of what the means are made
    rows: int = field(default=0, repr=False)

    def add(self, step: StepResult) -> None:
        """Count a step in."""
        self.losses.append(step.loss)
        self.add_update(step)
        if not math.isfinite(step.loss):
            return
        self.rows += step.rows
        for name, value in {"loss": step.loss, **step.metrics}.items():
            self.sums[name] = self.sums.get(name, 0.0) + step.rows * value
        means = {name: total / self.rows for name, total in self.sums.items()}
        self.loss = means.pop("loss")
        self.metrics = means

    def add_update(self, step: StepResult) -> None:
        """Count in what it did to the parameters only."""
        self.updates += step.updated
        self.skipped += step.skipped
        self.seconds += step.seconds
        if step.updated:
            self.learning_rate = step.learning_rate
            self.grad_norms.append(step.grad_norm)


class TrainingHistory:
    """The results of all epochs, and of the most recent steps.

    Args:
        length: steps that are remembered.

    Attributes:
        steps: a deque of ``StepResult``.
        epochs: a list of ``EpochResult``.
        best_epoch: the one with the lowest validation loss; None before there is one.
        best_validation_loss: of it; infinite before there is one.
        stopped_early: the validation loss did not improve for as long as was asked.
    """

    def __init__(self, length: int) -> None:
        self.steps: deque[StepResult] = deque(maxlen=length)
        self.epochs: list[EpochResult] = []
        self.best_epoch: int | None = None
        self.best_validation_loss = math.inf
        self.stopped_early = False

    @property
    def losses(self) -> list[float]:
        """The loss of every batch of every finished epoch, in order."""
        return [loss for epoch in self.epochs for loss in epoch.losses]

    def judge(self, epoch: EpochResult, min_delta: float = 0.0) -> bool:
        """Whether the epoch's validation loss is the best so far, by more than ``min_delta``."""
        if epoch.validation is None or not epoch.validation["loss"] < self.best_validation_loss - min_delta:
            return False
        self.best_epoch, self.best_validation_loss = epoch.epoch, epoch.validation["loss"]
        return True

    def waited(self, patience: int | None) -> bool:
        """Whether so many epochs in a row, or more, were no improvement; never where it is None."""
        if patience is None or not self.epochs:
            return False
        best = -1 if self.best_epoch is None else self.best_epoch
        return self.epochs[-1].epoch - best >= patience

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain numbers in lists and dictionaries."""
        return {
            "steps": [asdict(step) for step in self.steps],
            "epochs": [asdict(epoch) for epoch in self.epochs],
            "best_epoch": self.best_epoch,
            "best_validation_loss": self.best_validation_loss,
            "stopped_early": self.stopped_early,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What ``state_dict`` gave."""
        self.steps = deque((StepResult(**step) for step in state["steps"]), maxlen=self.steps.maxlen)
        self.epochs = [EpochResult(**epoch) for epoch in state["epochs"]]
        self.best_epoch = state["best_epoch"]
        self.best_validation_loss = state["best_validation_loss"]
        self.stopped_early = state["stopped_early"]
