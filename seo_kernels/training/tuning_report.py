"""What ``autotune`` found: a row for each of the settings, and the best."""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from seo_kernels.training.engine_settings import EngineSettings

if TYPE_CHECKING:
    from rich.table import Table

MEBIBYTE = 2**20


@dataclass(frozen=True)
class TrainingSettings:
    """What a training step was tried with.

    Args:
        mixed_precision: "no", "bf16" or "fp16".
        gradient_checkpointing: layers are computed again in the backward pass.
        compile: through ``torch.compile``.
        batch_size: rows.
    """

    mixed_precision: str
    gradient_checkpointing: bool
    compile: bool
    batch_size: int

    def engine_settings(self, **others: Any) -> EngineSettings:
        """Those of a ``TrainingEngine``, beside its others; compile the model and size batches yourself.

        >>> TrainingSettings("bf16", False, True, 8).engine_settings(accumulation_steps=2).mixed_precision
        'bf16'
        """
        return EngineSettings(
            mixed_precision=self.mixed_precision, gradient_checkpointing=self.gradient_checkpointing, **others
        )


@dataclass(frozen=True)
class TuningRow:
    """The figures of some settings.

    Args:
        settings: that were tried, or were to be.
        seconds_per_row: of a training step, a row of the batch; None where it did not run.
        peak_bytes: of parameters, gradients, the optimizer's state and the step's own tensors together; None
            where it did not run, or the system does not tell.
        first_step_seconds: of the step that is not counted: compilation is in it.
        reason: why they can't be chosen; None: they can.
    """

    settings: TrainingSettings
    seconds_per_row: float | None = None
    peak_bytes: int | None = None
    first_step_seconds: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class TuningReport:
    """All rows, in the order in which they were tried; ``print`` and rich show them as a table.

    Args:
        rows: see ``TuningRow``.
        memory_limit: bytes, or None.
    """

    rows: tuple[TuningRow, ...]
    memory_limit: int | None = None

    @property
    def best(self) -> TuningRow | None:
        """The least time per row of a batch, of those that can be chosen; None where there is none."""
        able = [row for row in self.rows if row.reason is None and row.seconds_per_row is not None]
        return min(able, key=lambda row: row.seconds_per_row or 0.0, default=None)

    def as_dicts(self) -> list[dict[str, Any]]:
        """The rows as plain data."""
        return [
            {**asdict(row.settings), **{k: v for k, v in asdict(row).items() if k != "settings"}}
            for row in self.rows
        ]

    def __rich__(self) -> Table:
        from rich.table import Table  # slow to import

        limit = "" if self.memory_limit is None else f" within {self.memory_limit / MEBIBYTE:.1f} MiB"
        table = Table(title=f"Training steps{limit}", title_justify="left")
        for name in ("precision", "checkpointing", "compiled"):
            table.add_column(name)
        for name in ("rows", "us/row", "peak MiB", "first step s"):
            table.add_column(name, justify="right")
        table.add_column("")
        best = self.best
        for row in self.rows:
            settings = row.settings
            table.add_row(
                settings.mixed_precision,
                "yes" if settings.gradient_checkpointing else "no",
                "yes" if settings.compile else "no",
                str(settings.batch_size),
                _figure(row.seconds_per_row, 1e-6),
                _figure(row.peak_bytes, MEBIBYTE),
                _figure(row.first_step_seconds, 1.0),
                "best" if row is best else (row.reason or ""),
            )
        return table

    def __str__(self) -> str:
        from rich.console import Console  # slow to import

        console = Console(file=io.StringIO(), width=120, color_system=None)
        with console.capture() as capture:
            console.print(self)
        return capture.get()


def _figure(value: float | None, unit: float) -> str:
    return "" if value is None else f"{value / unit:,.1f}"
