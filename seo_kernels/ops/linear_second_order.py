"""Second derivatives of ``sk.linear`` by formula, with the products of its own kernels.

With z = x W^T + b, out = act(z), a direction u = (x', W', b') and a cotangent g of out:

    z' = x' W^T + x W'^T + b',      J u = act'(z) z'
    gz = g act'(z),  gzz = g act''(z) z'      (gzz = 0 without an activation)
    d<g, J u>/dx = gz W' + gzz W,   d/dW = gz^T x' + gzz^T x,   d/db = sum of the rows of gzz
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

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
) -> tuple[Tensor, Tensor, Tensor]:
    """J u, gz and gzz of z, z' and g."""
    shape = preactivation.shape
    flat = [tensor.reshape(-1) for tensor in (preactivation, moved, grad)]
    tangent, by_z, bent = (torch.empty_like(flat[0]) for _ in range(3))
    for begin in range(0, flat[0].shape[0], BLOCK):
        block = slice(begin, begin + BLOCK)
        z, z_moves, g = (tensor[block] for tensor in flat)

        def pulled(g: Tensor, z: Tensor) -> Tensor:
            pull = torch.func.vjp(lambda point: apply_activation(point, activation), z)[1]
            by_point: Tensor = pull(g)[0]
            return by_point

        found = torch.func.vjp(pulled, g, z)
        by_z[block] = found[0]
        tangent[block], bent[block] = found[1](z_moves)
    return tangent.view(shape), by_z.view(shape), bent.view(shape)
