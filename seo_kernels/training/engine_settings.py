"""How an engine trains: precision, accumulation, clipping, what happens on numbers that are not finite."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seo_kernels.nn.sizes import check_choice, check_flag, check_positive, check_size
from seo_kernels.ops.checks import kind

PRECISIONS = ("no", "bf16", "fp16")
CLIPPINGS = ("norm", "value", "adaptive")
ON_NON_FINITE = ("skip", "stop")
SCHEDULE_UNITS = ("update", "epoch")


@dataclass(frozen=True)
class Clipping:
    """What is done to gradients that are too large; see ``GradientClipper`` for the three.

    Args:
        mode: "norm", the L2 norm over all gradients; "value", each entry; "adaptive", each unit's gradient
            relative to its weights.
        limit: above 0: the largest norm, the largest magnitude, or the largest ratio.

    Raises:
        TypeError, ValueError: another mode, or a limit that is not above 0.

    >>> Clipping("value", 0.5)
    Clipping(mode='value', limit=0.5)
    """

    mode: str = "norm"
    limit: float = 1.0

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, CLIPPINGS)
        check_positive("limit", self.limit)


@dataclass(frozen=True)
class EngineSettings:
    """Settings of a ``TrainingEngine``; made once, not changed.

    Args:
        mixed_precision: "no"; "bf16", autocast to bfloat16; "fp16", autocast to float16 with scaled losses.
        accumulation_steps: batches that make one update.
        clipping: of the gradient of an update; None: none.
        non_finite: what a loss or a gradient that is not finite leads to: "skip" reports it and goes on
            without it; "stop" raises ``NonFiniteError``, with nothing updated.
        max_consecutive_skips: so many in a row, and "skip" raises as well; None: never.
        ema_decay: in (0, 1), of an exponential moving average of the parameters; None: none is kept.
        schedule_unit: "update" steps the scheduler after each update, "epoch" at the end of each epoch.
        gradient_checkpointing: call the model's ``gradient_checkpointing_enable``.
        progress: a bar for each epoch, where the output is a terminal.
        checkpoint_every: updates between two checkpoints within an epoch; None: one at its end only.
        history_length: the most recent steps that are remembered.
        seed: of python, numpy and torch, set when the engine is made; in several processes each adds its
            index. None: they stay as they are.

    Raises:
        TypeError, ValueError: a value that is none of these.

    >>> EngineSettings(mixed_precision="bf16", accumulation_steps=4).non_finite
    'skip'
    """

    mixed_precision: str = "no"
    accumulation_steps: int = 1
    clipping: Clipping | None = None
    non_finite: str = "skip"
    max_consecutive_skips: int | None = 100
    ema_decay: float | None = None
    schedule_unit: str = "update"
    gradient_checkpointing: bool = False
    progress: bool = True
    checkpoint_every: int | None = None
    history_length: int = 10_000
    seed: int | None = None

    def __post_init__(self) -> None:
        check_choice("mixed_precision", self.mixed_precision, PRECISIONS)
        check_size("accumulation_steps", self.accumulation_steps)
        if self.clipping is not None and not isinstance(self.clipping, Clipping):
            raise TypeError(f"clipping is {kind(self.clipping)}, expected a Clipping or None")
        check_choice("non_finite", self.non_finite, ON_NON_FINITE)
        if self.max_consecutive_skips is not None:
            check_size("max_consecutive_skips", self.max_consecutive_skips)
        if self.ema_decay is not None:
            check_decay("ema_decay", self.ema_decay)
        check_choice("schedule_unit", self.schedule_unit, SCHEDULE_UNITS)
        check_flag("gradient_checkpointing", self.gradient_checkpointing)
        check_flag("progress", self.progress)
        if self.checkpoint_every is not None:
            check_size("checkpoint_every", self.checkpoint_every)
        check_size("history_length", self.history_length)
        if self.seed is not None:
            check_seed("seed", self.seed)


def check_decay(name: str, value: float) -> float:
    """The value, a decay in (0, 1)."""
    if not isinstance(value, float) or isinstance(value, bool):
        raise TypeError(f"{name} is {kind(value)}, expected a number between 0 and 1")
    if math.isnan(value) or not 0.0 < value < 1.0:
        raise ValueError(f"{name} is {value}, expected a number between 0 and 1")
    return value


def check_seed(name: str, value: int) -> int:
    """The value, a seed that numpy takes too: below 2^32."""
    check_size(name, value, least=0)
    if value >= 2**32:
        raise ValueError(f"{name} is {value}, expected a seed below 2^32")
    return value
