"""``check package.module:factory``: verify the gradients of a user's own module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.box import SIMPLE
from rich.table import Table

from seo_kernels.cli.console import report_console
from seo_kernels.cli.errors import told_in_a_line

if TYPE_CHECKING:
    from seo_kernels.diagnostics.module_check import ModuleCheck

VERDICTS = {True: "[green]ok[/]", False: "[bold red]failed[/]", None: "[yellow]can't tell[/]"}


def check_module(factory: str, json_path: Path | None, samples: int) -> None:
    """Print every kind of comparison with its worst error, and each failure; exit status 1 on a failure.

    Args:
        factory: ``package.module:factory``, see ``seo_kernels.diagnostics.module_factory``.
        json_path: where all comparisons go.
        samples: single entries per parameter to hold against finite differences.
    """
    import seo_kernels as sk
    from seo_kernels.diagnostics import module_check
    from seo_kernels.diagnostics.module_factory import load_factory
    from seo_kernels.diagnostics.report_files import json_text, write_atomically

    with told_in_a_line():
        module = load_factory(factory)
        checks = module_check.check_module(module, samples=samples)
    passed = all(check.passed is not False for check in checks)
    if json_path is not None:
        report = {
            "info": sk.info(),
            "module": factory,
            "passed": passed,
            "results": [asdict(check) for check in checks],
        }
        write_atomically(json_path, json_text(report) + "\n")
    _print_report(factory, type(module.model).__name__, checks)
    if not passed:
        raise typer.Exit(1)


def _print_report(factory: str, model: str, checks: Sequence[ModuleCheck]) -> None:
    console = report_console()
    console.print(_summary(f"{factory}: gradients of a {model}", checks))
    failures = [check for check in checks if check.passed is False]
    if failures:
        console.print(_failures(failures))
    for reason in dict.fromkeys(f"{c.what}: {c.detail}" for c in checks if c.passed is None):
        console.print(reason, markup=False, highlight=False)
    verdict = f"{len(failures)} [bold red]failed[/]" if failures else "[green]none failed[/]"
    console.print(f"{len(checks)} comparisons, {verdict}", highlight=False)


def _summary(title: str, checks: Sequence[ModuleCheck]) -> Table:
    """A row per kind of comparison: how many passed, and the error that came nearest to what is allowed."""
    table = Table(title=title, box=SIMPLE, title_justify="left")
    for column in ("what", "passed", "worst error", "allowed", "of", "verdict"):
        table.add_column(column)
    for what in dict.fromkeys(check.what for check in checks):
        members = [check for check in checks if check.what == what]
        told = [check for check in members if check.passed is not None]
        measured = [check for check in told if check.error is not None]
        cells = ["-", "-", "-"]
        if measured:
            worst = max(measured, key=_share)
            cells = [f"{worst.error:.1e}", f"{worst.allowed:.1e}", worst.about or "all"]
        verdict = all(check.passed for check in told) if told else None
        count = f"{sum(bool(check.passed) for check in told)}/{len(members)}"
        table.add_row(what, count, *cells, VERDICTS[verdict])
    return table


def _failures(failures: Sequence[ModuleCheck]) -> Table:
    table = Table(title="failed", box=SIMPLE, title_justify="left")
    for column in ("what", "parameter", "error", "allowed"):
        table.add_column(column, no_wrap=True)
    table.add_column("detail")
    for check in failures:
        numbers = ["-" if number is None else f"{number:.3g}" for number in (check.error, check.allowed)]
        table.add_row(check.what, check.about or "-", *numbers, check.detail)
    return table


def _share(check: ModuleCheck) -> float:
    """How much of what is allowed the error takes; a failure more than anything else."""
    if check.passed is False:
        return float("inf")
    return (check.error or 0.0) / (check.allowed or 1.0)
