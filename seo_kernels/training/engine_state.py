"""Where a training is, and everything that it goes on from: gathered for a checkpoint, and put back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from seo_kernels.training.checkpoints import check_fits
from seo_kernels.training.random_states import loader_generators, random_states, set_random_states
from seo_kernels.training.training_history import EpochResult

if TYPE_CHECKING:
    from seo_kernels.training.engine import TrainingEngine

SAME = ("mixed_precision", "accumulation_steps", "ema_decay", "schedule_unit")  # else it is another training


@dataclass
class Position:
    """How far a training is.

    Args:
        epoch: finished ones.
        batch: done of the one that is going on.
        batches: since the beginning.
        windows: of accumulation that were closed, left out ones too.
        updates: of the parameters.
        skips: in a row, at present.
    """

    epoch: int = 0
    batch: int = 0
    batches: int = 0
    windows: int = 0
    updates: int = 0
    skips: int = 0


@dataclass
class Window:
    """The batches that make the next update.

    Args:
        count: of them, left out ones too.
        rows: of the first one: the unit that the others' weights are in.
        synchronised: the processes' gradients are one.
        buffers: as they were when it opened.
    """

    count: int = 0
    rows: int = 0
    synchronised: bool = True
    buffers: dict[Tensor, Tensor] = field(default_factory=dict)


@dataclass
class ResumePoint:
    """The draws that an epoch began with, None where none was going on, and those at the checkpoint."""

    epoch_start: dict[str, Any] | None
    now: dict[str, Any]


def draws(loader: Any) -> dict[str, Any]:
    """The random states of this process, those of the loader's own generators among them."""
    generators = [generator.get_state() for generator in loader_generators(loader)]
    return {**random_states(), "loader": generators}


def set_draws(states: dict[str, Any], loader: Any) -> None:
    """Set what ``draws`` gave.

    Raises:
        ValueError: the loader has another number of generators.
    """
    set_random_states(states)
    generators = loader_generators(loader)
    if states["loader"] and len(states["loader"]) != len(generators):
        raise ValueError(
            f"loader has {len(generators)} generators of its own, expected {len(states['loader'])}, "
            "as at the checkpoint"
        )
    for generator, state in zip(generators, states["loader"], strict=False):
        generator.set_state(state)


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell the loader and its samplers which epoch it is, those that ask."""
    for each in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        tell: Any = getattr(each, "set_epoch", None)
        if callable(tell):
            tell(epoch)


def passed_over(loader: Any, resume: ResumePoint, done: int) -> Iterator[Any]:
    """The batches after those that were done, drawn as they would have been without interruption.

    Raises:
        ValueError: there are fewer than that.
    """
    assert resume.epoch_start is not None
    set_draws(resume.epoch_start, loader)
    batches = iter(loader)
    nothing = object()
    for index in range(done):
        if next(batches, nothing) is nothing:
            raise ValueError(f"loader yields {index} batches, expected {done}, done at the checkpoint")
    set_draws(resume.now, loader)
    return batches


def gathered(engine: TrainingEngine) -> dict[str, Any]:
    """All that ``restore`` needs, as tensors and plain numbers; called by every process."""
    window, module = engine._window, engine.module
    return {
        "model": module.state_dict(),
        "optimizer": engine.optimizer.state_dict(),
        "scheduler": None if engine.scheduler is None else engine.scheduler.state_dict(),
        "scaler": engine.scaler.state_dict(),
        "ema": None if engine.ema is None else engine.ema.state_dict(),
        "settings": {name: getattr(engine.settings, name) for name in SAME},
        "position": asdict(engine.position),
        "history": engine.history.state_dict(),
        "epoch": None if engine._epoch is None else asdict(engine._epoch),
        "window": {
            "count": window.count,
            "rows": window.rows,
            "accumulator": engine.accumulator.state_dict(),
            "buffers": _by_name(engine, window.buffers) if window.count else {},
        },
        "processes": engine.processes.gathered(
            {
                "epoch_start": engine._epoch_start if engine._epoch is not None else None,
                "now": draws(engine._loader),
                "gradients": _gradients(engine) if window.count else {},
            }
        ),
    }


def check(engine: TrainingEngine, state: Mapping[str, Any], path: Path) -> None:
    """Raise a ValueError, before anything is changed, unless the state is one of such an engine."""
    check_fits(engine.module, state["model"], path)
    for name in SAME:
        own, given = getattr(engine.settings, name), state["settings"][name]
        if own != given:
            raise ValueError(f"{path} is of a training with {name}={given!r}, expected the settings' {own!r}")
    for name, own in (("a scheduler", engine.scheduler), ("an average", engine.ema)):
        given = state["scheduler" if name == "a scheduler" else "ema"]
        if (own is None) != (given is None):
            was, now = ("without", "with") if given is None else ("with", "without")
            raise ValueError(f"{path} is of a training {was} {name}, this engine is {now}")
    processes = engine.processes.count
    if len(state["processes"]) != processes:
        raise ValueError(
            f"{path} is of a training in {len(state['processes'])} processes, expected {processes}"
        )
    sizes = [len(group["params"]) for group in state["optimizer"]["param_groups"]]
    own_sizes = [len(group["params"]) for group in engine.optimizer.param_groups]
    if sizes != own_sizes:
        raise ValueError(
            f"{path} is of an optimizer with groups of {sizes} parameters, this one has {own_sizes}"
        )


def restore(engine: TrainingEngine, state: Mapping[str, Any], path: Path) -> None:
    """Put the engine where the state was gathered.

    Raises:
        ValueError: it is of another training; nothing was changed.
    """
    check(engine, state, path)
    engine.module.load_state_dict(state["model"])
    engine.optimizer.load_state_dict(state["optimizer"])
    if engine.scheduler is not None:
        engine.scheduler.load_state_dict(state["scheduler"])
    if engine.scaler.is_enabled():
        engine.scaler.load_state_dict(state["scaler"])
    if engine.ema is not None:
        engine.ema.load_state_dict(state["ema"])
    engine.position = Position(**state["position"])
    engine.history.load_state_dict(state["history"])
    engine._epoch = None if state["epoch"] is None else EpochResult(**copy.deepcopy(state["epoch"]))
    own = state["processes"][engine.processes.index]
    window = state["window"]
    buffers = dict(engine.module.named_buffers())
    kept = {buffers[name]: values.to(buffers[name].device) for name, values in window["buffers"].items()}
    # of several processes each has its own part, which the end of the window makes one
    engine._window = Window(window["count"], window["rows"], engine.processes.count == 1, kept)
    engine.accumulator.load_state_dict(window["accumulator"])
    for name, parameter in engine.module.named_parameters():
        gradient = own["gradients"].get(name)
        parameter.grad = None if gradient is None else gradient.to(parameter.device)
    engine._resume = ResumePoint(own["epoch_start"], own["now"])
    set_random_states(own["now"])


def _gradients(engine: TrainingEngine) -> dict[str, Tensor]:
    return {name: p.grad.cpu() for name, p in engine.module.named_parameters() if p.grad is not None}


def _by_name(engine: TrainingEngine, buffers: dict[Tensor, Tensor]) -> dict[str, Tensor]:
    return {name: buffers[buffer] for name, buffer in engine.module.named_buffers() if buffer in buffers}
