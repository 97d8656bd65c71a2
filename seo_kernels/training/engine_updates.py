"""Updates of a model's parameters, batch by batch: the half of an engine that knows no epochs."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from seo_kernels.diagnostics.gradient_norms import gradient_norms, unwrapped
from seo_kernels.ops.checks import kind
from seo_kernels.training.buffers import kept_buffers, restore_buffers
from seo_kernels.training.ema import ExponentialMovingAverage
from seo_kernels.training.engine_batches import loss_and_metrics, numbers, row_count
from seo_kernels.training.engine_settings import EngineSettings
from seo_kernels.training.engine_state import Position, Window
from seo_kernels.training.gradient_accumulator import GradientAccumulator
from seo_kernels.training.gradient_clipper import clip_gradients
from seo_kernels.training.non_finite import NonFiniteError, non_finite_gradient, warn_of_skipping
from seo_kernels.training.precision import DTYPES, autocast, loss_scaler
from seo_kernels.training.processes import Processes
from seo_kernels.training.training_history import StepResult, TrainingHistory

Scheduler = LRScheduler | ReduceLROnPlateau
LossOfBatch = Callable[[nn.Module, Any], Any]


class Monitor(Protocol):
    """What watches the gradients of each update: unscaled, of the whole window, before clipping."""

    def monitor_gradients(self, model: nn.Module, *, step: int) -> Any: ...


class UpdateEngine:
    """Takes batches in and updates a model's parameters; see ``TrainingEngine``, which is one."""

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
        settings = EngineSettings() if settings is None else settings
        _check_arguments(model, optimizer, loss_of_batch, settings, scheduler, monitor)
        self.processes = Processes(settings.mixed_precision)
        self.settings, self.clipping = settings, settings.clipping
        self.module, self.optimizer = unwrapped(model), optimizer
        self.loss_of_batch, self.scheduler, self.monitor = loss_of_batch, scheduler, monitor
        self.model = self.processes.wrapped(model)
        if settings.gradient_checkpointing:
            _enable_checkpointing(self.module)
        if settings.seed is not None:
            self.processes.set_seed(settings.seed)
        self.precision = DTYPES[settings.mixed_precision]
        self.scaler = loss_scaler(self.device, self.precision)
        decay = settings.ema_decay
        self.ema = None if decay is None else ExponentialMovingAverage(self.module, decay)
        self.history = TrainingHistory(settings.history_length)
        self.position = Position()
        self.accumulator = GradientAccumulator(self.module)
        self._window = Window()

    @property
    def device(self) -> torch.device:
        """Where the model is, and batches are moved to."""
        return next(self.module.parameters()).device

    @property
    def learning_rate(self) -> float:
        """Of the optimizer's first group, now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def move_to(self, device: torch.device) -> None:
        """Move the model, and what optimizer and average keep of it.

        Raises:
            ValueError: several processes train, each on its own device.
        """
        if device == self.device or (device.type == self.device.type and device.index is None):
            return
        if self.processes.count > 1:
            raise ValueError(f"device is {device}, expected {self.device}, where this process trains")
        self.module.to(device)
        self.optimizer.load_state_dict(self.optimizer.state_dict())  # goes where the parameters are
        if self.ema is not None:
            self.ema.averaged.module.to(device)
        self.scaler = loss_scaler(device, self.precision)

    def step(self, batch: Any, *, last: bool = False) -> StepResult:
        """Take a batch in, and update the parameters where it is the last one of its window.

        The gradients stay until the next window begins: unscaled, clipped.

        Args:
            batch: what ``loss_of_batch`` takes: tensors, in mappings, lists and tuples; they are moved to the
                model's device.
            last: it closes the window, however few the batches in it are.

        Raises:
            TypeError, ValueError: a batch without rows, or a loss that is not scalar.
            NonFiniteError: as the settings have it.
        """
        started = time.perf_counter()
        window = self._window
        if window.count == 0:
            self._open_window()
        batch = self.processes.to_device(batch, self.device)
        rows = row_count(batch)
        window.rows = window.rows or rows
        closes = last or window.count + 1 >= self.settings.accumulation_steps
        if not self.module.training:
            self.model.train()
        buffers = kept_buffers(self.module)
        if window.count == 0:
            window.buffers = buffers
        apart = contextlib.nullcontext() if closes else self.processes.apart(self.model)
        with apart:
            loss, metrics = self._forward(batch)
            values = self.processes.mean(numbers(loss, metrics)).tolist()
            finite = math.isfinite(values[0])
            if finite:
                scaled, steps = self.scaler.scale(loss), self.settings.accumulation_steps
                self.accumulator.accumulate_gradients(scaled, steps, weight=rows / window.rows)
                window.synchronised = closes or self.processes.count == 1
        window.count += 1
        self.position.batches += 1
        problem, rate = None, self.learning_rate
        norm, updated = math.nan, False
        if not finite:
            restore_buffers(buffers)
            problem = f"the loss of batch {self.position.batches - 1} is {values[0]}"
            if self.settings.non_finite == "stop":
                self._discard_window()
        if closes and window is self._window:
            norm, updated, gradient_problem = self._update()
            problem = problem or gradient_problem
        result = StepResult(
            loss=values[0],
            grad_norm=norm,
            learning_rate=rate,
            seconds=time.perf_counter() - started,
            updated=updated,
            skipped=not finite or (closes and not updated),
            rows=rows,
            metrics=dict(zip(metrics, values[1:], strict=True)),
        )
        self.history.steps.append(result)
        self._judge(result, problem)
        return result

    def finish_window(self) -> StepResult | None:
        """Update with the batches since the last update; None where there are none.

        Raises:
            NonFiniteError: as the settings have it.
        """
        if self._window.count == 0:
            return None
        started, rate = time.perf_counter(), self.learning_rate
        norm, updated, problem = self._update()
        seconds = time.perf_counter() - started
        result = StepResult(math.nan, norm, rate, seconds, updated, skipped=not updated)
        self._judge(result, problem)
        return result

    def _forward(self, batch: Any, model: nn.Module | None = None) -> tuple[Tensor, dict[str, Any]]:
        with autocast(self.device, self.precision):
            return loss_and_metrics(self.loss_of_batch(self.model if model is None else model, batch))

    def _open_window(self) -> None:
        self.optimizer.zero_grad()
        self.module.zero_grad()
        self.accumulator.reset()

    def _discard_window(self) -> None:
        if self._window.count:
            restore_buffers(self._window.buffers)
        self.accumulator.reset()
        self._window = Window()

    def _update(self) -> tuple[float, bool, str | None]:
        """Close the window: the gradient's norm, whether parameters changed, what was not finite."""
        window, self._window = self._window, Window()
        self.position.windows += 1
        if self.accumulator.count == 0:  # all of its batches were left out
            return math.nan, False, None
        if not window.synchronised:
            self.processes.reduce_gradients(self.module)
        self.accumulator.finish()
        self.scaler.unscale_(self.optimizer)
        norms = gradient_norms(self.module)
        if self.monitor is not None:
            self.monitor.monitor_gradients(self.module, step=self.position.windows - 1)
        if not norms.finite:
            restore_buffers(window.buffers)
            searching = self.scaler.is_enabled() and self.scaler.get_scale() > 1.0
            self.scaler.update()
            # a loss that was scaled too much is no problem: the scale has just been lowered
            return norms.total, False, None if searching else non_finite_gradient(norms)
        if self.clipping is not None:
            clip_gradients(self.module, self.clipping, norms)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.position.updates += 1
        if self.ema is not None:
            self.ema.update()
        each = self.settings.schedule_unit == "update" and not isinstance(self.scheduler, ReduceLROnPlateau)
        if each and self.scheduler is not None:
            self.scheduler.step()
        return norms.total, True, None

    def _judge(self, result: StepResult, problem: str | None) -> None:
        """Report what was not finite, or stop for it."""
        position, most = self.position, self.settings.max_consecutive_skips
        position.skips = 0 if result.updated else position.skips + result.skipped
        if problem is not None and self.settings.non_finite == "stop":
            raise NonFiniteError(f"{problem}: training stops, nothing was updated", result)
        if problem is not None:
            warn_of_skipping(problem, stacklevel=4)
        if most is not None and position.skips >= most:
            raise NonFiniteError(
                f"{position.skips} batches in a row updated nothing, as many as max_consecutive_skips: "
                f"the last loss is {result.loss}, the last gradient's norm {result.grad_norm}",
                result,
            )


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Those that require a gradient.

    Raises:
        TypeError: no module.
        ValueError: there are none.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {kind(model)}, expected a torch.nn.Module")
    found = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not found:
        raise ValueError(
            f"model, a {type(model).__name__}, has no parameter that requires a gradient, expected one"
        )
    return found


def _check_arguments(
    model: Any, optimizer: Any, loss_of_batch: Any, settings: Any, scheduler: Any, monitor: Any
) -> None:
    for name, value, expected, words in (
        ("model", model, nn.Module, "a torch.nn.Module"),
        ("optimizer", optimizer, Optimizer, "a torch.optim.Optimizer"),
        ("settings", settings, EngineSettings, "an EngineSettings"),
        (
            "scheduler",
            scheduler,
            (LRScheduler, ReduceLROnPlateau, type(None)),
            "a scheduler of torch or None",
        ),
    ):
        if not isinstance(value, expected):
            raise TypeError(f"{name} is {kind(value)}, expected {words}")
    if not callable(loss_of_batch):
        raise TypeError(f"loss_of_batch is {kind(loss_of_batch)}, expected a function of model and batch")
    if monitor is not None and not callable(getattr(monitor, "monitor_gradients", None)):
        raise TypeError(f"monitor is {kind(monitor)}, expected an object with monitor_gradients")
    if scheduler is not None and scheduler.optimizer is not optimizer:
        raise ValueError("scheduler is of another optimizer, expected the one that is given")
    trainable_parameters(model)
    own = {id(parameter) for parameter in model.parameters()}
    steps = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    foreign = sum(each not in own for each in steps)
    if foreign:
        raise ValueError(
            f"optimizer has {foreign} parameters that are not the model's, expected none: put a loss that "
            "learns into one module with the model, so that checkpoints hold it"
        )


def _enable_checkpointing(model: nn.Module) -> None:
    enable: Any = getattr(model, "gradient_checkpointing_enable", None)
    if enable is None:
        raise ValueError(
            f"gradient_checkpointing is True, expected a model with gradient_checkpointing_enable, which "
            f"{type(model).__name__} lacks"
        )
    enable()
