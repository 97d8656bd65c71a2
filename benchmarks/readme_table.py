"""Put the figures of benchmarks/results/cpu.json into the table of the README: run it as a script."""

import json
from pathlib import Path
from typing import Any

from seo_kernels.benchmark.cases import OURS, cases

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
        if case.share_floor is not None:
            share = contenders.get(OURS, {}).get("share_of_peak")
            cell = NOT_MEASURED if share is None else f"{100 * share:.0f} %"
            floor = f"at least {100 * case.share_floor:.0f} %"
            lines.append(f"| {case.title} | measured multiply-add peak | {floor} | {cell} |")
        if case.memory_floor is not None:
            memory = entry.get("memory_ratio")
            cell = NOT_MEASURED if memory is None else f"{memory:.2f} x"
            floor = f"at most {case.memory_floor:g} x"
            lines.append(f"| {case.title}, peak memory | the tensors themselves | {floor} | {cell} |")
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
