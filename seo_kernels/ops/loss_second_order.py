"""Second derivatives of the cross entropy of class indices, by formula, some rows at a time.

With p = softmax(x), w the weights of the classes, s the label smoothing and y the class of a row:

    a = (1 - s) w_y,  c = s / C,  q = a + c sum_k w_k,      loss = q lse(x) - a x_y - c <w, x>
    J u = q <p, u> - a u_y - c <w, u>,                      d<g, J u>/dx = g q p (u - <p, u>)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.function_pair_autodiff import Op

BLOCK = 2**17  # entries of the rows of a block: its temporaries stay in the cache


def cross_entropy_second_order(
    run_forward: Op,
    run_gradients: Op,
    values: Sequence[Any],
    kept: Sequence[Any],
    direction: Sequence[Tensor | None],
    grads: Sequence[Tensor | None],
    wanted: Sequence[bool],
    want_tangents: bool,
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """``([J u], [d<g, J u>/dx])``: a ``SecondOrderFormula`` of ``PairAutodiff``."""
    input, target, weight, ignore_index, smoothing = values
    (lse,), (moves,), (grad,) = (
        kept,
        direction,
        grads,
    )  # lse (N, 2): the largest score, and what is added to it
    assert moves is not None  # it is the one input
    assert grad is not None  # there is one output
    counted = target != ignore_index
    index = torch.where(counted, target, 0).long()
    count = input.shape[1]
    direct = (1.0 - smoothing) * (lse.new_ones(()) if weight is None else weight.to(lse.dtype)[index])  # a
    spread = smoothing / count
    total = direct + spread * (count if weight is None else weight.to(lse.dtype).sum())  # q
    tangent = torch.empty_like(grad)
    bent = torch.empty_like(input, memory_format=torch.contiguous_format) if wanted and wanted[0] else None
    rows = max(1, BLOCK // max(1, count))
    for begin in range(0, input.shape[0], rows):
        block = slice(begin, begin + rows)
        u = moves[block]
        p = (input[block] - lse[block, :1]).sub_(lse[block, 1:]).exp_()
        shares = p * u
        mean = shares.sum(1, keepdim=True)  # <p, u>
        tangent[block] = mean[:, 0]
        if bent is not None:
            bent[block] = torch.addcmul(shares, p, mean, value=-1.0)
    if bent is not None:
        bent.mul_((grad * total)[:, None]).masked_fill_(~counted[:, None], 0.0)
    if not want_tangents:
        return [None], [bent]
    tangent = total * tangent - direct * moves.gather(1, index[:, None])[:, 0]
    if spread > 0.0:
        tangent = tangent - spread * (moves if weight is None else moves * weight.to(lse.dtype)).sum(1)
    return [tangent.masked_fill_(~counted, 0.0)], [bent]
