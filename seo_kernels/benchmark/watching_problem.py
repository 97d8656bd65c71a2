"""Training steps that are watched, beside the same ones that are not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seo_kernels.benchmark.problem import Inputs, Results
from seo_kernels.benchmark.training_problem import (
    LanguageProblem,
    Trainee,
    check_gradients,
    trainee,
)
from seo_kernels.benchmark.verification import WrongResultError
from seo_kernels.diagnostics.autograd_monitor import AutogradMonitor
from seo_kernels.diagnostics.gradient_monitor import GradientMonitor

NORM_ALLOWED = 1e-3  # of a total norm, relative


class WatchedTrainee(Trainee):
    """A model whose gradients both watchers look at in every step: the one with hooks, and the one asked."""

    def __init__(self, plain: Trainee) -> None:
        super().__init__(plain.model, plain.loss, plain.dtype)
        self.asked = AutogradMonitor()
        self.hooked = GradientMonitor(self.model)
        self.hooked.register_hooks()

    def results(self, leaves: Mapping[str, Tensor]) -> Results:
        """The same, and what the watchers say of the total norm."""
        results = super().results(leaves)
        self.asked.monitor_gradients(self.model)
        return results


@dataclass(frozen=True)
class WatchingProblem(LanguageProblem):
    """A language model that is trained; the watchers have to know the norm, and to change nothing."""

    def verify(self, inputs: Inputs, forward: object, expected: None) -> float:
        own = trainee(forward)  # type: ignore[arg-type]
        exact = own.exact().without_dropout(inputs.leaves)
        results = own.without_dropout(inputs.leaves)
        error = check_gradients(results, exact, self.dtype)
        if isinstance(own, WatchedTrainee):
            _check_norms(own, exact)
        return error


def _check_norms(watched: WatchedTrainee, exact: Results) -> None:
    """Both totals beside that of the exact gradients.

    Raises:
        WrongResultError: a watcher saw nothing, or another norm.
    """
    squares = [grad.double().square().sum() for name, grad in exact.items() if name != "loss"]
    right = float(torch.stack(squares).sum().sqrt())
    for name, history in (("the monitor", watched.asked.history), ("the hooks", watched.hooked.history)):
        found = history.totals[-1] if len(history) else 0.0
        if not abs(found - right) <= NORM_ALLOWED * right:
            raise WrongResultError(f"{name} saw a norm of {found:.6g}, expected {right:.6g}")
