"""The basic examples of the training system, each with a number that is known beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from seo_kernels.diagnostics.autograd_tools import AutogradUtils
from seo_kernels.diagnostics.gradient_monitor import GradientMonitor
from seo_kernels.examples.showing import headline, largest_difference, table
from seo_kernels.nn.combined_loss import CustomLossFunction
from seo_kernels.nn.functions import CustomAutogradFunction
from seo_kernels.training.autograd_system import AutogradTrainingSystem


@dataclass(frozen=True)
class BasicExamplesReport:
    """What each of the basic examples measured.

    Args:
        derivative: of x^2 at 3, which is 6.
        statistics: of the gradients of a linear layer: see ``AutogradUtils.compute_gradient_statistics``.
        custom_loss: of ``CustomLossFunction`` at its start, and ``plain_loss``, alpha MSE + beta L1.
        monitored_norm: of a gradient, by ``GradientMonitor``, and ``known_norm``, by its definition.
        custom_function_error: of the gradients of input @ weight, the largest from known ones.
        higher_orders: the derivatives of w^3 at 2: 12, 12, 6.
        first_loss, last_loss: of a training with the system.
    """

    derivative: float
    statistics: dict[str, Any]
    custom_loss: float
    plain_loss: float
    monitored_norm: float
    known_norm: float
    custom_function_error: float
    higher_orders: list[float]
    first_loss: float
    last_loss: float


class AutogradExamples:
    """The basic examples, one after the other."""

    @staticmethod
    def demonstrate_autograd_system() -> BasicExamplesReport:
        """Run all of them: print what they measure, and return it."""
        derivative = _scalar_derivative()
        statistics = _statistics()
        custom, plain = _custom_loss()
        monitored, known = _monitored()
        error = _custom_function()
        orders = _higher_orders()
        first, last = _training()
        return BasicExamplesReport(
            derivative, statistics, custom, plain, monitored, known, error, orders, first, last
        )


def _scalar_derivative() -> float:
    headline("A derivative")
    x = torch.tensor(3.0, requires_grad=True)
    (derivative,) = torch.autograd.grad(x**2, x)
    print(f"d(x^2)/dx at 3: {derivative.item():g}")
    return derivative.item()


def _statistics() -> dict[str, Any]:
    headline("Statistics of gradients")
    model = nn.Linear(10, 1)
    F.mse_loss(model(torch.randn(32, 10)), torch.randn(32, 1)).backward()
    statistics = dict(AutogradUtils.compute_gradient_statistics(model))
    norms = AutogradUtils.get_gradient_norms(model)
    table(("parameter", "norm of its gradient"), norms.items())
    print(f"every parameter has one: {AutogradUtils.check_gradients_exist(model)}")
    return statistics


def _custom_loss() -> tuple[float, float]:
    headline("A loss whose balance is learnt")
    loss_fn = CustomLossFunction(alpha=1.0, beta=0.1)
    predictions, targets = torch.randn(32, 1), torch.randn(32, 1)
    loss = loss_fn(predictions, targets)
    plain = F.mse_loss(predictions, targets) + 0.1 * F.l1_loss(predictions, targets)
    loss.backward()
    print(f"at its start {loss.item():.4f}, alpha MSE + beta L1 is {plain.item():.4f}")
    (gradient,) = (parameter.grad for parameter in loss_fn.parameters())
    print(f"gradient of the balance: {gradient}")
    return loss.item(), plain.item()


def _monitored() -> tuple[float, float]:
    headline("Monitoring by hooks")
    model = nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1))
    with GradientMonitor(model) as monitor:
        model(torch.randn(16, 10)).square().mean().backward()
    norm = monitor.get_gradient_summary()["total_norm"]
    known = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters() if p.grad is not None))
    print(f"norm of all gradients {norm:.6f}, by its definition {known:.6f}")
    return norm, known


def _custom_function() -> float:
    headline("A function with a hand-written gradient")
    x, weight = torch.randn(5, 4, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    found = torch.autograd.grad(CustomAutogradFunction.apply(x, weight).sum(), (x, weight))
    known = weight.sum(1).expand(5, 4), x.sum(0).unsqueeze(1).expand(4, 3)
    error = largest_difference(found, known)
    print(f"gradients of the sum of x @ w differ from known ones by {error:.1e}")
    return error


def _higher_orders() -> list[float]:
    headline("Gradients of higher order")
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    system = AutogradTrainingSystem(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        lambda output, target: (output - target).pow(3).sum(),
    )
    orders = system.compute_higher_order_gradients(torch.ones(1, 1), torch.zeros(1, 1), order=3)
    values = [gradients[0].item() for gradients in orders]
    print(f"of w^3 at 2: {', '.join(f'{value:g}' for value in values)}")
    return values


def _training() -> tuple[float, float]:
    headline("A training system")
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    system = AutogradTrainingSystem(model, torch.optim.AdamW(model.parameters(), lr=1e-2), F.mse_loss)
    inputs = torch.randn(64, 4)
    loader = [(part, part.sum(1, keepdim=True)) for part in inputs.split(16)]
    first = system.evaluate(loader)
    system.fit(loader, epochs=20)
    last = system.evaluate(loader)
    summary = system.gradient_summary()
    system.close()
    print(f"loss {first:.4f} before, {last:.4f} after 20 epochs")
    print(f"gradients of {summary['steps_seen']} updates were watched: {len(summary['issues'])} issues")
    return first, last
