"""The flow of gradients through the layers, as an interactive page in one file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from seo_kernels._extras import require
from seo_kernels.diagnostics.history import History
from seo_kernels.diagnostics.html_page import html_page, paragraph, short
from seo_kernels.diagnostics.report_files import write_atomically
from seo_kernels.ops.checks import kind

MOST_FRAMES = 50  # of a slider; of longer histories evenly spaced ones
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
BROKEN = "zero, NaN or Inf"
CURVES = {"mean": "mean of |gradient|", "max": "largest |gradient|", "norm": "L2 norm"}
SUMMARY_CURVES = {
    "last": "norm, last step",
    "mean": "norm, mean over steps",
    "max": "norm, largest",
    "min": "norm, smallest",
}

WORDS = (
    "A line that falls towards the first layers is a gradient that vanishes on its way back, one that rises "
    "a gradient that explodes. Crosses at the lower edge are gradients that a logarithmic axis has no place "
    f"for: {BROKEN}. Point at a layer to see its numbers."
)

Source = Mapping[str, Any] | Sequence[Mapping[str, Any]] | History


@dataclass(frozen=True)
class FlowFrame:
    """The gradients at one time: numbers (one per layer) by the name of their curve."""

    label: str
    layers: tuple[str, ...]
    curves: Mapping[str, tuple[float, ...]]


def write_flow_page(
    path: str | os.PathLike[str], source: Source, *, title: str = "Gradient flow through the layers"
) -> Path:
    """Write a page with the gradient of every layer on a logarithmic axis, in the order of the forward pass.

    Layers that are pointed at show their names and numbers; where there are several analyses or steps, a
    slider moves through them. The file holds all that it needs, scripts included: some 5 MB.

    Args:
        path: of the HTML file; its folder has to be there.
        source: results of ``GradientAnalyzer.analyze_gradients``, or several of them (its ``history``); a
            ``GradientMonitor``'s ``history`` or what its ``get_gradient_summary()`` returns.
        title: of the page.

    Returns:
        the path.

    Raises:
        MissingExtraError: plotly is not installed.
        TypeError: ``source`` is something else.
        ValueError: there is no gradient in it.
        OSError: the path can't be written.
    """
    figure = flow_figure(source)
    return write_atomically(path, html_page(title, paragraph(WORDS), figure_html(figure)))


def flow_figure(source: Source) -> Any:
    """The figure of the page, a ``plotly.graph_objects.Figure``; see ``write_flow_page``."""
    graph = require("plotly.graph_objects", extra="diagnostics", purpose="draw the flow of gradients")
    frames = flow_frames(source)
    shown = evenly(frames, MOST_FRAMES)
    floor = _floor(shown)
    figure = graph.Figure(
        data=_traces(graph, shown[-1], floor),
        frames=[
            graph.Frame(name=str(number), data=_traces(graph, frame, floor))
            for number, frame in enumerate(shown if len(shown) > 1 else [])
        ],
    )
    title = escape(shown[-1].label) if len(shown) == 1 else f"{len(shown)} of {len(frames)}, evenly spaced"
    figure.update_layout(
        template="plotly_white",
        height=560,
        margin={"t": 60},
        title={"text": "" if 1 < len(shown) == len(frames) else title, "font": {"size": 14}},
        xaxis={"title": "layers, in the order of the forward pass", "automargin": True, "tickangle": 45},
        yaxis={"title": "gradient", "type": "log", "exponentformat": "power", "range": _range(shown, floor)},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        hovermode="x",
        sliders=[_slider(shown)] if len(shown) > 1 else [],
    )
    return figure


def figure_html(figure: Any) -> str:
    """A figure with the whole of plotly, for a page of one's own; nothing is loaded."""
    config = {"displaylogo": False, "responsive": True}
    html: str = figure.to_html(full_html=False, include_plotlyjs=True, include_mathjax=False, config=config)
    return html


def flow_frames(source: Source) -> list[FlowFrame]:
    """The times of which the source tells, the oldest first.

    Raises: as ``write_flow_page``.

    >>> flow = {"layers": ["a", "b"], "mean": [0.1, 0.2], "max": [1.0, 2.0], "norm": [3.0, 4.0]}
    >>> flow_frames([{"gradient_flow": flow}])[0].curves["L2 norm"]
    (3.0, 4.0)
    """
    if isinstance(source, History):
        frames = _of_history(source)
    elif isinstance(source, Mapping) and "parameters" in source and "gradient_flow" not in source:
        frames = [_of_summary(source)]
    elif isinstance(source, Mapping):
        frames = [_of_results(source, "analysis")] if "gradient_flow" in source else []
    elif not hasattr(source, "__iter__"):
        raise TypeError(f"source is {kind(source)}, expected results of an analysis, a summary or a history")
    else:
        results = list(source)
        for entry in results:
            if not isinstance(entry, Mapping):
                raise TypeError(f"source holds {kind(entry)}, expected results of analyses")
        frames = [
            _of_results(entry, f"analysis {number} of {len(results)}")
            for number, entry in enumerate(results, 1)
            if "gradient_flow" in entry
        ]
    frames = [frame for frame in frames if frame.layers]
    if not frames:
        raise ValueError("source tells of no gradient, expected at least one analysis with its gradient flow")
    return frames


def evenly(entries: list[Any], most: int) -> list[Any]:
    """At most so many of them, the first and the last among them.

    >>> evenly(list(range(10)), 4)
    [0, 3, 6, 9]
    """
    if len(entries) <= most:
        return entries
    return [entries[round(place * (len(entries) - 1) / (most - 1))] for place in range(most)]


def _of_results(results: Mapping[str, Any], label: str) -> FlowFrame:
    flow = results["gradient_flow"]
    label = f"before step {results['step']}" if "step" in results else label
    label = f"{label}, loss {short(results['loss'])}" if "loss" in results else label
    curves = {CURVES[name]: tuple(flow[name]) for name in CURVES if name in flow}
    return FlowFrame(label, tuple(flow["layers"]), curves)


def _of_summary(summary: Mapping[str, Any]) -> FlowFrame:
    parameters = summary["parameters"]
    curves = {
        title: tuple(float(norms[name]) for norms in parameters.values())
        for name, title in SUMMARY_CURVES.items()
    }
    steps = summary.get("history", {}).get("steps", [])
    return FlowFrame(f"steps {steps[0]} to {steps[-1]}" if steps else "last steps", tuple(parameters), curves)


def _of_history(history: History) -> list[FlowFrame]:
    """A frame each step; NaN where a parameter had no gradient in it."""
    names = tuple(history.by_parameter())
    by_step = zip(*(history.of_parameter(name) for name in names), strict=True)
    return [
        FlowFrame(f"step {step}, total norm {short(total)}", names, {CURVES["norm"]: norms})
        for step, total, norms in zip(history.steps, history.totals, by_step, strict=True)
    ]


def _traces(graph: Any, frame: FlowFrame, floor: float) -> list[Any]:
    """A curve each, and the layers that have no place on a logarithmic axis."""
    layers = [escape(layer) or "(model)" for layer in frame.layers]
    traces = [
        graph.Scatter(
            x=layers,
            y=[value if _drawable(value) else None for value in values],
            name=name,
            mode="lines+markers",
            line={"color": COLOURS[place % len(COLOURS)]},
            customdata=[short(value) for value in values],
            hovertemplate="%{customdata}",
        )
        for place, (name, values) in enumerate(frame.curves.items())
    ]
    broken = {
        layer: ", ".join(
            f"{name}: {short(values[place])}"
            for name, values in frame.curves.items()
            if not _drawable(values[place])
        )
        for place, layer in enumerate(layers)
    }
    broken = {layer: words for layer, words in broken.items() if words}
    nowhere: list[Any] = [None]  # a trace without a point would be left out of a frame
    marks = graph.Scatter(
        x=list(broken) or nowhere,
        y=[floor] * len(broken) or nowhere,
        name=BROKEN,
        mode="markers",
        marker={"symbol": "x", "color": "black", "size": 9},
        customdata=list(broken.values()) or [""],
        hovertemplate="%{customdata}<extra></extra>",
        showlegend=bool(broken),
    )
    return [*traces, marks]


def _slider(frames: list[FlowFrame]) -> dict[str, Any]:
    now = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    steps = [
        {
            "method": "animate",
            "label": escape(frame.label),
            "args": [[str(number)], now],
        }
        for number, frame in enumerate(frames)
    ]
    return {
        "active": len(frames) - 1,
        "steps": steps,
        "pad": {"t": 90},
        "ticklen": 0,
        "font": {"color": "rgba(0,0,0,0)"},
        "currentvalue": {"font": {"color": "black"}},
    }


def _drawable(value: float) -> bool:
    return math.isfinite(value) and value > 0.0


def _values(frames: list[FlowFrame]) -> list[float]:
    return [
        value for frame in frames for values in frame.curves.values() for value in values if _drawable(value)
    ] or [1.0]


def _floor(frames: list[FlowFrame]) -> float:
    return min(_values(frames)) / 2


def _range(frames: list[FlowFrame], floor: float) -> list[float]:
    """Of the axis in powers of ten: the same for all frames, so that they compare."""
    return [math.log10(floor / 1.5), math.log10(max(_values(frames)) * 2)]
