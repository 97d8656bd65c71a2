"""A training step with the watchers, and without."""

from __future__ import annotations

from seo_kernels.benchmark.training_engines import language
from seo_kernels.benchmark.training_problem import Trainee
from seo_kernels.benchmark.watching_problem import WatchedTrainee, WatchingProblem


def watched(problem: WatchingProblem) -> Trainee:
    """``AutogradMonitor`` and ``GradientMonitor`` look on at every step."""
    return WatchedTrainee(language(problem))


def unwatched(problem: WatchingProblem) -> Trainee:
    """The same model alone."""
    return language(problem)
