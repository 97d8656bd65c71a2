"""Second derivatives of ``sk.linear`` by formula, with the products of its own kernels.

With z = x W^T + b, out = act(z), a direction u = (x', W', b') and a cotangent g of out:

    z' = x' W^T + x W'^T + b',      J u = act'(z) z'
    gz = g act'(z),  gzz = g act''(z) z'      (gzz = 0 without an activation)
    d<g, J u>/dx = gz W' + gzz W,   d/dW = gz^T x' + gzz^T x,   d/db = sum of the rows of gzz
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.activation_arguments import NEGATIVE_SLOPE
from seo_kernels.reference.activation import apply_activation

BLOCK = 2**16  # entries of a block of the elementwise part: its temporaries stay in the cache

Op = Callable[..., tuple[Tensor, ...]]


def linear_second_order(
    run_forward: Op,
    run_gradients: Callable[..., tuple[Tensor, ...]],
    values: Sequence[Any],
    kept: Sequence[Any],
    direction: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
    want_tangents: bool,
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """``([J u], [d<g, J u>/dx, /dW, /db])``: a ``SecondOrderFormula`` of ``PairAutodiff``."""
    input, weight, bias, activation, _keep = values
    input_moves, weight_moves, bias_moves = direction
    (grad,) = grads
    assert grad is not None  # there is one output
    wants_input, wants_weight, wants_bias = wanted if wanted else (False, False, False)

    moved: Tensor | None = None  # z'
    if want_tangents or activation:
        moved = _moved(run_forward, input, weight, input_moves, weight_moves, bias_moves)
    bent: Tensor | None = None  # gzz
    if activation:
        (preactivation,) = kept
        if preactivation.numel() == 0:
            preactivation = run_forward(input, weight, bias, "", False)[0]
        assert moved is not None
        moved, grad, bent = _through_activation(preactivation, moved, grad, activation)

    # gz W' and gz^T x' are the gradients at the point (x', W'); an absent one stands for zeros
    by_input, by_weight, _ = run_gradients(
        [grad],
        (
            input if input_moves is None else input_moves,
            weight if weight_moves is None else weight_moves,
            None,
            "",
            False,
        ),
        (grad.new_empty(0),),
        (wants_input and weight_moves is not None, wants_weight and input_moves is not None, False),
    )
    found = [
        by_input if wants_input and weight_moves is not None else None,
        by_weight if wants_weight and input_moves is not None else None,
        None,
    ]
    if bent is not None:
        more = run_gradients(
            [bent],
            (input, weight, bias, "", False),
            (grad.new_empty(0),),
            (wants_input, wants_weight, wants_bias),
        )
        for i, want in enumerate((wants_input, wants_weight, wants_bias)):
            if want:
                part = found[i]
                found[i] = more[i] if part is None else part.add_(more[i])
    return [moved if want_tangents else None], found


def _moved(
    run_forward: Op,
    input: Tensor,
    weight: Tensor,
    input_moves: Tensor | None,
    weight_moves: Tensor | None,
    bias_moves: Tensor | None,
) -> Tensor:
    """z'; one of its three parts at least is there."""
    total: Tensor | None = None
    if input_moves is not None:
        total = run_forward(input_moves, weight, bias_moves, "", False)[0]
        bias_moves = None
    if weight_moves is not None:
        part = run_forward(input, weight_moves, bias_moves, "", False)[0]
        total = part if total is None else total.add_(part)
        bias_moves = None
    if bias_moves is not None:
        total = bias_moves.expand(*input.shape[:-1], -1).contiguous()
    assert total is not None
    return total


def _through_activation(
    preactivation: Tensor, moved: Tensor, grad: Tensor, activation: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """J u, gz and gzz of z, z' and g; None where gzz is zero."""
    slopes = torch.ops.seo_kernels.bias_act_backward  # act'(z) times its first argument
    settings = (preactivation, None, activation, NEGATIVE_SLOPE, [True, False])
    with torch._C._AutoDispatchBelowAutograd():
        tangent, by_z = slopes(moved, *settings)[0], slopes(grad, *settings)[0]
    if activation in _PIECEWISE_LINEAR:
        return tangent, by_z, None
    bent = torch.empty_like(preactivation)
    bend = _BENDS.get(activation) or _by_autograd(activation)
    parts = [tensor.reshape(-1) for tensor in (preactivation, moved, grad)]
    for begin in range(0, bent.numel(), BLOCK):
        z, z_moves, g = (part[begin : begin + BLOCK] for part in parts)
        bent.view(-1)[begin : begin + BLOCK] = bend(z).mul_(z_moves).mul_(g)
    return tangent, by_z, bent


def _by_autograd(activation: str) -> Callable[[Tensor], Tensor]:
    """act'' of the activation in plain torch."""

    def bend(z: Tensor) -> Tensor:
        def slope(point: Tensor) -> Tensor:
            pulled: Tensor = torch.func.vjp(lambda z: apply_activation(z, activation), point)[1](ones)[0]
            return pulled

        ones = torch.ones_like(z)
        bent: Tensor = torch.func.vjp(slope, z)[1](ones)[0].contiguous()
        return bent

    return bend


def _gelu_bend(z: Tensor) -> Tensor:
    """phi(z) (2 - z^2), with phi the density of the standard normal distribution."""
    square = z.clamp(-_FAR, _FAR).square_()  # where phi is 0, and else 0 times infinity
    density = (square * -0.5).exp_().mul_(1.0 / math.sqrt(2.0 * math.pi))
    return square.neg_().add_(2.0).mul_(density)


def _silu_bend(z: Tensor) -> Tensor:
    """s (1 - s) (2 + z (1 - 2 s)), with s the sigmoid of z."""
    z = z.clamp(-_FAR_OF_SILU, _FAR_OF_SILU)
    share = z.sigmoid()
    falling = share * (1.0 - share)
    return share.mul_(-2.0).add_(1.0).mul_(z).add_(2.0).mul_(falling)


_FAR, _FAR_OF_SILU = 50.0, 800.0
_PIECEWISE_LINEAR = ("relu", "leaky_relu")
# act'' where its form is much shorter than what autograd makes of it
_BENDS = {"gelu": _gelu_bend, "silu": _silu_bend}
