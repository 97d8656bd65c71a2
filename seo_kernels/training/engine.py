"""One way to train: what every trainer of this package does a step, an epoch and a whole training with."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from seo_kernels.models.generation import evaluating
from seo_kernels.nn.sizes import check_flag, check_not_negative, check_size
from seo_kernels.training import engine_state
from seo_kernels.training.checkpoints import (
    BEST,
    CHECKPOINT,
    check_fits,
    prepare_folder,
    read_checkpoint,
    write_checkpoint,
)
from seo_kernels.training.engine_batches import known_length, name_batch, numbers, row_count
from seo_kernels.training.engine_settings import EngineSettings
from seo_kernels.training.engine_updates import LossOfBatch, Monitor, Scheduler, UpdateEngine
from seo_kernels.training.non_finite import NonFiniteError
from seo_kernels.training.progress_bar import epoch_bar
from seo_kernels.training.random_states import undisturbed_random_states
from seo_kernels.training.training_history import EpochResult, StepResult, TrainingHistory


class TrainingEngine(UpdateEngine):
    """Trains a model a batch, an epoch or all the way, on accelerate.

    In several processes (``accelerate launch``, ``torchrun``) the model is wrapped for them, each loader is
    shared out, and losses are means over all; in one, the model stays on the device that it is on, and
    batches are moved there.

    An update is made of ``accumulation_steps`` batches, of fewer at the end of an epoch. Batches count by
    their rows, so that it always equals an update on the one large batch. A batch whose loss is not finite is
    left out of its update; a gradient that is not finite updates nothing: neither parameters, schedule and
    average nor buffers, such as the running statistics of batch normalisation.

    Args:
        model: has a parameter that requires a gradient.
        optimizer: of its parameters; steps without a closure.
        loss_of_batch: called with the model and a batch gives the loss, a scalar tensor, the mean over the
            rows; or a pair of it and metrics by name, numbers that are means over the rows too.
        settings: see ``EngineSettings``.
        scheduler: of the optimizer; a ``ReduceLROnPlateau`` steps at the end of each epoch with the
            validation loss, or without one with the epoch's own.
        monitor: has ``monitor_gradients(model, step=)``, an ``AutogradMonitor`` for example; called before
            each update's clipping, with the update's number, left out ones too.

    Attributes:
        model: as it is called, wrapped in several processes; ``module`` is the one that is inside.
        optimizer, scheduler, settings, loss_of_batch, monitor: as given; the last two may be exchanged.
        clipping: of the settings; may be exchanged.
        ema: an ``ExponentialMovingAverage`` or None.
        history: a ``TrainingHistory``.
        position: a ``Position``: epoch, batch of it, updates and batches since the beginning.

    Raises:
        TypeError, ValueError: an argument of another kind, a model with nothing to train, an optimizer of
            another model's parameters.
        MissingExtraError: accelerate is not installed.

    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> engine = TrainingEngine(model, optimizer, lambda model, batch: model(batch).square().mean())
    >>> epoch = engine.train_epoch([torch.randn(4, 2) for _ in range(3)])
    >>> len(epoch.losses), epoch.updates, epoch.skipped
    (3, 3, 0)
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_of_batch: LossOfBatch,
        *,
        settings: EngineSettings | None = None,
        scheduler: Scheduler | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        super().__init__(
            model, optimizer, loss_of_batch, settings=settings, scheduler=scheduler, monitor=monitor
        )
        self._epoch: EpochResult | None = None
        self._resume: engine_state.ResumePoint | None = None
        self._epoch_start: dict[str, Any] | None = None
        self._loader: Any = None  # of the epoch that goes on, or went last

    def train_epoch(
        self,
        loader: Iterable[Any],
        validation: Iterable[Any] | None = None,
        *,
        checkpoint_folder: str | os.PathLike[str] | None = None,
    ) -> EpochResult:
        """Train on all batches once; after ``load_checkpoint`` on those of its epoch that were not done.

        Args:
            loader: yields batches; a ``DataLoader`` where several processes share it.
            validation: yields those that ``evaluate`` is called with at the end.
            checkpoint_folder: of checkpoints within the epoch, where the settings have ``checkpoint_every``.

        Raises:
            TypeError, ValueError: a loader of another kind, that yields nothing, or less than it had yielded
                before the checkpoint; a loss that is not scalar.
            NonFiniteError: as the settings have it.
        """
        folder = None if checkpoint_folder is None else self._prepared(checkpoint_folder)
        shared = self.processes.part("loader", loader)
        count = known_length(shared)
        batches = self._begin_epoch(shared)
        epoch, position = self._epoch, self.position
        assert epoch is not None
        shown = self.settings.progress and self.processes.first
        with epoch_bar(shown, position.epoch, count, position.batch) as advance:
            for batch in batches:
                try:
                    result = self.step(batch, last=position.batch + 1 == count)
                except NonFiniteError as error:
                    self._count(error.result)
                    raise
                except Exception as error:
                    name_batch(error, batch, f"batch {position.batch} of epoch {position.epoch}")
                    raise
                self._count(result)
                advance(result.loss)
                if folder is not None and result.updated and self._checkpoint_is_due():
                    self.save_checkpoint(folder)
        if position.batch == 0:
            raise ValueError("loader yields nothing, expected at least one batch")
        rest = self.finish_window()
        if rest is not None:
            epoch.add_update(rest)
        if validation is not None:
            epoch.validation = self.evaluate(validation)
        self._end_epoch(epoch)
        return epoch

    @torch.no_grad()
    def evaluate(self, loader: Iterable[Any]) -> dict[str, float]:
        """The mean loss and metrics over all rows, of the average where one is kept; nothing changes.

        Neither modes nor random states, so that training goes on as it would have without.

        Returns:
            "loss", and the metrics by their names.

        Raises:
            TypeError, ValueError: a loader of another kind, or that yields nothing; a loss that is no scalar.
        """
        averaged = self.ema is not None and self.ema.updates > 0
        sums: dict[str, Any] = {}
        rows = 0
        with contextlib.ExitStack() as stack:
            if averaged and self.ema is not None:
                stack.enter_context(self.ema.applied())
            stack.enter_context(evaluating(self.module))
            stack.enter_context(undisturbed_random_states())
            for index, batch in enumerate(self.processes.part("loader", loader, even=False)):
                batch = self.processes.to_device(batch, self.device)
                try:
                    loss, metrics = self._forward(batch, self.module)
                except Exception as error:
                    name_batch(error, batch, f"batch {index} of the evaluation")
                    raise
                count = row_count(batch)
                rows += count
                for name, value in zip(("loss", *metrics), numbers(loss, metrics), strict=True):
                    sums[name] = sums.get(name, 0.0) + count * value
        parts = self.processes.gathered((rows, {name: float(value) for name, value in sums.items()}))
        total = sum(count for count, _ in parts)
        if total == 0:
            raise ValueError("loader yields nothing, expected at least one batch")
        names = dict.fromkeys(name for _, part in parts for name in part)
        return {name: sum(part.get(name, 0.0) for _, part in parts) / total for name in names}

    def fit(
        self,
        loader: Iterable[Any],
        validation: Iterable[Any] | None = None,
        epochs: int = 1,
        patience: int | None = None,
        *,
        min_delta: float = 0.0,
        checkpoint_folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> TrainingHistory:
        """Train for several epochs.

        Args:
            loader, validation: of every epoch: see ``train_epoch``.
            epochs: to train; those that were finished before the checkpoint count as done.
            patience: stop once so many epochs in a row did not improve the validation loss; None: never.
            min_delta: by how much it has to become smaller to be an improvement.
            checkpoint_folder: "checkpoint.pt" is written there at the beginning, after each epoch, and as the
                settings have it; "best.pt", the parameters of the best epoch by validation loss, those of the
                average where one is kept; see ``load_best``.
            resume: go on from the checkpoint in the folder; where there is none, begin.

        Returns:
            ``history``, of what was done before the checkpoint too.

        Raises:
            TypeError, ValueError: an argument that does not fit; see ``train_epoch`` and ``load_checkpoint``.
            FileExistsError: the folder has a checkpoint already, and ``resume`` is False.
            OSError: the folder cannot be written to, said before anything is trained.
            NonFiniteError: as the settings have it; a checkpoint was written before.
        """
        check_size("epochs", epochs)
        check_not_negative("min_delta", min_delta)
        if patience is not None:
            check_size("patience", patience)
            if validation is None:
                raise ValueError(f"patience is {patience} without validation, expected both")
        folder = None if checkpoint_folder is None else self._prepared(checkpoint_folder)
        resumed, history = self._resumed(folder, resume), self.history
        until = epochs if resumed else self.position.epoch + epochs
        if folder is not None and not resumed:
            self.save_checkpoint(folder)
        history.stopped_early = history.waited(patience)
        while self.position.epoch < until and not history.stopped_early:
            try:
                epoch = self.train_epoch(loader, validation, checkpoint_folder=folder)
            except NonFiniteError:
                if folder is not None:
                    self.save_checkpoint(folder)
                raise
            if history.judge(epoch, min_delta) and folder is not None:
                self._save_best(folder, epoch)
            history.stopped_early = history.waited(patience)
            if folder is not None:
                self.save_checkpoint(folder)
        return history

    def save_checkpoint(self, folder: str | os.PathLike[str]) -> Path:
        """Write "checkpoint.pt" in the folder, from which training goes on exactly; called by every process.

        It replaces the one before only once it is whole. ``torch.load`` reads it with ``weights_only=True``;
        "model" in it is the model's ``state_dict``.

        Returns:
            The file.

        Raises:
            OSError: it cannot be written.
            TypeError: optimizer or scheduler have a state that such a file cannot hold.
        """
        path = self._prepared(folder) / CHECKPOINT
        state = engine_state.gathered(self)
        if self.processes.first:
            write_checkpoint(path, state)
        self.processes.wait()
        return path

    def load_checkpoint(self, folder: str | os.PathLike[str]) -> None:
        """Go on from the folder's checkpoint: the next ``train_epoch`` or ``fit`` finishes its epoch.

        With the same loader, on the CPU, all losses from there on are those that the training would have had
        without interruption. What was done of the epoch is loaded again and passed over.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is broken, or of another training; nothing was changed.
        """
        path = Path(folder) / CHECKPOINT
        engine_state.restore(self, read_checkpoint(path), path)

    def load_best(self, folder: str | os.PathLike[str]) -> None:
        """Give the model the parameters and buffers of the folder's "best.pt", which ``fit`` wrote.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is broken, or of another model; nothing was changed.
        """
        path = Path(folder) / BEST
        state = read_checkpoint(path)["model"]
        check_fits(self.module, state, path)
        self.module.load_state_dict(state)

    def _count(self, result: StepResult | None) -> None:
        if result is not None and self._epoch is not None:
            self._epoch.add(result)
            self.position.batch += 1

    def _checkpoint_is_due(self) -> bool:
        every = self.settings.checkpoint_every
        return every is not None and self.position.updates % every == 0

    def _begin_epoch(self, loader: Any) -> Iterator[Any]:
        """The batches that are to be done, of a new epoch or of the one that a checkpoint was in."""
        resume, self._resume = self._resume, None
        self._loader = loader
        engine_state.set_epoch(loader, self.position.epoch)
        if resume is not None and resume.epoch_start is not None:
            return engine_state.passed_over(loader, resume, self.position.batch)
        if resume is not None:
            engine_state.set_draws(resume.now, loader)
        self._discard_window()
        self.position.batch, self._epoch = 0, EpochResult(self.position.epoch)
        self._epoch_start = engine_state.draws(loader)
        return iter(loader)

    def _end_epoch(self, epoch: EpochResult) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(epoch.loss if epoch.validation is None else epoch.validation["loss"])
        elif self.scheduler is not None and self.settings.schedule_unit == "epoch":
            self.scheduler.step()
        self.history.epochs.append(epoch)
        self.position.epoch, self.position.batch, self._epoch = self.position.epoch + 1, 0, None

    def _resumed(self, folder: Path | None, resume: bool) -> bool:
        check_flag("resume", resume)
        if folder is None:
            if resume:
                raise ValueError("resume is True without checkpoint_folder, expected both")
            return False
        there = (folder / CHECKPOINT).exists()
        if there and not resume and self.position.batches == 0:
            raise FileExistsError(
                17,
                f"checkpoint_folder {folder} has a checkpoint, expected resume=True or another folder",
            )
        if there and resume:
            self.load_checkpoint(folder)
        return there and resume

    def _prepared(self, folder: str | os.PathLike[str]) -> Path:
        """By the process that writes; what it clears away could be what it writes now, were it another."""
        return prepare_folder(folder) if self.processes.first else Path(folder)

    def _save_best(self, folder: Path, epoch: EpochResult) -> None:
        with contextlib.nullcontext() if self.ema is None else self.ema.applied():
            state = {"model": self.module.state_dict(), "epoch": epoch.epoch, "validation": epoch.validation}
            if self.processes.first:
                write_checkpoint(folder / BEST, state)
