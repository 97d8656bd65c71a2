"""What the watchers found, as a file: text for people, JSON for programs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch.distributed as dist

from seo_kernels.diagnostics.findings import Finding
from seo_kernels.diagnostics.history import FindingLog, History
from seo_kernels.diagnostics.report_files import json_text, write_atomically

MOST_LINES = 50  # of one list in a text; JSON has all
REPEATED = ("findings", "current_issues")  # in other words under "issues"


def write_report(path: str | os.PathLike[str], title: str, summary: Mapping[str, Any]) -> Path | None:
    """Write a summary: as JSON where the path ends so, else as text; in the first process only.

    Returns:
        the path; None where another process writes.

    Raises:
        OSError: the path can't be written; the message names it.
    """
    if not reports_here():
        return None
    as_json = os.fspath(path).lower().endswith(".json")
    text = json_text(_plain(summary)) if as_json else report_text(title, _once(summary))
    return write_atomically(path, text + "\n")


def _once(summary: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in REPEATED}


def summary_of(history: History, log: FindingLog) -> dict[str, Any]:
    """What both watchers of a training say of it; empty before the first step.

    Returns:
        of the last step "step", "total_norm", "parameter_norms" and "module_norms" (of what each module
        itself owns), by name, and "current_issues"; of the steps that are kept "history" with "steps" and
        "total_norms", and "parameters", with "mean", "min", "max", "last" and "nonfinite" of each norm;
        "findings" and "issues", the same in words, by first appearance; of all steps "steps_seen",
        "largest_total_norm" and its "largest_step".
    """
    latest = history.latest
    if latest is None:
        return {}
    return {
        "step": latest.step,
        "total_norm": latest.total,
        "parameter_norms": dict(zip(latest.names, latest.norms, strict=True)),
        "module_norms": history.of_modules(),
        "current_issues": [str(finding) for finding in log.current],
        "issues": [str(finding) for finding in log.all],
        "findings": log.all,
        "parameters": {name: asdict(entry) for name, entry in history.by_parameter().items()},
        "history": {"steps": history.steps, "total_norms": history.totals},
        "steps_seen": history.seen,
        "largest_total_norm": history.largest_total,
        "largest_step": history.largest_step,
    }


def reports_here() -> bool:
    """Whether this process writes the reports: the only one, or the first of several."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0


def report_text(title: str, summary: Mapping[str, Any]) -> str:
    """A summary for people: a line for each entry, those of nested mappings indented.

    >>> print(report_text("Gradients", {"step": 3, "issues": [], "norms": {"weight": 0.5}}))
    Gradients
    =========
    step: 3
    issues: none
    norms:
      weight: 0.5
    """
    return "\n".join([title, "=" * len(title), *_lines(summary, "")])


def _lines(values: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for name, value in values.items():
        label = f"{indent}{name or '(model)'}:"
        if isinstance(value, Mapping) and indent and not any(isinstance(v, Mapping) for v in value.values()):
            lines.append(f"{label} " + ", ".join(f"{key} {_number(entry)}" for key, entry in value.items()))
        elif isinstance(value, Mapping):
            lines += [label, *_lines(value, indent + "  ")] if value else [f"{label} none"]
        elif isinstance(value, (list, tuple)) and value and isinstance(value[0], (str, Finding)):
            lines += [label, *(f"{indent}  {entry!s}" for entry in value[:MOST_LINES])]
            if len(value) > MOST_LINES:
                lines.append(f"{indent}  and {len(value) - MOST_LINES} more")
        elif isinstance(value, (list, tuple)):
            lines.append(f"{label} {' '.join(_number(entry) for entry in value) or 'none'}")
        else:
            lines.append(f"{label} {_number(value)}")
    return lines


def _number(value: object) -> str:
    """Findings by their sentence."""
    if isinstance(value, float):
        text = f"{value:.6g}"
        return {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}.get(text, text)
    return "none" if value is None else str(value)


def _plain(value: Any) -> Any:
    """Findings as mappings; everything else as it is."""
    if isinstance(value, Finding):
        return {**vars(value), "text": str(value)}
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(entry) for entry in value]
    return value
