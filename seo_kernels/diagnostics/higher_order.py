"""Gradients of gradients, to any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.curvature import refuse_loose_ends, twice_differentiated
from seo_kernels.diagnostics.undisturbed import call_model, check_scalar_loss, trainable_parameters
from seo_kernels.nn.sizes import check_size


def higher_order_gradients(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Tensor],
    input_data: Any,
    target_data: Any,
    order: int = 2,
) -> list[list[Tensor]]:
    """Gradients of order 1 to ``order``: of the loss, then each time of the sum of the last one's entries.

    With s the sum over all entries, g1 = d loss / d w, g2 = d s(g1) / d w = H 1, g3 = d s(g2) / d w, ...
    The time grows about threefold with each order.

    Args:
        model: with at least one trainable parameter; ``.grad`` is not touched.
        loss_fn: a scalar of what the model gives and the target.
        input_data: a tensor, a tuple of positional or a mapping of keyword arguments.
        target_data: whatever the loss takes.
        order: at least 1.

    Returns:
        ``order`` lists with a tensor for every trainable parameter, in their order; zeros where a derivative
        does not depend on the parameter any more.

    Raises:
        TypeError, ValueError: an argument of another kind or out of range, a loss that is no scalar.
        SecondDerivativeError: an operation of the model can't be differentiated that often.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> model.weight.data.fill_(2.0)
    tensor([[2.]])
    >>> cube = lambda output, target: (output - target).pow(3).sum()
    >>> orders = higher_order_gradients(model, cube, torch.ones(1, 1), torch.zeros(1, 1), order=4)
    >>> [gradients[0].item() for gradients in orders]  # 3 w^2, 6 w, 6, 0
    [12.0, 12.0, 6.0, 0.0]
    """
    check_size("order", order)
    parameters = list(trainable_parameters(model).values())
    with torch.enable_grad():
        total = check_scalar_loss(loss_fn(call_model(model, input_data), target_data), "loss_fn's result")
        return twice_differentiated(lambda: _orders(total, parameters, order))


def _orders(total: Tensor, parameters: list[nn.Parameter], order: int) -> list[list[Tensor]]:
    orders: list[list[Tensor]] = []
    while len(orders) < order and total.requires_grad:
        further = len(orders) + 1 < order
        gradients = torch.autograd.grad(
            total, parameters, create_graph=further, allow_unused=True, materialize_grads=True
        )
        if further:
            refuse_loose_ends(gradients)
        orders.append([gradient.detach() for gradient in gradients])
        total = torch.stack([gradient.sum().to(total) for gradient in gradients]).sum()
    zeros = [[torch.zeros_like(p) for p in parameters] for _ in range(order - len(orders))]
    return orders + zeros
