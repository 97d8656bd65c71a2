"""``AutogradTrainingSystem``: training, its monitoring and higher-order gradients by one configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from seo_kernels._extras import require
from seo_kernels.diagnostics.gradient_monitor import GradientMonitor
from seo_kernels.diagnostics.higher_order import higher_order_gradients
from seo_kernels.diagnostics.history import MAXIMUM
from seo_kernels.diagnostics.monitoring_report import write_report
from seo_kernels.diagnostics.undisturbed import call_model, evaluating
from seo_kernels.nn.functions import (
    NEGATIVE_SLOPE,
    CustomActivation,
    CustomAutogradFunction,
    CustomGradientFunction,
    CustomHuberLoss,
    CustomReLU,
)
from seo_kernels.ops.checks import kind
from seo_kernels.training.engine import TrainingEngine
from seo_kernels.training.engine_batches import row_count
from seo_kernels.training.engine_settings import Clipping, EngineSettings
from seo_kernels.training.engine_updates import Scheduler
from seo_kernels.training.pair_loss import PairLoss
from seo_kernels.training.processes import Processes
from seo_kernels.training.system_config import load_config
from seo_kernels.training.torch_manager import TorchManager
from seo_kernels.training.training_history import EpochResult, StepResult, TrainingHistory

if TYPE_CHECKING:
    from seo_kernels.training.system_schema import AutogradSystemConfig


class SystemFunctions(NamedTuple):
    """Functions of one meaning with hand-written gradients, or torch's own; see ``custom_gradients``."""

    linear: Callable[[Tensor, Tensor], Tensor]  # input, weight (out, in)
    product: Callable[[Tensor, Tensor], Tensor]  # input, weight (in, out)
    relu: Callable[[Tensor], Tensor]
    leaky_relu: Callable[[Tensor], Tensor]  # of slope 0.1
    huber_loss: Callable[[Tensor, Tensor], Tensor]  # predictions, targets; the mean, delta 1


CUSTOM = SystemFunctions(
    linear=CustomGradientFunction.apply,
    product=CustomAutogradFunction.apply,
    relu=CustomReLU.apply,
    leaky_relu=CustomActivation.apply,
    huber_loss=CustomHuberLoss.apply,
)
TORCH = SystemFunctions(
    linear=F.linear,
    product=torch.matmul,
    relu=F.relu,
    leaky_relu=lambda x: F.leaky_relu(x, NEGATIVE_SLOPE),
    huber_loss=F.huber_loss,
)


class AutogradTrainingSystem:
    """A model, an optimizer and a loss, trained and watched as a configuration says.

    Batches are pairs of input and target; longer tuples, of which the last is the target; or mappings with
    "labels", whose other entries are the model's arguments by name.

    A loss that learns, such as ``CustomLossFunction``, learns where the optimizer has its parameters too.

    Args:
        model: called with the inputs.
        optimizer: of its parameters.
        loss_fn: a scalar of what the model gives and the target, the mean over the rows.
        config: an ``AutogradSystemConfig``; or what ``load_config`` takes; None: the documented defaults.
        scheduler, clipping: see ``TrainingEngine`` and ``Clipping``.

    Attributes:
        model, optimizer, loss_fn: as given.
        config: an ``AutogradSystemConfig``.
        functions: ``SystemFunctions``, with hand-written gradients or torch's own.
        monitor: a ``GradientMonitor``, or None where the configuration wants none.

    Raises:
        TypeError, ValueError: an argument of another kind, a configuration that can't be used.
        MissingExtraError: pydantic is not installed, or for training accelerate.

    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> system = AutogradTrainingSystem(model, optimizer, nn.MSELoss())
    >>> orders = system.compute_higher_order_gradients(torch.ones(4, 2), torch.ones(4, 1), order=2)
    >>> [[tuple(gradient.shape) for gradient in gradients] for gradients in orders]
    [[(1, 2), (1,)], [(1, 2), (1,)]]
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: Callable[[Any, Any], Tensor],
        config: AutogradSystemConfig | str | os.PathLike[str] | Mapping[str, Any] | None = None,
        *,
        scheduler: Scheduler | None = None,
        clipping: Clipping | None = None,
    ) -> None:
        _check_arguments(model, optimizer, loss_fn)
        self.config = _configuration(config)
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn
        self.functions = CUSTOM if self.config.advanced_features.custom_gradients else TORCH
        self.monitor: GradientMonitor | None = None
        self._scheduler, self._clipping = scheduler, clipping
        self._engine: TrainingEngine | None = None
        self._manager = TorchManager(next(model.parameters()).device)
        if self.config.advanced_features.gradient_checkpointing:
            _enable_checkpointing(model)
        if self.config.performance.channels_last:
            self._manager.channels_last(model)
        if not self.config.enable_gradients:
            model.requires_grad_(False)

    @classmethod
    def from_config(
        cls,
        config: AutogradSystemConfig | str | os.PathLike[str] | Mapping[str, Any],
        model: nn.Module,
        optimizer: Optimizer,
        loss_fn: Callable[[Any, Any], Tensor],
        *,
        scheduler: Scheduler | None = None,
        clipping: Clipping | None = None,
    ) -> AutogradTrainingSystem:
        """The system of a configuration: of a YAML file's path, or of a mapping of the same form."""
        return cls(model, optimizer, loss_fn, config, scheduler=scheduler, clipping=clipping)

    @property
    def engine(self) -> TrainingEngine:
        """What trains: made at first use, and the monitor's hooks with it.

        Raises:
            RuntimeError: the configuration has enable_gradients: false.
        """
        self._refuse_unless(self.config.enable_gradients, "enable_gradients", "train")
        if self._engine is None:
            self._engine = self._made_engine()
        return self._engine

    def train_step(self, input_data: Any, target_data: Any) -> StepResult:
        """One batch; the parameters change with the last one of an accumulation window.

        Args:
            input_data: a tensor, a tuple of positional or a mapping of keyword arguments of the model.
            target_data: what the loss takes.
        """
        return self.engine.step((input_data, target_data))

    def train_epoch(self, dataloader: Iterable[Any], validation: Iterable[Any] | None = None) -> EpochResult:
        """All batches once; see ``TrainingEngine.train_epoch``."""
        return self.engine.train_epoch(dataloader, validation)

    def fit(
        self,
        dataloader: Iterable[Any],
        validation: Iterable[Any] | None = None,
        epochs: int = 1,
        patience: int | None = None,
        *,
        checkpoint_folder: str | os.PathLike[str] | None = None,
        resume: bool = False,
    ) -> TrainingHistory:
        """Several epochs, with early stopping and checkpoints; see ``TrainingEngine.fit``."""
        return self.engine.fit(
            dataloader, validation, epochs, patience, checkpoint_folder=checkpoint_folder, resume=resume
        )

    @torch.no_grad()
    def evaluate(self, dataloader: Iterable[Any]) -> float:
        """The mean loss over all rows; nothing changes.

        Raises:
            ValueError: the loader yields nothing.
        """
        if self.config.enable_gradients:
            return self.engine.evaluate(dataloader)["loss"]
        total, rows = 0.0, 0
        precision = self.config.performance.precision
        processes = Processes(precision)
        with evaluating(self.model):
            for batch in dataloader:
                count = row_count(batch)
                batch = processes.to_device(batch, self._manager.device)
                with self._manager.autocast(precision):
                    total += count * float(self._loss(self.model, batch))
                rows += count
        if rows == 0:
            raise ValueError("dataloader yields nothing, expected at least one batch")
        return total / rows

    def compute_higher_order_gradients(
        self, input_data: Any, target_data: Any, order: int = 2
    ) -> list[list[Tensor]]:
        """Gradients of order 1 to ``order``; see ``seo_kernels.diagnostics.higher_order``.

        Raises:
            RuntimeError: the configuration has higher_order_gradients or enable_gradients: false.
        """
        allowed = self.config.advanced_features.higher_order_gradients
        what = "compute gradients of higher order"
        self._refuse_unless(allowed, "advanced_features.higher_order_gradients", what)
        self._refuse_unless(self.config.enable_gradients, "enable_gradients", what)
        return higher_order_gradients(self.model, self.loss_fn, input_data, target_data, order)

    def gradient_summary(self) -> dict[str, Any]:
        """What the monitor found: see ``GradientMonitor.get_gradient_summary``; empty where there is none."""
        return {} if self.monitor is None else self.monitor.get_gradient_summary()

    def save_report(self, path: str | os.PathLike[str]) -> Path | None:
        """Write configuration, losses and gradients: as JSON where the path ends so, else as text.

        Returns:
            The path; None in all processes but the first, which write nothing.

        Raises:
            OSError: it can't be written; the message names it.
        """
        history = self._engine.history if self._engine is not None else TrainingHistory(1)
        training = {
            "epochs": len(history.epochs),
            "updates": sum(epoch.updates for epoch in history.epochs),
            "losses": [epoch.loss for epoch in history.epochs],
            "validation_losses": [e.validation["loss"] for e in history.epochs if e.validation is not None],
            "latest_losses": [step.loss for step in history.steps],
            "skipped_steps": sum(step.skipped for step in history.steps),
        }
        content = {
            "configuration": self.config.model_dump(),
            "training": training,
            "gradients": self.gradient_summary(),
        }
        return write_report(path, "Autograd training system", content)

    def close(self) -> None:
        """Remove the monitor's hooks from the model; what it has found stays."""
        if self.monitor is not None:
            self.monitor.remove_hooks()

    def _made_engine(self) -> TrainingEngine:
        performance, monitoring = self.config.performance, self.config.gradient_monitoring
        module = self.model
        learns = isinstance(self.loss_fn, nn.Module) and _has(self.optimizer, self.loss_fn)
        if isinstance(self.loss_fn, nn.Module) and learns:
            module = ModelWithLoss(self.model, self.loss_fn)
        if performance.compile:
            module = self._manager.compile(module)
        settings = EngineSettings(
            mixed_precision=performance.precision,
            accumulation_steps=performance.accumulation_steps,
            clipping=self._clipping,
        )
        loss_of_batch = self._learnt_loss if learns else self._loss
        engine = TrainingEngine(
            module, self.optimizer, loss_of_batch, settings=settings, scheduler=self._scheduler
        )
        if monitoring.enabled:
            history = MAXIMUM if monitoring.save_gradient_history else 1
            scaler = engine.scaler if engine.scaler.is_enabled() else None
            self.monitor = GradientMonitor(
                engine.model, history=history, accumulation_steps=None, scaler=scaler
            )
            self.monitor.register_hooks()
            engine.monitor = _Observer(self.monitor)
        return engine

    def _loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, target = split_batch(batch)
        return PairLoss(self.loss_fn)(model, (self._laid_out(inputs), target))

    def _learnt_loss(self, model: nn.Module, batch: Any) -> Tensor:
        inputs, target = split_batch(batch)
        loss: Tensor = model(self._laid_out(inputs), target)
        return loss

    def _laid_out(self, inputs: Any) -> Any:
        return self._manager.to_channels_last(inputs) if self.config.performance.channels_last else inputs

    def _refuse_unless(self, allowed: bool, key: str, what: str) -> None:
        if not allowed:
            raise RuntimeError(
                f"autograd_system.{key} is false in the configuration, expected true to {what}"
            )


class ModelWithLoss(nn.Module):
    """A model and a loss with parameters of its own, as one: ``forward(inputs, target)`` is the loss."""

    def __init__(self, model: nn.Module, loss_fn: nn.Module) -> None:
        super().__init__()
        self.model, self.loss_fn = model, loss_fn

    def forward(self, inputs: Any, target: Any) -> Any:
        return self.loss_fn(call_model(self.model, inputs), target)


def split_batch(batch: Any) -> tuple[Any, Any]:
    """What goes into the model, and the target.

    Raises:
        TypeError, ValueError: a batch of another form.

    >>> split_batch({"x": 1, "labels": 2})
    ({'x': 1}, 2)
    >>> split_batch((1, 2, 3))
    ((1, 2), 3)
    """
    if isinstance(batch, Mapping):
        if "labels" not in batch or len(batch) < 2:
            raise ValueError(
                f"the batch has the keys {', '.join(map(str, batch))}, expected labels and inputs"
            )
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
    if not isinstance(batch, (tuple, list)):
        raise TypeError(
            f"the batch is {kind(batch)}, expected an input and a target, or a mapping with labels"
        )
    if len(batch) < 2:
        raise ValueError(f"the batch has length {len(batch)}, expected an input and a target")
    *inputs, target = batch
    return (inputs[0] if len(inputs) == 1 else tuple(inputs)), target


class _Observer:
    """A ``GradientMonitor`` for the engine, which calls it once for each update, with unscaled gradients."""

    def __init__(self, monitor: GradientMonitor) -> None:
        self._monitor = monitor

    def monitor_gradients(self, model: nn.Module, *, step: int) -> None:
        self._monitor.observe(loss_scale=1.0)


def _configuration(config: Any) -> AutogradSystemConfig:
    require("pydantic", extra="train", purpose="check a configuration")
    from seo_kernels.training.system_schema import AutogradSystemConfig  # needs pydantic

    if config is None:
        return AutogradSystemConfig()
    if isinstance(config, AutogradSystemConfig):
        return config
    if not isinstance(config, (str, os.PathLike, Mapping)):
        raise TypeError(f"config is {kind(config)}, expected an AutogradSystemConfig, a path or a mapping")
    return load_config(config)


def _check_arguments(model: object, optimizer: object, loss_fn: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {kind(model)}, expected a torch.nn.Module")
    if next(model.parameters(), None) is None:
        raise ValueError(f"model is a {type(model).__name__} without parameters, expected at least one")
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer is {kind(optimizer)}, expected a torch.optim.Optimizer")
    if not callable(loss_fn):
        raise TypeError(f"loss_fn is {kind(loss_fn)}, expected a function of the model's output and a target")


def _enable_checkpointing(model: nn.Module) -> None:
    enable: Any = getattr(model, "gradient_checkpointing_enable", None)
    if enable is None:
        raise ValueError(
            "autograd_system.advanced_features.gradient_checkpointing is true, expected a model with "
            f"gradient_checkpointing_enable(), which {type(model).__name__} lacks"
        )
    enable()


def _has(optimizer: Optimizer, module: nn.Module) -> bool:
    """Whether the optimizer has a parameter of the module."""
    own = {id(parameter) for parameter in module.parameters()}
    return any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"])
