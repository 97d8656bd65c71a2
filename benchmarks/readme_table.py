"""Put the figures of benchmarks/results/cpu.json into the table of the README: run it as a script."""

import json
from pathlib import Path
from typing import Any

from seo_kernels.benchmark.case import OURS
from seo_kernels.benchmark.cases import cases

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "cpu.json"
BEGIN, END = "<!-- figures -->\n", "<!-- /figures -->\n"
NOT_MEASURED = "-"


def load_results() -> dict[str, Any] | None:
    """What ``make bench`` wrote; None where it has not run."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else None


def render(results: dict[str, Any] | None) -> str:
    """The table, a row per floor; with "-" for what is not in ``results``."""
    measured = {} if results is None else {entry["case"]: entry for entry in results["cases"]}
    lines = ["| case | beside | floor | measured |", "| --- | --- | --- | --- |"]
    for case in cases():
        entry = measured.get(case.name, {"contenders": []})
        contenders = {contender["contender"]: contender for contender in entry["contenders"]}
        for peer in case.peers:
            ratio = contenders.get(peer.name, {}).get("measured") or NOT_MEASURED
            lines.append(f"| {case.title} | {peer.name} | {peer.floor.text} | {ratio} |")
        shares = (
            ("measured multiply-add peak", case.share_floor, "share_of_peak"),
            ("measured copy bandwidth", case.copy_floor, "share_of_copy"),
        )
        for beside, least, column in shares:
            if least is not None:
                share = contenders.get(OURS, {}).get(column)
                cell = NOT_MEASURED if share is None else f"{100 * share:.0f} %"
                lines.append(f"| {case.title} | {beside} | at least {100 * least:.0f} % | {cell} |")
        if case.memory_floor is not None:
            memory, floor = entry.get("memory_ratio"), case.memory_floor
            cell = NOT_MEASURED if memory is None else f"{memory:.2f} x"
            lines.append(f"| {case.title}, {floor.subject} | {floor.beside} | {floor.text} | {cell} |")
    if results is not None:
        machine = results["environment"]
        lines += [
            "",
            f"{machine['cpu_model']} ({machine['cpu_capability']}), {machine['threads']} threads, "
            f"torch {machine['torch']}, {machine['date']}.",
        ]
    return "\n".join(lines) + "\n"


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
