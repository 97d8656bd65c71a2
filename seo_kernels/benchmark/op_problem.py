"""Problems that are small enough to be verified whole: every entry of every result against float64."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from seo_kernels.benchmark.problem import Forward, Inputs, Problem, Results
from seo_kernels.benchmark.verification import Expected, check_results, expectation

SEED = 0  # of torch's default generator before each step that is verified


class OpProblem(Problem):
    """One op on some leaves, verified on the very step that is timed.

    What is random in an op draws from torch's default generator, which starts alike for the contender and
    for ``reference``.
    """

    @abstractmethod
    def reference(self, leaves: Mapping[str, Tensor]) -> Tensor:
        """The output in plain torch, in the dtype of the leaves."""

    def expect(self, inputs: Inputs) -> Expected:
        """Evaluate ``reference`` in float64, and once more at the problem's own dtype."""
        exact = self._seeded_step(self.reference, _converted(inputs, torch.float64))
        plain = self._seeded_step(self.reference, _converted(inputs, self.dtype))
        return expectation(exact, plain, self.dtype)

    def verify(self, inputs: Inputs, forward: Forward, expected: Expected) -> float:
        return check_results(self._seeded_step(forward, inputs), expected)

    def _seeded_step(self, forward: Forward, inputs: Inputs) -> Results:
        gpus = [torch.cuda.current_device()] if torch.get_default_device().type == "cuda" else []
        with torch.random.fork_rng(devices=gpus):
            torch.manual_seed(SEED)
            results = self.step(forward, inputs)
        return {name: result.detach() for name, result in results.items()}


def _converted(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The same values in another floating-point dtype; indices stay."""
    leaves = {
        name: leaf.detach().to(dtype).requires_grad_(leaf.requires_grad) if leaf.is_floating_point() else leaf
        for name, leaf in inputs.leaves.items()
    }
    return Inputs(leaves, None if inputs.grad_out is None else inputs.grad_out.to(dtype))
