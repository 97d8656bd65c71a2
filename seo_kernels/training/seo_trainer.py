"""Trains the SEO classifiers, watching their gradients."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, IterableDataset

from seo_kernels.diagnostics.autograd_monitor import AutogradMonitor
from seo_kernels.models.seo_classifier import CustomSEOModel
from seo_kernels.models.seo_config import CustomModelConfig
from seo_kernels.models.seo_multi_task import CustomMultiTaskSEOModel
from seo_kernels.ops.checks import kind
from seo_kernels.training.engine import TrainingEngine
from seo_kernels.training.engine_batches import known_length
from seo_kernels.training.engine_updates import LossOfBatch, Scheduler
from seo_kernels.training.optimizers import AdvancedOptimizers
from seo_kernels.training.schedules import warmup_schedule
from seo_kernels.training.seo_losses import classifier_loss, multi_task_loss
from seo_kernels.training.training_config import TrainingConfig
from seo_kernels.training.training_history import EpochResult, TrainingHistory

Batches = Iterable[Any] | Dataset[Any]


class CustomSEOModelTrainer:
    """A ``TrainingEngine`` with model, AdamW, schedule and monitor as configured.

    Batches are mappings of "input_ids" int (B, S), "attention_mask" (B, S) where there is padding, and
    "labels" (B,), class ids with -100 for none; or tuples in that order. For "multi_task" the labels are a
    mapping from tasks to theirs. Where a dataset is given, the trainer makes its batches, shuffled for
    training.

    Args:
        config: a ``TrainingConfig``, or the ``CustomModelConfig`` of a model to train with its defaults.
        model: trained in place of the one that is configured: called with ids and mask it gives logits.

    Attributes:
        config: the ``TrainingConfig``.
        model, engine, monitor: after ``setup_training``.

    Raises:
        TypeError, ValueError: an argument of another kind, or two that contradict each other.

    >>> config = CustomModelConfig(hidden_size=16, num_layers=1, num_heads=2, vocab_size=100)
    >>> trainer = CustomSEOModelTrainer(config)
    >>> batch = {"input_ids": torch.randint(100, (8, 12)), "labels": torch.randint(3, (8,))}
    >>> results = trainer.train_epoch_with_monitoring([batch])
    >>> 0.0 <= results["accuracy"] <= 1.0
    True
    >>> list(trainer.get_autograd_summary()["gradient_statistics"])[:1]
    ['encoder.embedding.weight']
    """

    def __init__(self, config: TrainingConfig | CustomModelConfig, model: nn.Module | None = None) -> None:
        if isinstance(config, CustomModelConfig):
            config = TrainingConfig.of_model(config)
        if not isinstance(config, TrainingConfig):
            raise TypeError(f"config is {kind(config)}, expected a TrainingConfig or a CustomModelConfig")
        if model is not None and not isinstance(model, nn.Module):
            raise TypeError(f"model is {kind(model)}, expected a torch.nn.Module or None")
        if model is not None and config.model_config is not None:
            raise ValueError("model is given beside config.model_config, expected one of them")
        several = config.model_type == "multi_task"
        if model is not None and isinstance(model, CustomMultiTaskSEOModel) != several:
            raise ValueError(
                f"config.model_type is {config.model_type!r} for a {type(model).__name__}, expected "
                "'multi_task' for a CustomMultiTaskSEOModel, else 'custom'"
            )
        self.config, self._given = config, model
        self._engine: TrainingEngine | None = None
        self.monitor = AutogradMonitor()

    def setup_training(self) -> None:
        """Make model, optimizer and engine; once only, and by itself where it was not called."""
        if self._engine is not None:
            return
        config = self.config
        model = self._model().to(config.torch_device())
        optimizer = AdvancedOptimizers.create_optimizer(model, config)
        loss: LossOfBatch = multi_task_loss if config.model_type == "multi_task" else classifier_loss
        self._engine = TrainingEngine(
            model,
            optimizer,
            loss,
            settings=config.engine_settings(),
            scheduler=self._schedule(optimizer, config.num_training_steps),
            monitor=self.monitor,
        )

    @property
    def engine(self) -> TrainingEngine:
        """What does the training."""
        self.setup_training()
        assert self._engine is not None
        return self._engine

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        return self.engine.module

    def train_epoch_with_monitoring(self, dataloader: Batches) -> dict[str, Any]:
        """One pass over the batches.

        Returns:
            "loss" and "accuracy" (0 to 1, in training mode), means over the rows; for "multi_task"
            "accuracy_<task>" too; "epoch", "learning_rate" and "grad_norm" of the last update, "updates",
            "skipped", "time" in seconds, and "issues": sentences about the gradients of the last update.

        Raises:
            TypeError, ValueError: batches that do not fit, or none.
            NonFiniteError: as the configuration has it.
        """
        loader = self._loader("dataloader", dataloader, shuffle=True)
        self._set_schedule(loader, self.config.num_epochs)
        return self._described(self.engine.train_epoch(loader))

    def evaluate(self, dataloader: Batches) -> dict[str, float]:
        """ "loss" and "accuracy" as above, in eval mode, of the moving average where one is kept."""
        return self.engine.evaluate(self._loader("dataloader", dataloader, shuffle=False))

    def fit(
        self,
        train_data: Batches,
        validation_data: Batches | None = None,
        *,
        num_epochs: int | None = None,
        checkpoint_folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> TrainingHistory:
        """Train for several epochs, with early stopping and checkpoints: see ``TrainingEngine.fit``.

        Args:
            train_data, validation_data: batches, or datasets of rows.
            num_epochs: None: that of the configuration.
            checkpoint_folder, resume: as there.

        Raises:
            TypeError, ValueError, OSError, NonFiniteError: as there.
        """
        epochs = self.config.num_epochs if num_epochs is None else num_epochs
        loader = self._loader("train_data", train_data, shuffle=True)
        self._set_schedule(loader, epochs)
        return self.engine.fit(
            loader,
            None if validation_data is None else self._loader("validation_data", validation_data, False),
            epochs,
            self.config.early_stopping_patience,
            checkpoint_folder=checkpoint_folder,
            resume=resume,
        )

    def get_autograd_summary(self) -> dict[str, Any]:
        """What the monitor saw since this trainer was made.

        Returns:
            "gradient_statistics": for each parameter "last", "mean", "min" and "max" of the norms of its
            gradient, over the "steps" that are kept, and how many were "nonfinite"; "total_norm", the same
            of all gradients together; "findings", sentences, each about its first appearance; "updates",
            "skipped" and "epochs" so far, "parameters", how many are trained.
        """
        history, engine = self.monitor.history, self.engine
        return {
            "gradient_statistics": {
                name: asdict(summary) for name, summary in history.by_parameter().items()
            },
            "total_norm": asdict(history.total()),
            "findings": [str(finding) for finding in self.monitor.log.all],
            "updates": engine.position.updates,
            "skipped": sum(step.skipped for step in engine.history.steps),
            "epochs": engine.position.epoch,
            "parameters": sum(p.numel() for p in engine.module.parameters() if p.requires_grad),
        }

    def save_checkpoint(self, folder: str | os.PathLike[str]) -> Path:
        """See ``TrainingEngine.save_checkpoint``."""
        return self.engine.save_checkpoint(folder)

    def load_checkpoint(self, folder: str | os.PathLike[str]) -> None:
        """See ``TrainingEngine.load_checkpoint``."""
        engine = self.engine
        if engine.scheduler is None:  # its end is in the checkpoint
            engine.scheduler = self._schedule(engine.optimizer, self.config.warmup_steps + 1)
        engine.load_checkpoint(folder)

    def _model(self) -> nn.Module:
        if self._given is not None:
            return self._given
        config = self.config
        if config.seed is not None:
            torch.manual_seed(config.seed)
        if config.task_configs is not None:
            return CustomMultiTaskSEOModel(config.encoder_config(), config.task_configs)
        return CustomSEOModel(config.encoder_config())

    def _schedule(self, optimizer: Optimizer, steps: int | None) -> Scheduler | None:
        """As configured; None where its end is not known yet."""
        if steps is None and self.config.schedule != "constant":
            return None
        return warmup_schedule(optimizer, self.config.schedule, self.config.warmup_steps, steps)

    def _set_schedule(self, loader: Any, epochs: int) -> None:
        """The schedule that ends with the training: known once there is a loader."""
        config, engine = self.config, self.engine
        if engine.scheduler is not None:
            return
        batches = known_length(loader)
        if batches is None:
            raise ValueError(
                "the loader does not say how many batches it yields, expected config.num_training_steps for "
                f"the schedule {config.schedule!r}"
            )
        own = math.ceil(batches / engine.processes.count)
        steps = epochs * math.ceil(own / config.accumulation_steps)
        engine.scheduler = self._schedule(engine.optimizer, steps)

    def _loader(self, name: str, data: Any, shuffle: bool) -> Any:
        if not isinstance(data, Dataset):
            return data
        shuffle = shuffle and not isinstance(data, IterableDataset)
        return DataLoader(data, batch_size=self.config.batch_size, shuffle=shuffle)

    def _described(self, epoch: EpochResult) -> dict[str, Any]:
        return {
            "loss": epoch.loss,
            "accuracy": math.nan,  # where every batch was left out
            **epoch.metrics,
            "epoch": epoch.epoch,
            "learning_rate": epoch.learning_rate,
            "grad_norm": epoch.grad_norms[-1] if epoch.grad_norms else math.nan,
            "updates": epoch.updates,
            "skipped": epoch.skipped,
            "time": epoch.seconds,
            "issues": [str(finding) for finding in self.monitor.log.current],
        }
