"""The picture of the ratios: how many times faster than each peer, beside the floors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seo_kernels._extras import require
from seo_kernels.benchmark.comparison import Comparison

OURS_COLOUR, FLOOR_COLOUR = "tab:blue", "tab:red"


def require_matplotlib() -> Any:
    """pyplot, drawing to files only.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    purpose = "draw the picture of the ratios"
    require("matplotlib", extra="plots", purpose=purpose).use("Agg")
    return require("matplotlib.pyplot", extra="plots", purpose=purpose)


def draw_ratios(path: Path, comparisons: Sequence[Comparison]) -> None:
    """A bar per case and peer, logarithmic: the peer's median time over ours; a line at the floor."""
    bars = [
        (f"{comparison.case.title}\nbeside {figures.contender.name}", figures.speedup, floor.speedup)
        for comparison in comparisons
        for figures in comparison.figures
        if (floor := figures.contender.floor) is not None and figures.speedup is not None
    ]
    plt = require_matplotlib()
    figure, axes = plt.subplots(figsize=(9, 1.2 + 0.48 * len(bars)), layout="constrained")
    for place, (_, speedup, least) in enumerate(bars):
        axes.barh(place, speedup - 1, left=1, color=OURS_COLOUR, height=0.6)
        axes.text(max(speedup, 1), place, f" {speedup:.3g}", va="center", fontsize=8)
        axes.vlines(least, place - 0.4, place + 0.4, color=FLOOR_COLOUR, linewidth=2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_yticks(range(len(bars)), [label for label, *_ in bars], fontsize=7)
    axes.set_ylim(max(len(bars), 1) - 0.5, -0.5)
    axes.set_xlabel("times as fast as the peer (red: the floor)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
