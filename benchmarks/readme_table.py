"""Put the figures of benchmarks/results/ into the table of the README: run it as a script."""

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from seo_kernels.benchmark.case import OURS, Case
from seo_kernels.benchmark.cases import cases

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->\n"
NOT_MEASURED = "-"

Results = dict[str, Any]  # of one machine
Entry = dict[str, Any]  # of one case


def load_results() -> list[Results]:
    """What ``make bench`` wrote, a machine each."""
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]


def render(results: list[Results]) -> str:
    """The table, a row per floor and a column per machine; with "-" for what a machine did not measure."""
    machines = [machine["environment"] for machine in results]
    heads = ["case", "beside", "floor", *(_short_name(machine) for machine in machines)]
    lines = [_row(heads), _row(["---"] * len(heads))]
    for case in cases():
        for title, beside, floor, reached in _floors(case):
            lines.append(_row([title, beside, floor, *(reached(_entry(one, case.name)) for one in results)]))
    lines.append("")
    lines += [
        f"{_short_name(machine)}: {machine['cpu_model']} ({machine['cpu_capability']}), {machine['threads']} "
        f"threads, torch {machine['torch']}, seo_kernels {machine['seo_kernels']}, {machine['date']}.  "
        for machine in machines
    ]
    return "\n".join(lines).rstrip() + "\n"


def _floors(case: Case) -> Iterator[tuple[str, str, str, Callable[[Entry], str]]]:
    """Title, beside what, the floor, and what a case's entry in the results says of it."""
    for peer in case.peers:
        yield case.title, peer.name, peer.floor.text, partial(_measured, peer=peer.name)
    shares = (
        ("measured multiply-add peak", case.share_floor, "share_of_peak"),
        ("measured copy bandwidth", case.copy_floor, "share_of_copy"),
    )
    for beside, least, column in shares:
        if least is not None:
            yield case.title, beside, f"at least {100 * least:.0f} %", partial(_share, column=column)
    if case.memory_floor is not None:
        floor = case.memory_floor
        yield f"{case.title}, {floor.subject}", floor.beside, floor.text, _memory


def _entry(results: Results, case: str) -> Entry:
    return next((entry for entry in results["cases"] if entry["case"] == case), {"contenders": []})


def _contender(entry: Entry, name: str) -> dict[str, Any]:
    return next((one for one in entry["contenders"] if one["contender"] == name), {})


def _measured(entry: Entry, peer: str) -> str:
    return _contender(entry, peer).get("measured") or NOT_MEASURED


def _share(entry: Entry, column: str) -> str:
    share = _contender(entry, OURS).get(column)
    return NOT_MEASURED if share is None else f"{100 * share:.0f} %"


def _memory(entry: Entry) -> str:
    ratio = entry.get("memory_ratio")
    return NOT_MEASURED if ratio is None else f"{ratio:.2f} x"


def _short_name(machine: dict[str, Any]) -> str:
    """The maker's name."""
    return re.sub(r"\W.*", "", machine["cpu_model"])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def section(text: str) -> str:
    """What stands between the markers."""
    return text.partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    text = README.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{README} has no lines {BEGIN.strip()} and {END.strip()}")
    README.write_text(before + begin + render(load_results()) + end + after)


if __name__ == "__main__":
    main()
