"""Functions with hand-written gradients: activation, loss and layer, held against torch's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from seo_kernels.examples.showing import headline, largest_difference, table
from seo_kernels.nn import functions


@dataclass(frozen=True)
class FunctionReport:
    """A custom function beside torch's of the same meaning, in float64.

    Args:
        name: of the class.
        value_difference, gradient_difference: the largest from torch's.
        first_order, second_order: ``gradcheck`` and ``gradgradcheck`` find its gradients right.
    """

    name: str
    value_difference: float
    gradient_difference: float
    first_order: bool
    second_order: bool


class CustomAutogradExample:
    """A custom activation, loss and layer as ``torch.autograd.Function``, and demonstrations of them.

    >>> CustomAutogradExample.CustomReLU.apply(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    CustomReLU = functions.CustomReLU
    CustomHuberLoss = functions.CustomHuberLoss
    CustomLinear = functions.CustomLinear
    CustomActivation = functions.CustomActivation

    @classmethod
    def demonstrate_activations(cls) -> list[FunctionReport]:
        """``CustomReLU`` and the leaky ``CustomActivation`` beside torch's."""
        x = _away_from_kinks(6, 5)
        return _shown(
            "Custom activations",
            [
                _compared(cls.CustomReLU, F.relu, (x,)),
                _compared(cls.CustomActivation, lambda x: F.leaky_relu(x, 0.1), (x,)),
            ],
        )

    @classmethod
    def demonstrate_loss(cls) -> list[FunctionReport]:
        """``CustomHuberLoss`` beside torch's, with delta 1."""
        operands = _away_from_kinks(6, 5), torch.zeros(6, 5, dtype=torch.float64, requires_grad=True)
        return _shown("Custom loss", [_compared(cls.CustomHuberLoss, F.huber_loss, operands)])

    @classmethod
    def demonstrate_layer(cls) -> list[FunctionReport]:
        """``CustomLinear`` beside torch's, with a batch in front."""
        operands = _away_from_kinks(2, 3, 4), _away_from_kinks(5, 4), _away_from_kinks(5)
        return _shown("Custom layer", [_compared(cls.CustomLinear, F.linear, operands)])

    @classmethod
    def run_all(cls) -> list[FunctionReport]:
        """All of them."""
        return [*cls.demonstrate_activations(), *cls.demonstrate_loss(), *cls.demonstrate_layer()]


def _compared(function: Any, truth: Callable[..., Tensor], operands: tuple[Tensor, ...]) -> FunctionReport:
    found, expected = function.apply(*operands), truth(*operands)
    return FunctionReport(
        name=function.__name__,
        value_difference=largest_difference([found], [expected]),
        gradient_difference=largest_difference(
            torch.autograd.grad(found.square().sum(), operands),
            torch.autograd.grad(expected.square().sum(), operands),
        ),
        first_order=gradcheck(function.apply, operands, raise_exception=False),
        second_order=gradgradcheck(function.apply, operands, raise_exception=False),
    )


def _shown(title: str, reports: list[FunctionReport]) -> list[FunctionReport]:
    headline(title)
    table(
        ("function", "value differs by", "gradient differs by", "1st order right", "2nd order right"),
        [(r.name, r.value_difference, r.gradient_difference, r.first_order, r.second_order) for r in reports],
    )
    return reports


def _away_from_kinks(*shape: int) -> Tensor:
    """Where finite differences see no corner: not near 0, 1 or -1."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    near = torch.stack([(x.abs() - kink).abs() for kink in (0.0, 1.0)]).amin(0) < 0.05
    return torch.where(near, x + 0.2, x).requires_grad_()
