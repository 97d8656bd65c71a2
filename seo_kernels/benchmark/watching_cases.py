"""What it costs to watch the gradients of a training."""

from __future__ import annotations

from dataclasses import dataclass

from seo_kernels.benchmark.case import Case, Peer, within
from seo_kernels.benchmark.watching_engines import unwatched, watched
from seo_kernels.benchmark.watching_problem import WatchingProblem


@dataclass(frozen=True)
class WatchingSizes:
    layers: int = 6
    dim: int = 512
    heads: int = 8
    vocabulary: int = 8192
    length: int = 128
    batch: int = 4


def watching_cases(sizes: WatchingSizes) -> list[Case]:
    """Both watchers at every step beside the same step without."""
    problem = WatchingProblem(
        sizes.layers, sizes.dim, sizes.heads, sizes.length, sizes.batch, sizes.vocabulary
    )
    return [
        Case(
            "monitoring-fp32-step",
            f"training step with both monitors, {problem.sizes}, fp32",
            problem,
            watched,
            (Peer("the same step without", unwatched, within(1.03)),),
        )
    ]
