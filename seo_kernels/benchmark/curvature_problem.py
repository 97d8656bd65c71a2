"""Products with the Hessian of a language model's loss, and its gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seo_kernels.benchmark.problem import Forward, Inputs, Results, seeded_generator
from seo_kernels.benchmark.training_problem import LanguageProblem, Trainee, check_gradients, trainee
from seo_kernels.diagnostics.curvature import hessian_vector_product


class GradientTaker(Trainee):
    """The loss and all gradients, with which nothing is done."""

    def results(self, leaves: Mapping[str, Tensor]) -> Results:
        named = dict(self.model.named_parameters())
        loss = self(leaves)
        gradients = torch.autograd.grad(loss, list(named.values()))
        return {"loss": loss.detach(), **_by_name("d", named, gradients)}

    def step(self, leaves: Mapping[str, Tensor]) -> Results:
        return self.results(leaves)

    def truth(self, leaves: Mapping[str, Tensor]) -> Results:
        """The same in float64."""
        exact = self.exact()
        return GradientTaker(exact.model, exact.loss, exact.dtype).results(leaves)


class HessianProduct(GradientTaker):
    """The product of the loss's Hessian and one random vector."""

    def results(self, leaves: Mapping[str, Tensor]) -> Results:
        named = dict(self.model.named_parameters())
        product = hessian_vector_product(self.model, self(leaves), list(self.vector().values()))
        return _by_name("H", named, product)

    def vector(self) -> dict[str, Tensor]:
        """The same numbers each time."""
        generator = seeded_generator()
        return {
            name: torch.randn(parameter.shape, generator=generator).to(parameter)
            for name, parameter in self.model.named_parameters()
        }

    def truth(self, leaves: Mapping[str, Tensor]) -> Results:
        """In float64 by forward over reverse mode, where every op takes its plain definition."""
        exact = self.exact()
        wide = HessianProduct(exact.model, exact.loss, exact.dtype)
        point = {name: parameter.detach() for name, parameter in wide.model.named_parameters()}

        def loss(values: dict[str, Tensor]) -> Tensor:
            def model(**inputs: Tensor) -> Any:
                return torch.func.functional_call(wide.model, values, (), inputs)

            return wide.loss(model, leaves)

        found = torch.func.jvp(torch.func.grad(loss), (point,), (wide.vector(),))
        return {f"H {name}": part for name, part in found[1].items()}


@dataclass(frozen=True)
class CurvatureProblem(LanguageProblem):
    """A language model without dropout; contenders give its gradient, or a product with its Hessian."""

    dropout: float = 0.0
    backward: bool = False  # no gradient of what goes in

    def step(self, forward: Forward, inputs: Inputs) -> Results:
        return trainee(forward).step(inputs.leaves)

    def verify(self, inputs: Inputs, forward: Forward, expected: None) -> float:
        own = trainee(forward)
        if not isinstance(own, GradientTaker):
            raise TypeError(f"forward is {forward!r}, expected a GradientTaker")
        return check_gradients(own.step(inputs.leaves), own.truth(inputs.leaves), self.dtype)


def _by_name(letter: str, named: Mapping[str, Tensor], tensors: tuple[Tensor, ...] | list[Tensor]) -> Results:
    return {f"{letter} {name}": tensor for name, tensor in zip(named, tensors, strict=True)}
