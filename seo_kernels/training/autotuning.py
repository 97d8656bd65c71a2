"""``autotune``: which settings train a model fastest within a memory limit, found by trying them."""

from __future__ import annotations

import copy
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from seo_kernels.diagnostics.undisturbed import call_model, trainable_parameters
from seo_kernels.nn.sizes import check_choice, check_flag, check_positive, check_size
from seo_kernels.ops.checks import kind
from seo_kernels.training.engine_batches import row_count, shapes, tensors_of
from seo_kernels.training.engine_settings import PRECISIONS
from seo_kernels.training.non_finite import check_loss
from seo_kernels.training.peak_memory import measured_memory, peak_is_known
from seo_kernels.training.precision import DTYPES, autocast, loss_scaler
from seo_kernels.training.tuning_report import TrainingSettings, TuningReport, TuningRow

Loss = Callable[[nn.Module, Any], Tensor]
FINALISTS = 2  # settings that are tried with other batch sizes


def autotune(
    model: nn.Module,
    batch: Any,
    *,
    loss: Loss | None = None,
    memory_limit: int | None = None,
    precisions: Sequence[str] | None = None,
    checkpointing: Sequence[bool] = (False, True),
    compile: Sequence[bool] = (False, True),
    batch_sizes: Sequence[int] | None = None,
    optimizer_class: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    repeats: int = 3,
    time_budget: float = 60.0,
) -> TuningReport:
    """Try settings of a training step on copies of the model, and report time and memory of each.

    First every combination of precision and checkpointing is tried with the batch as it is; then the two best
    with the other batch sizes; then each combination compiled, with its best batch size. A step is forward,
    backward and the optimizer's; one that is not counted comes first. Neither the model nor random states
    change.

    Args:
        model: on the device that it is to train on; it is copied for each trial.
        batch: rows first in each tensor; other sizes repeat its rows, or leave some out.
        loss: of the model and a batch, a scalar. None: the model is called with the batch (a mapping by
            keywords, a tuple by position), and the loss is what it gives: a scalar, or the "loss" of a
            mapping; of any other tensor the mean of its squares, which takes as long as another loss would.
        memory_limit: bytes that parameters, gradients, the optimizer's state and the step's own tensors may
            take together; None: none.
        precisions: among "no", "bf16" and "fp16"; None: "no" and "bf16", on GPUs "fp16" too.
        checkpointing: whether the model's ``gradient_checkpointing_enable`` is called.
        compile: whether the model goes through ``torch.compile``.
        batch_sizes: None: a quarter of the batch's rows, half of them, twice and four times as many.
        optimizer_class: called with the parameters that require gradients.
        repeats: steps that are timed; the median counts.
        time_budget: seconds; once they are over nothing more is begun, but what has begun is not interrupted.

    Returns:
        A row for each of the settings, those that failed or were not tried with their reason, and the best:
        the least time per row of a batch within the limit.

    Raises:
        TypeError, ValueError: an argument of another kind or out of range, a batch without rows, a model
            without trainable parameters, or a limit on a system that does not tell a process's peak memory.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> report = autotune(model, torch.randn(8, 4), compile=[False], checkpointing=[False], repeats=1)
    >>> report.best is not None and {row.settings.mixed_precision for row in report.rows} == {"no", "bf16"}
    True
    """
    device = next(iter(trainable_parameters(model).values())).device
    rows = row_count(batch)
    if next(iter(tensors_of(batch)), None) is None:
        raise ValueError(f"batch is {kind(batch)} without tensors, expected at least one")
    if precisions is None:
        precisions = PRECISIONS if device.type == "cuda" else ("no", "bf16")
    for i, name in enumerate(_several("precisions", precisions)):
        check_choice(f"precisions[{i}]", name, PRECISIONS)
    for name, flags in (("checkpointing", checkpointing), ("compile", compile)):
        for i, flag in enumerate(_several(name, flags)):
            check_flag(f"{name}[{i}]", flag)
    if batch_sizes is None:
        batch_sizes = list(dict.fromkeys(max(1, n) for n in (rows // 4, rows // 2, 2 * rows, 4 * rows)))
    for i, size in enumerate(batch_sizes):
        check_size(f"batch_sizes[{i}]", size)
    if memory_limit is not None:
        check_size("memory_limit", memory_limit)
        if not peak_is_known(device):
            raise ValueError(f"memory_limit is {memory_limit}, but this system does not tell peak memory")
    if loss is not None and not callable(loss):
        raise TypeError(f"loss is {kind(loss)}, expected a function of the model and a batch, or None")
    trials = _Trials(
        model=model,
        batch=batch,
        loss=_own_loss if loss is None else loss,
        device=device,
        memory_limit=memory_limit,
        optimizer_class=optimizer_class,
        repeats=check_size("repeats", repeats),
        budget=check_positive("time_budget", time_budget),
        end=time.perf_counter() + time_budget,
    )
    kinds = itertools.product(sorted(set(checkpointing)), dict.fromkeys(precisions))
    first = min(compile)  # False where both are wanted
    found = [trials.of(TrainingSettings(name, checkpointed, first, rows)) for checkpointed, name in kinds]
    for finalist in _ranked(found)[:FINALISTS]:
        found += [
            trials.of(replace(finalist.settings, batch_size=size)) for size in batch_sizes if size != rows
        ]
    if len(set(compile)) > 1:
        best: dict[tuple[str, bool], TuningRow] = {}  # of each kind, the best kind first
        for row in _ranked(found):
            best.setdefault((row.settings.mixed_precision, row.settings.gradient_checkpointing), row)
        found += [trials.of(replace(row.settings, compile=True)) for row in best.values()]
    return TuningReport(tuple(found), memory_limit)


@dataclass(frozen=True)
class _Trials:
    """Training steps of copies of a model, until the time is over."""

    model: nn.Module
    batch: Any
    loss: Loss
    device: torch.device
    memory_limit: int | None
    optimizer_class: Callable[..., torch.optim.Optimizer]
    repeats: int
    budget: float
    end: float  # by time.perf_counter

    def of(self, settings: TrainingSettings) -> TuningRow:
        """The figures of these settings, or why there are none."""
        if time.perf_counter() > self.end:
            return TuningRow(settings, reason=f"not tried: the time budget of {self.budget:g} s is spent")
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices):
                return self._measured(settings)
        except Exception as error:  # whatever a model, a compiler or an allocator may raise: the row says it
            first = (str(error).strip() or "no message").splitlines()[0]
            return TuningRow(settings, reason=f"{type(error).__name__}: {first}")

    def _measured(self, settings: TrainingSettings) -> TuningRow:
        model = copy.deepcopy(self.model).train()
        if settings.gradient_checkpointing:
            enable: Any = getattr(model, "gradient_checkpointing_enable", None)
            if enable is None:
                return TuningRow(settings, reason="the model has no gradient_checkpointing_enable()")
            enable()
        optimizer = self.optimizer_class([p for p in model.parameters() if p.requires_grad])
        called: Any = torch.compile(model) if settings.compile else model
        batch = resized(self.batch, settings.batch_size)
        dtype = DTYPES[settings.mixed_precision]
        scaler = loss_scaler(self.device, dtype)

        def step() -> float:
            optimizer.zero_grad()
            with autocast(self.device, dtype):
                loss = check_loss(self.loss(called, batch))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss.item()  # which waits for the device

        first = _seconds(step)
        optimizer.zero_grad()
        with measured_memory(self.device) as use:
            value = step()
        if not math.isfinite(value):
            return TuningRow(settings, reason=f"the loss is {value}")
        seconds = statistics.median(_seconds(step) for _ in range(self.repeats))
        peak = None if use.peak is None else use.peak + _held_bytes(model, optimizer)
        over = self.memory_limit is not None and peak is not None and peak > self.memory_limit
        return TuningRow(
            settings,
            seconds_per_row=seconds / settings.batch_size,
            peak_bytes=peak,
            first_step_seconds=first,
            reason="over the memory limit" if over else None,
        )


def resized(batch: Any, size: int) -> Any:
    """The batch with so many rows: the first ones, or all of them again and again.

    Tensors that have another first size than the batch has rows stay as they are.

    >>> resized({"ids": torch.tensor([1, 2, 3]), "scale": 2.0}, 5)
    {'ids': tensor([1, 2, 3, 1, 2]), 'scale': 2.0}
    """
    rows = row_count(batch)

    def of(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dim() == 0 or len(value) != rows:
            return value
        return value[torch.arange(size, device=value.device) % rows]

    return tree_map(of, batch)


def _own_loss(model: nn.Module, batch: Any) -> Tensor:
    """What the model gives for the batch, made one number where it is none."""
    output = call_model(model, tuple(batch) if isinstance(batch, list) else batch)
    if isinstance(output, Mapping) and "loss" in output:
        output = output["loss"]
    if not isinstance(output, Tensor) or not output.is_floating_point():
        raise TypeError(
            f"the model gave {kind(output)} for a batch {shapes(batch)}, expected a floating tensor, or a "
            "mapping with 'loss': pass loss=, a function of the model and the batch"
        )
    return output if output.numel() == 1 else output.float().square().mean()


def _ranked(rows: Sequence[TuningRow]) -> list[TuningRow]:
    """Those that ran: within the limit by their time, then the others by their memory."""
    able = [row for row in rows if row.seconds_per_row is not None]
    return sorted(
        able, key=lambda row: (row.reason is not None, row.peak_bytes if row.reason else row.seconds_per_row)
    )


def _held_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """What stays between steps: parameters, buffers and the optimizer's state."""
    state = [value for entry in optimizer.state.values() for value in entry.values()]
    held = [*model.parameters(), *model.buffers(), *(value for value in state if isinstance(value, Tensor))]
    return sum(tensor.nbytes for tensor in held)


def _seconds(step: Callable[[], object]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _several(name: str, values: Sequence[Any]) -> Sequence[Any]:
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} is {kind(values)}, expected a list")
    if not values:
        raise ValueError(f"{name} is empty, expected at least one entry")
    return values
