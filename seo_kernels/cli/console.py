"""What all commands print with: one console for reports, one progress bar for whatever takes long."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

WIDTH_WITHOUT_TERMINAL = 150  # in a pipe or a log, where rich would assume 80


def report_console() -> Console:
    """Standard output, wide enough for a table in a log."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_WITHOUT_TERMINAL)


def progress_bar() -> Progress:
    """A bar with description, count, elapsed and remaining time; on standard error, beside the report."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
