"""``check``: verify the gradients of every op, every dtype and device. Made for continuous integration."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from seo_kernels.cli.check_module import check_module
from seo_kernels.cli.console import progress_bar, report_console
from seo_kernels.cli.errors import expect_one_of, usage_error

if TYPE_CHECKING:
    from seo_kernels.diagnostics.gradient_check import CheckResult

CAPABILITIES = ("portable", "avx2", "avx512", "avx512_bf16", "amx_bf16")
CAPABILITY_VARIABLE = "SEO_KERNELS_CPU_CAPABILITY"
OK, FAILED = "[green]ok[/]", "[bold red]failed[/]"


def check(
    factory: Annotated[
        str | None,
        typer.Argument(
            metavar="[PACKAGE.MODULE:FACTORY]",
            help="Verify your own module instead: a function that returns (model, inputs), (model, inputs, "
            "loss) or (model, inputs, target, loss).",
            show_default=False,
        ),
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="Write every comparison as JSON to a file.")
    ] = None,
    op: Annotated[str | None, typer.Option(help="Only this op.")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Only this dtype: float64, float32, bfloat16 or float16.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Only this device: cpu or cuda.")] = None,
    all_capabilities: Annotated[
        bool, typer.Option("--all-capabilities", help="Once per CPU instruction set of this machine.")
    ] = False,
    samples: Annotated[
        int | None,
        typer.Option(help="Of your module: single entries per parameter to hold against finite differences."),
    ] = None,
) -> None:
    """Verify all gradients by finite differences and the float64 reference; exit status 1 on a failure.

    Without a factory: those of every op.
    """
    if json_path is not None and not json_path.absolute().parent.is_dir():
        usage_error(f"--json is {str(json_path)!r}, expected a file in an existing folder")
    if factory is not None:
        for option, value in (("--op", op), ("--dtype", dtype), ("--device", device)):
            if value is not None:
                usage_error(f"{option} is {value!r}, expected it without a factory: it is about the ops")
        if all_capabilities:
            usage_error("--all-capabilities is given, expected it without a factory: it is about the ops")
        check_module(factory, json_path, 2 if samples is None else samples)
        return
    if samples is not None:
        usage_error(f"--samples is {samples}, expected it with a factory: it is about a module")
    if all_capabilities:
        _check_each_capability(json_path, op, dtype, device)
        return

    import seo_kernels as sk
    from seo_kernels import _library
    from seo_kernels.diagnostics import gradient_check
    from seo_kernels.diagnostics.gradient_cases import ops

    known, dtypes, devices = ops(), list(gradient_check.DTYPES), gradient_check.present_devices()
    units = gradient_check.plan(
        list(known.values()) if op is None else [known[expect_one_of("--op", op, known)]],
        dtypes if dtype is None else [expect_one_of("--dtype", dtype, dtypes)],
        devices if device is None else [expect_one_of("--device", device, devices)],
    )
    results: list[CheckResult] = []
    with progress_bar() as progress:
        task = progress.add_task("gradients", total=len(units))
        for unit in units:
            name = f"{unit.op.name} {unit.dtype} {unit.device}: {unit.feature.name}"
            progress.update(task, description=name)
            results.extend(gradient_check.check(unit))
            progress.advance(task)
    passed = all(result.passed for result in results)
    if json_path is not None:
        report = {"info": sk.info(), "passed": passed, "results": [asdict(result) for result in results]}
        json_path.write_text(json.dumps(report, indent=1, default=str) + "\n")
    _print_report(results)
    for unserved in sorted({unit.device for unit in units if not _library.available(unit.device)}):
        report_console().print(f"{unserved} ran on the reference: {_library.reason(unserved)}", markup=False)
    if not passed:
        raise typer.Exit(1)


def _print_report(results: "Sequence[CheckResult]") -> None:
    console = report_console()
    failures = [result for result in results if not result.passed]
    console.print(_summary(results))
    if failures:
        console.print(_failures(failures))
    for result in failures:
        if result.detail:
            console.print(f"{result.feature}, {result.what}: {result.detail}", markup=False, highlight=False)
    verdict = f"{len(failures)} [bold red]failed[/]" if failures else "[green]all passed[/]"
    console.print(f"{len(results)} comparisons, {verdict}", highlight=False)


def _summary(results: "Sequence[CheckResult]") -> Table:
    """A row per op, feature and device; a column per dtype with the worst relative error."""
    table = Table(
        title="gradients: derivatives proved, worst error by dtype", box=SIMPLE, title_justify="left"
    )
    dtypes = list(dict.fromkeys(result.dtype for result in results))
    proved = any(result.error is None for result in results)
    for column in ("op", "feature", "device", *(["derivatives"] if proved else []), *dtypes, "verdict"):
        table.add_column(column, no_wrap=column != "feature")
    rows: dict[tuple[str, str, str], list[CheckResult]] = {}
    for result in results:
        rows.setdefault((result.op, result.feature, result.device), []).append(result)
    for row, members in rows.items():
        proofs = [result for result in members if result.error is None]
        cells = [f"{sum(result.passed for result in proofs)}/{len(proofs)}"] if proved else []
        for dtype in dtypes:
            errors = [r.error for r in members if r.dtype == dtype and r.error is not None]
            cells.append(f"{max(errors):.0e}" if errors else "-")
        table.add_row(*row, *cells, OK if all(result.passed for result in members) else FAILED)
    return table


def _failures(failures: "Sequence[CheckResult]") -> Table:
    """A row per failed comparison."""
    table = Table(title="failed", box=SIMPLE, title_justify="left")
    for column in ("op", "feature", "dtype", "device", "what", "error", "allowed", "cosine"):
        table.add_column(column)
    for result in failures:
        numbers = [
            "-" if number is None else f"{number:.3g}"
            for number in (result.error, result.allowed, result.cosine)
        ]
        table.add_row(result.op, result.feature, result.dtype, result.device, result.what, *numbers)
    return table


def _check_each_capability(
    json_path: Path | None, op: str | None, dtype: str | None, device: str | None
) -> None:
    """Once per instruction set, each in a process of its own: the library chooses once per process."""
    import seo_kernels as sk

    highest = str(sk.info().get("cpu_capability"))
    if highest not in CAPABILITIES:
        usage_error(f"--all-capabilities: the CPU library is not there ({highest}), expected a built library")
    filters = [
        word
        for option, value in (("--op", op), ("--dtype", dtype), ("--device", device))
        if value is not None
        for word in (option, value)
    ]
    reports, passed = {}, True
    with tempfile.TemporaryDirectory() as folder:
        for capability in CAPABILITIES[: CAPABILITIES.index(highest) + 1]:
            report_console().rule(capability)
            path = Path(folder) / "report.json"
            command = [sys.executable, "-m", "seo_kernels", "check", *filters, "--json", str(path)]
            status = subprocess.run(command, env={**os.environ, CAPABILITY_VARIABLE: capability}).returncode
            if status not in (0, 1):  # bad usage and crashes have said so themselves
                raise typer.Exit(status)
            passed = passed and status == 0
            reports[capability] = json.loads(path.read_text())
    if json_path is not None:
        json_path.write_text(json.dumps(reports, indent=1) + "\n")
    if not passed:
        raise typer.Exit(1)
