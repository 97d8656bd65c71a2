"""Pictures of gradient analyses: norms, flow, correlation, angles and curvature, a panel each."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from seo_kernels._extras import require
from seo_kernels.diagnostics.html_page import short
from seo_kernels.diagnostics.report_files import write_atomically
from seo_kernels.ops.checks import kind

COLUMNS = 2
PANEL_WIDTH, PANEL_HEIGHT = 6.5, 4.2  # inches
MOST_NAMES = 24  # at an axis; of more layers every second, third, ... is named
LONGEST_NAME = 28

Results = Mapping[str, Any]
Panel = Callable[[Any, Sequence[Results]], None]


def draw_analysis(path: str | os.PathLike[str], history: Sequence[Results]) -> Path:
    """Draw the analyses as PNG: whole, or not at all.

    Panels are there where their data is: loss and total norm over the analyses, angles between successive
    gradients; of the last analysis norms and flow by layer, the correlation of layers, eigenvalues.

    Args:
        path: its folder has to be there.
        history: results of ``GradientAnalyzer.analyze_gradients``, the oldest first.

    Returns:
        the path.

    Raises:
        MissingExtraError: matplotlib is not installed.
        TypeError, ValueError: ``history`` is no sequence of results, or empty.
        OSError: the path can't be written.
    """
    return write_atomically(path, analysis_picture(history))


def analysis_picture(history: Sequence[Results]) -> bytes:
    """The PNG itself; arguments and errors as ``draw_analysis``."""
    if isinstance(history, (str, Mapping)) or not hasattr(history, "__iter__"):
        raise TypeError(f"history is {kind(history)}, expected a sequence of analyses")
    analyses = list(history)
    for results in analyses:
        if not isinstance(results, Mapping):
            raise TypeError(f"history holds {kind(results)}, expected results of analyze_gradients")
    panels = panels_of(analyses)
    if not panels:
        raise ValueError("history holds nothing to draw, expected at least one analysis")
    purpose = "draw gradient analyses"
    figures = require("matplotlib.figure", extra="diagnostics", purpose=purpose)
    agg = require("matplotlib.backends.backend_agg", extra="diagnostics", purpose=purpose)
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = figures.Figure(figsize=(PANEL_WIDTH * columns, PANEL_HEIGHT * rows), layout="constrained")
    agg.FigureCanvasAgg(figure)
    for place, draw in enumerate(panels.values(), 1):
        draw(figure.add_subplot(rows, columns, place), analyses)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return content.getvalue()


def panels_of(analyses: Sequence[Results]) -> dict[str, Panel]:
    """The panels whose data is there, by name."""
    if not analyses:
        return {}
    last = analyses[-1]
    there = {
        "course": (_draw_course, any("loss" in results for results in analyses)),
        "angles": (_draw_angles, any(value is not None for value in _angles(analyses))),
        "norms": (_draw_norms, bool(last.get("gradient_norms", {}).get("parameters"))),
        "flow": (_draw_flow, bool(last.get("gradient_flow", {}).get("layers"))),
        "correlation": (_draw_correlation, bool(last.get("gradient_correlation", {}).get("matrix"))),
        "eigenvalues": (_draw_eigenvalues, bool(last.get("hessian", {}).get("eigenvalues"))),
    }
    return {name: draw for name, (draw, present) in there.items() if present}


def _draw_course(axes: Any, analyses: Sequence[Results]) -> None:
    numbers, unit = _places(analyses)
    losses = [results.get("loss", math.nan) for results in analyses]
    axes.plot(numbers, losses, "o-", color="tab:blue", markersize=3, label="loss")
    axes.set(title="loss and total norm of the gradient", xlabel=unit)
    axes.set_ylabel("loss", color="tab:blue")
    axes.xaxis.get_major_locator().set_params(integer=True)
    totals = [results.get("gradient_norms", {}).get("total", math.nan) for results in analyses]
    if any(_drawable(total) for total in totals):
        beside = axes.twinx()
        beside.plot(numbers, _on_log(totals), "s--", color="tab:red", markersize=3, label="norm")
        beside.set_yscale("log")
        beside.set_ylabel("norm", color="tab:red")


def _draw_angles(axes: Any, analyses: Sequence[Results]) -> None:
    values = [math.nan if value is None else value for value in _angles(analyses)]
    numbers, unit = _places(analyses)
    axes.plot(numbers, values, "o-", color="tab:purple", markersize=3)
    axes.axhline(math.pi / 2, color="gray", linestyle=":")
    axes.set(title="angle to the gradient before", xlabel=unit, ylabel="radians", ylim=(0, math.pi))
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_norms(axes: Any, analyses: Sequence[Results]) -> None:
    norms = analyses[-1]["gradient_norms"]["parameters"]
    _draw_by_layer(axes, list(norms), {"norm": list(norms.values())}, "s")
    axes.set(title=f"norm by parameter, total {short(analyses[-1]['gradient_norms']['total'])}")


def _draw_flow(axes: Any, analyses: Sequence[Results]) -> None:
    flow = analyses[-1]["gradient_flow"]
    curves = {name: list(flow[name]) for name in ("mean", "max", "norm") if name in flow}
    _draw_by_layer(axes, list(flow["layers"]), curves, "o-")
    axes.set(title="flow: magnitudes and norm, in the order of the forward pass")
    axes.legend(fontsize=7)


def _draw_by_layer(axes: Any, layers: list[str], curves: Mapping[str, list[float]], style: str) -> None:
    """Curves on a logarithmic axis; a cross at its foot where one is 0, NaN or Inf."""
    known = [value for values in curves.values() for value in values if _drawable(value)] or [1.0]
    axes.set_yscale("log")
    for name, values in curves.items():
        axes.plot(range(len(values)), _on_log(values), style, markersize=3, linewidth=1, label=name)
    floor = min(known) / 2
    broken = [place for place in range(len(layers)) if not all(_drawable(v[place]) for v in curves.values())]
    if broken:
        axes.plot(broken, [floor] * len(broken), "x", color="black", label="0, NaN or Inf")
        axes.legend(fontsize=7)
    axes.set_ylim(floor / 1.5, max(known) * 2)
    axes.grid(axis="y", alpha=0.3)
    every = -(-len(layers) // MOST_NAMES)
    named = range(0, len(layers), every)
    axes.set_xticks(named, [_name(layers[place]) for place in named], rotation=90, fontsize=6)


def _draw_correlation(axes: Any, analyses: Sequence[Results]) -> None:
    found = analyses[-1]["gradient_correlation"]
    image = axes.imshow(found["matrix"], cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, shrink=0.8)
    layers = found["layers"]
    named = range(0, len(layers), -(-len(layers) // MOST_NAMES))
    names = [_name(layers[place]) for place in named]
    axes.set_xticks(named, names, rotation=90, fontsize=6)
    axes.set_yticks(named, names, fontsize=6)
    axes.set(title="correlation of gradients between layers")
    if found.get("note"):
        axes.set_xlabel(found["note"], fontsize=7, parse_math=False, wrap=True)


def _draw_eigenvalues(axes: Any, analyses: Sequence[Results]) -> None:
    hessian = analyses[-1]["hessian"]
    values = hessian["eigenvalues"]
    heights = [value if math.isfinite(value) else 0.0 for value in values]
    places = range(1, len(values) + 1)
    colours = ["tab:red" if value < 0 else "tab:blue" for value in values]
    axes.bar(places, heights, color=colours, width=0.6)
    for place, height, value in zip(places, heights, values, strict=True):
        axes.text(place, height, short(value), ha="center", va="bottom" if height >= 0 else "top")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.margins(y=0.12)
    axes.set_xticks(places)
    trace = f"{short(hessian['trace'])} ± {short(hessian['trace_error'])}"
    axes.set(title=f"Hessian: largest eigenvalues; trace {trace}", ylabel="curvature of the loss")


def _places(analyses: Sequence[Results]) -> tuple[list[int], str]:
    """Where analyses stand on an axis: at their "step", where they have one, else numbered."""
    steps = [results.get("step") for results in analyses]
    known = [step for step in steps if step is not None]
    return (known, "step") if len(known) == len(steps) else (list(range(1, len(steps) + 1)), "analysis")


def _angles(analyses: Sequence[Results]) -> list[float | None]:
    return [results.get("gradient_angles", {}).get("total") for results in analyses]


def _on_log(values: Sequence[float]) -> list[float]:
    return [value if _drawable(value) else math.nan for value in values]


def _drawable(value: float) -> bool:
    return math.isfinite(value) and value > 0.0


def _name(layer: str) -> str:
    """The end of a long name tells more than its start; "$" would begin a formula."""
    name = layer or "(model)"
    return (name if len(name) <= LONGEST_NAME else f"…{name[1 - LONGEST_NAME :]}").replace("$", r"\$")
