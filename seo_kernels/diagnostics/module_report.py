"""What was found out about a user's module as a report: one HTML file, and JSON beside it."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seo_kernels.diagnostics.analysis_pictures import analysis_picture
from seo_kernels.diagnostics.flow_page import WORDS, evenly, figure_html, flow_figure
from seo_kernels.diagnostics.html_page import (
    bullets,
    html_page,
    paragraph,
    picture,
    section,
    short,
    table,
)
from seo_kernels.diagnostics.module_check import PRESENCE, ModuleCheck
from seo_kernels.diagnostics.module_diagnosis import ModuleDiagnosis, numbers_of
from seo_kernels.diagnostics.report_files import json_text, write_atomically

HTML_NAME, JSON_NAME = "report.html", "report.json"
MOST_STEPS = 200  # in the table of losses; of longer trainings evenly spaced ones
MOST_PAIRS = 5
MOST_CHECKS = 1000


def write_module_report(folder: str | os.PathLike[str], diagnosis: ModuleDiagnosis) -> Path:
    """Write ``report.html``, which is all in one file and loads nothing, and ``report.json``.

    Args:
        folder: made where it is not there.
        diagnosis: from ``diagnose_module``.

    Returns:
        the path of the page.

    Raises:
        MissingExtraError: matplotlib or plotly is not installed.
        OSError: the folder can't be made or written.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    page = module_page(diagnosis)
    write_atomically(target / JSON_NAME, json_text(numbers_of(diagnosis)) + "\n")
    return write_atomically(target / HTML_NAME, page)


def module_page(diagnosis: ModuleDiagnosis) -> str:
    """The HTML of the report."""
    return html_page(
        f"Gradients of {diagnosis.name}",
        _overview(diagnosis),
        section("Findings", *_findings(diagnosis)),
        section("Verification", *_verification(diagnosis.checks)),
        section("Training", *_training(diagnosis)),
        section("Analyses", *_analyses(diagnosis)),
        section("Flow through the layers", *_flow(diagnosis)),
        section("Correlation between layers", *_correlation(diagnosis)),
        section("Curvature", *_curvature(diagnosis)),
        section("Norms by parameter", _norms(diagnosis)),
    )


def summary_lines(diagnosis: ModuleDiagnosis) -> dict[str, str]:
    """The essence, a line each by its name.

    >>> diagnosis = ModuleDiagnosis("mine:made", "Linear", {"weight": (2, 3)}, 3, 0.1, losses=[2.0, 1.0, 0.5])
    >>> summary_lines(diagnosis)["loss"]
    '2 before the first step, 0.5 before the last of 3'
    """
    entries = sum(math.prod(shape) for shape in diagnosis.shapes.values())
    lines = {
        "model": f"{diagnosis.model}, {len(diagnosis.shapes)} trainable parameters with {entries:,} entries",
        "training": f"{len(diagnosis.losses)} of {diagnosis.steps} steps of AdamW, "
        f"learning rate {diagnosis.learning_rate:g}",
    }
    if diagnosis.losses:
        first, last = short(diagnosis.losses[0]), short(diagnosis.losses[-1])
        lines["loss"] = f"{first} before the first step, {last} before the last of {len(diagnosis.losses)}"
    if diagnosis.stopped:
        lines["stopped"] = diagnosis.stopped
    totals = diagnosis.history.total()
    if totals.steps:
        lines["total norm"] = f"{short(totals.min)} to {short(totals.max)}, mean {short(totals.mean)}"
    lines["findings"] = f"{len(diagnosis.findings)}, {len(diagnosis.broken)} of them NaN or Inf"
    told = [check for check in diagnosis.checks if check.passed is not None]
    lines["verification"] = f"{len(told)} comparisons, {len(diagnosis.failed_checks)} failed"
    hessian = diagnosis.analyses[-1].get("hessian") if diagnosis.analyses else None
    if hessian:
        lines["curvature"] = _hessian_words(hessian)
    return lines


def _overview(diagnosis: ModuleDiagnosis) -> str:
    verdict = (
        paragraph("All gradients were finite, and no comparison failed.", "good")
        if diagnosis.passed
        else paragraph("Something is wrong with these gradients: see below.", "bad")
    )
    return verdict + table(["", ""], summary_lines(diagnosis).items())


def _findings(diagnosis: ModuleDiagnosis) -> list[str]:
    if not diagnosis.findings and not diagnosis.stopped:
        return [paragraph("Nothing was found in any step of training.", "good")]
    stopped = paragraph(f"Training was stopped: {diagnosis.stopped}", "bad") if diagnosis.stopped else ""
    return [stopped, bullets(str(finding) for finding in diagnosis.findings)]


def _verification(checks: Sequence[ModuleCheck]) -> list[str]:
    """Failures first; of gradients that are there and finite only how many."""
    order = {False: 0, None: 1, True: 2}
    present = [check for check in checks if check.what == PRESENCE and check.passed]
    others = [check for check in checks if check.what != PRESENCE or not check.passed]
    shown = sorted(others, key=lambda check: order[check.passed])[:MOST_CHECKS]
    rows = [
        (
            check.what,
            check.about or "all",
            "" if check.error is None else check.error,
            "" if check.allowed is None else check.allowed,
            check.passed,
            check.detail,
        )
        for check in shown
    ]
    words = (
        f"{len(present)} gradients of the untrained module are there and finite. They are held beside "
        "central differences of its loss, those of a float64 copy and those of a second pass; "
        "second derivatives beside differences of the gradient. Errors are relative."
    )
    more = len(others) - len(shown)
    return [
        paragraph(words),
        table(["what", "parameter", "error", "allowed", "verdict", "detail"], rows),
        paragraph(f"And {more} more, which are in {JSON_NAME}.") if more else "",
    ]


def _training(diagnosis: ModuleDiagnosis) -> list[str]:
    totals = dict(zip(diagnosis.history.steps, diagnosis.history.totals, strict=True))
    rows = [(step, loss, totals.get(step, "")) for step, loss in enumerate(diagnosis.losses)]
    shown = evenly(rows, MOST_STEPS)
    note = f"{len(shown)} of {len(rows)} steps; all are in {JSON_NAME}." if len(shown) < len(rows) else ""
    return [paragraph(note) if note else "", table(["step", "loss", "total norm"], shown)]


def _analyses(diagnosis: ModuleDiagnosis) -> list[str]:
    if not diagnosis.analyses:
        return [bullets(diagnosis.missing_analyses)]
    steps = ", ".join(str(results["step"]) for results in diagnosis.analyses)
    words = f"The gradient before step {steps}; panels without a course show the last one."
    return [
        paragraph(words),
        bullets(diagnosis.missing_analyses),
        picture(analysis_picture(diagnosis.analyses), "norms, angles, flow, correlation and curvature"),
    ]


def _flow(diagnosis: ModuleDiagnosis) -> list[str]:
    analyses = [results for results in diagnosis.analyses if results.get("gradient_flow", {}).get("layers")]
    if not analyses:
        return []
    flow = analyses[-1]["gradient_flow"]
    rows = zip(flow["layers"], flow["mean"], flow["max"], flow["norm"], strict=True)
    columns = ["layer", "mean of |gradient|", "largest |gradient|", "norm"]
    named = [(layer or "(model)", *values) for layer, *values in rows]
    return [paragraph(WORDS), figure_html(flow_figure(analyses)), table(columns, named)]


def _correlation(diagnosis: ModuleDiagnosis) -> list[str]:
    found = diagnosis.analyses[-1].get("gradient_correlation") if diagnosis.analyses else None
    if not found:
        return []
    if found["matrix"] is None:
        return [paragraph(f"It can't be told: {found['note']}.", "unknown")]
    pairs = strongest_pairs(found["layers"], found["matrix"])
    words = f"Whether the same rows have large gradients in both layers, {found['note']}; the strongest:"
    return [paragraph(words), table(["layer", "layer", "correlation"], pairs)]


def _curvature(diagnosis: ModuleDiagnosis) -> list[str]:
    hessian = diagnosis.analyses[-1].get("hessian") if diagnosis.analyses else None
    if not hessian:
        return []
    largest = max(hessian["eigenvalues"], default=math.nan)
    advice = ""
    if largest > 0.0:
        advice = (
            f"Plain gradient descent is stable here up to a learning rate of about {short(2 / largest)}: "
            "2 over the largest eigenvalue. Adaptive optimizers such as Adam have a scale of their own."
        )
    eigenvalues = enumerate(hessian["eigenvalues"], 1)
    return [
        paragraph(f"The Hessian of the loss at the last analysis: {_hessian_words(hessian)}."),
        table(["", "eigenvalue"], eigenvalues),
        paragraph(advice) if advice else "",
    ]


def _norms(diagnosis: ModuleDiagnosis) -> str:
    norms = diagnosis.history.by_parameter()
    columns = ["parameter", "shape", "mean", "smallest", "largest", "last", "not finite"]
    rows: list[tuple[Any, ...]] = []
    for name, shape in diagnosis.shapes.items():
        size = " x ".join(map(str, shape)) or "scalar"
        found = norms.get(name)
        if found is None:
            rows.append((name, size, "no gradient", "", "", "", ""))
        else:
            rows.append((name, size, found.mean, found.min, found.max, found.last, found.nonfinite))
    return table(columns, rows)


def strongest_pairs(
    layers: Sequence[str], matrix: Sequence[Sequence[float]], most: int = MOST_PAIRS
) -> list[tuple[str, str, float]]:
    """Two different layers and their correlation, the largest in magnitude first.

    >>> strongest_pairs(["a", "b", "c"], [[1, 0.1, -0.9], [0.1, 1, 0.3], [-0.9, 0.3, 1]], 2)
    [('a', 'c', -0.9), ('b', 'c', 0.3)]
    """
    pairs = [
        (layers[one], layers[other], matrix[one][other])
        for one in range(len(layers))
        for other in range(one + 1, len(layers))
        if math.isfinite(matrix[one][other])
    ]
    return sorted(pairs, key=lambda pair: -abs(pair[2]))[:most]


def _hessian_words(hessian: dict[str, Any]) -> str:
    eigenvalues = ", ".join(short(value) for value in hessian["eigenvalues"])
    trace = f"trace {short(hessian['trace'])} ± {short(hessian['trace_error'])}"
    return f"{trace}, largest eigenvalues {eigenvalues}"
