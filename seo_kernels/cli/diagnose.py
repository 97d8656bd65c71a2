"""``diagnose``: a report on the gradients of a user's own module; and the watchers' own test."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from seo_kernels.cli.console import progress_bar, report_console
from seo_kernels.cli.errors import expect_folder, told_in_a_line, usage_error

if TYPE_CHECKING:
    from seo_kernels.diagnostics.module_check import ModuleCheck
    from seo_kernels.diagnostics.module_diagnosis import ModuleDiagnosis
    from seo_kernels.diagnostics.planted_faults import FaultResult

STEPS, LEARNING_RATE = 20, 1e-3
OUTPUT = Path("diagnosis")
MOST_LINES = 10  # of findings and failed comparisons; the report has all
VERDICTS = {True: "[green]ok[/]", False: "[bold red]failed[/]"}


def diagnose(
    factory: Annotated[
        str | None,
        typer.Argument(
            metavar="PACKAGE.MODULE:FACTORY",
            help="Your module: a function that returns (model, inputs), (model, inputs, loss) or (model, "
            "inputs, target, loss).",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder for report.html and report.json, by default {OUTPUT}.", show_default=False
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(help=f"Steps of training under watch, by default {STEPS}.", show_default=False),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help=f"Of AdamW, by default {LEARNING_RATE}.", show_default=False)
    ] = None,
    selftest: Annotated[
        bool, typer.Option("--selftest", help="Plant faults into a model and see that each is found.")
    ] = False,
) -> None:
    """Report on the gradients of your module: findings, flow, curvature, finite differences.

    A copy of the module is trained on its own inputs for some steps while its gradients are watched.

    Exit status 1: a loss or gradient was NaN or Inf, or a gradient failed its verification.

    With --selftest: a planted fault was missed.
    """
    if selftest:
        given = {"factory": factory, "--output": output, "--steps": steps, "--learning-rate": learning_rate}
        for name, value in given.items():
            if value is not None:
                usage_error(f"{name} is {str(value)!r}, expected it without --selftest")
        _selftest()
        return
    if factory is None:
        usage_error("factory is missing, expected package.module:factory or --selftest")
    _diagnose(
        factory,
        OUTPUT if output is None else output,
        STEPS if steps is None else steps,
        LEARNING_RATE if learning_rate is None else learning_rate,
    )


def _diagnose(factory: str, output: Path, steps: int, learning_rate: float) -> None:
    expect_folder("--output", output)
    with told_in_a_line():
        from seo_kernels._extras import require
        from seo_kernels.diagnostics.module_diagnosis import diagnose_module
        from seo_kernels.diagnostics.module_factory import load_factory
        from seo_kernels.diagnostics.module_report import summary_lines, write_module_report
        from seo_kernels.nn.sizes import check_positive, check_size

        check_size("steps", steps)
        check_positive("learning_rate", learning_rate)
        for package in ("matplotlib", "plotly", "scipy"):  # before the work, not after it
            require(package, extra="diagnostics", purpose="write the report")
        module = load_factory(factory)
        _make_folder(output)
        with progress_bar() as progress:
            task = progress.add_task("training", total=steps + 2)

            def tell(what: str) -> None:
                progress.update(task, description=what, advance=1)

            diagnosis = diagnose_module(module, steps=steps, learning_rate=learning_rate, progress=tell)
            progress.update(task, description="report", completed=steps + 2)
            path = write_module_report(output, diagnosis)
    _print_summary(diagnosis, summary_lines(diagnosis), path)
    if not diagnosis.passed:
        raise typer.Exit(1)


def _make_folder(output: Path) -> None:
    """Before the work, not after it."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        usage_error(f"--output is {str(output)!r}, expected a folder that can be made: {error.strerror}")
    if not os.access(output, os.W_OK | os.X_OK):
        usage_error(f"--output is {str(output)!r}, expected a folder that can be written")


def _print_summary(diagnosis: ModuleDiagnosis, lines: dict[str, str], path: Path) -> None:
    console = report_console()
    table = Table(
        title=escape(f"gradients of {diagnosis.name}"), box=SIMPLE, title_justify="left", show_header=False
    )
    for name, text in lines.items():
        table.add_row(name, escape(text))
    table.add_row("verdict", VERDICTS[diagnosis.passed])
    console.print(table)
    failures = [_sentence(check) for check in diagnosis.failed_checks]
    for words in (list(map(str, diagnosis.findings)), failures, diagnosis.missing_analyses):
        for line in words[:MOST_LINES]:
            console.print(line, markup=False, highlight=False)
        if len(words) > MOST_LINES:
            console.print(f"and {len(words) - MOST_LINES} more in the report", highlight=False)
    console.print(f"report: {path}", markup=False, highlight=False, soft_wrap=True)


def _sentence(check: ModuleCheck) -> str:
    detail = check.detail
    if not detail and check.error is not None and check.allowed is not None:
        detail = f"relative error {check.error:.2g}, allowed {check.allowed:.2g}"
    named = not check.about or detail.startswith(f"{check.about}: ")
    return f"{check.what}: {detail}" if named else f"{check.what}: {check.about}: {detail or 'failed'}"


def _selftest() -> None:
    from seo_kernels.diagnostics.planted_faults import run_selftest

    results = run_selftest()
    console = report_console()
    console.print(_faults(results))
    missed = sum(not result.passed for result in results)
    verdict = f"{missed} [bold red]failed[/]" if missed else "[green]all passed[/]"
    console.print(f"{len(results)} tests of the watchers, {verdict}", highlight=False)
    if missed:
        raise typer.Exit(1)


def _faults(results: list[FaultResult]) -> Table:
    table = Table(title="planted faults, and what the watchers found", box=SIMPLE, title_justify="left")
    for column in ("fault", "planted in", "found", "verdict"):
        table.add_column(column)
    for result in results:
        words = map(escape, (result.fault, result.planted_in, result.found))
        table.add_row(*words, VERDICTS[result.passed])
    return table
