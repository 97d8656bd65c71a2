"""``bench``: every case beside its peers, as a table, and as CSV, JSON and a picture."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from seo_kernels.cli.console import progress_bar, report_console
from seo_kernels.cli.errors import expect_one_of, usage_error

if TYPE_CHECKING:
    from seo_kernels.benchmark.case import Case
    from seo_kernels.benchmark.comparison import Comparison, Figures

PICTURE_SUFFIXES = (".png", ".svg", ".pdf")


def bench(
    names: Annotated[
        list[str] | None,
        typer.Option("--case", metavar="NAME", help="Only this case; may hold * and ?, may be repeated."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run: cpu or cuda; each has its own cases.")] = "cpu",
    list_cases: Annotated[bool, typer.Option("--list", help="List the cases and leave.")] = False,
    csv_path: Annotated[
        Path | None, typer.Option("--csv", metavar="PATH", help="Write a line per case and contender.")
    ] = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="Write all figures as JSON.")
    ] = None,
    picture_path: Annotated[
        Path | None, typer.Option("--picture", metavar="PATH", help="Draw the ratios: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Time the kernels beside PyTorch's own, in turn; exit status 1 if a result is wrong.

    Some minutes; other work on the machine distorts the figures.
    """
    paths = {"--csv": csv_path, "--json": json_path, "--picture": picture_path}
    for option, path in paths.items():
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            usage_error(f"{option} is {str(path)!r}, expected a file in an existing folder")
    if picture_path is not None and picture_path.suffix not in PICTURE_SUFFIXES:
        usage_error(f"--picture is {str(picture_path)!r}, expected one of {', '.join(PICTURE_SUFFIXES)}")

    from seo_kernels import _library
    from seo_kernels._extras import MissingExtraError
    from seo_kernels.benchmark import cases, gpu_cases, pictures, report
    from seo_kernels.diagnostics.gradient_check import present_devices

    expect_one_of("--device", device, ("cpu", "cuda"))
    chosen = _choose(cases.cases() if device == "cpu" else gpu_cases.gpu_cases(), names)
    console = report_console()
    if list_cases:
        console.print(_listing(chosen))
        return
    expect_one_of("--device", device, present_devices())
    if not _library.available(device):
        usage_error(f"bench times compiled kernels, expected a built library: {_library.reason(device)}")
    if picture_path is not None:
        try:
            pictures.require_matplotlib()
        except MissingExtraError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(1) from None

    comparisons = _measure(chosen)
    if csv_path is not None:
        report.write_csv(csv_path, comparisons, device)
    if json_path is not None:
        report.write_json(json_path, comparisons, device)
    if picture_path is not None:
        pictures.draw_ratios(picture_path, comparisons)
    _print_report(console, comparisons, device)
    if any(entry.refused for entry in comparisons):
        raise typer.Exit(1)


def _choose(known: "Sequence[Case]", names: list[str] | None) -> "list[Case]":
    for name in names or []:
        if not any(fnmatchcase(case.name, name) for case in known):
            usage_error(f"--case is {name!r}, expected one of {', '.join(case.name for case in known)}")
    return [case for case in known if not names or any(fnmatchcase(case.name, name) for name in names)]


def _measure(chosen: "Sequence[Case]") -> "list[Comparison]":
    from seo_kernels.benchmark.comparison import compare

    comparisons = []
    with progress_bar() as progress:
        task = progress.add_task("benchmarks", total=len(chosen))
        for case in chosen:

            def say(text: str, name: str = case.name) -> None:
                progress.update(task, description=f"{name}: {text}")

            comparisons.append(compare(case, say=say))
            progress.advance(task)
    return comparisons


def _listing(chosen: "Sequence[Case]") -> Table:
    table = Table(title="cases", box=SIMPLE, title_justify="left")
    for column in ("name", "what", "beside", "floor"):
        table.add_column(column, no_wrap=column == "name")
    for case in chosen:
        peers = "\n".join(peer.name for peer in case.peers)
        floors = "\n".join(peer.floor.text for peer in case.peers)
        table.add_row(case.name, case.title, peers, floors)
    return table


def _print_report(console: Console, comparisons: "Sequence[Comparison]", device: str) -> None:
    from seo_kernels.benchmark.report import environment

    facts = environment(device)
    title = "medians, in turn; share of the multiply-add peak or the copy bandwidth; relative error"
    table = Table(title=title, box=SIMPLE, title_justify="left", pad_edge=False)
    for column in ("case", "ours ms", "peer", "its ms", "ratio", "floor", "share", "error"):
        table.add_column(column, no_wrap=True)
    for comparison in comparisons:
        _add_rows(table, comparison)
    console.print(table)
    for comparison in comparisons:
        if comparison.refused:
            console.print(
                f"{comparison.case.name}: refused, the result is wrong: {comparison.refused}", markup=False
            )
        if comparison.skipped:
            console.print(f"{comparison.case.name}: skipped: {comparison.skipped}", markup=False)
        for figures in comparison.figures:
            if figures.contender.missing:
                name = f"{comparison.case.name}, {figures.contender.name}"
                console.print(f"{name} does not run here: {figures.contender.missing}", markup=False)
    machine = f"{facts['cpu_model']}, {facts['cpu_capability']}, {facts['threads']} threads"
    if device == "cuda":
        machine = f"{facts['gpu']}, kernels for {facts['cuda_archs']}, {machine}"
    console.print(f"{machine}, torch {facts['torch']}", highlight=False)


def _add_rows(table: Table, comparison: "Comparison") -> None:
    case, memory = comparison.case, comparison.memory
    if comparison.refused:
        table.add_row(case.name, "[bold red]refused[/]")
        return
    if comparison.skipped:
        table.add_row(case.name, "skipped")
        return
    ours, *peers = comparison.figures
    leading = [case.name, _milliseconds(ours)]
    trailing = [_share(ours), f"{ours.contender.error:.0e}"]
    for peer in peers:
        floor = peer.contender.floor
        assert floor is not None
        ratio = "-"
        if peer.speedup is not None:
            ratio = _judged(floor.describe(peer.speedup), peer.speedup >= floor.speedup)
        table.add_row(*leading, peer.contender.name, _milliseconds(peer), ratio, floor.text, *trailing)
        leading, trailing = ["", ""], ["", ""]
    shares = (
        ("multiply-add peak", case.share_floor, ours.share_of_peak),
        ("copy bandwidth", case.copy_floor, ours.share_of_copy),
    )
    for what, least, share in shares:
        if least is not None:
            text = "-" if share is None else _judged(_percent(share), share >= least)
            table.add_row("", "", what, "", text, f"at least {_percent(least)}")
    if case.memory_floor is not None:
        ratio = "-"
        if memory is not None:
            ratio = _judged(f"{memory.ratio:.3g} x", memory.ratio <= case.memory_floor.amount)
        what = "tensors' memory" if case.memory_floor.peer is None else "extra memory"
        table.add_row("", "", what, "", ratio, case.memory_floor.text)


def _judged(text: str, reached: bool) -> str:
    return f"[green]{text}[/]" if reached else f"[bold red]{text}[/]"


def _milliseconds(figures: "Figures") -> str:
    return "-" if figures.timing is None else f"{figures.timing.median_ms:.3g}"


def _share(figures: "Figures") -> str:
    if figures.share_of_copy is not None:
        return f"{_percent(figures.share_of_copy)} copy"
    return "-" if figures.share_of_peak is None else f"{_percent(figures.share_of_peak)} peak"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
