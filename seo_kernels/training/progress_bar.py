"""A bar for each epoch, where someone can see it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def epoch_bar(
    shown: bool, epoch: int, batches: int | None, done: int = 0
) -> Iterator[Callable[[float], None]]:
    """What to call with the loss of each batch.

    Args:
        shown: False, or an output that is no terminal: nothing is drawn.
        epoch: counted from 0.
        batches: of the epoch; None: not known.
        done: batches that were done before.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as progress:
        task = progress.add_task("", total=batches, completed=done, epoch=epoch, loss=float("nan"))
        yield lambda loss: progress.update(task, advance=1, loss=loss)
