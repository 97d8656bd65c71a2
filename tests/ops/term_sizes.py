"""How large the terms are that each result of attention is summed from: what its rounding errors go with.

A gradient may cancel to nothing (that of the score of an only key is zero) while its terms do not. For each
result, in float64, the root of the sum of the squares of its terms.
"""

from __future__ import annotations

import torch
from ops.attention_case import Case, Inputs
from torch import Tensor

import seo_kernels as sk


def term_sizes(case: Case, inputs: Inputs) -> dict[str, Tensor]:
    """Sizes by name of the result, in the shape of the result."""
    leaves = {name: leaf.detach().nan_to_num(0.0) for name, leaf in inputs.leaves.items()}
    squares = {name: leaf.square() for name, leaf in leaves.items()}
    repeat = case.group
    key2, value2 = (squares[name].repeat_interleave(repeat, 1) for name in ("key", "value"))
    scale2 = 1 / case.dim if case.scale is None else case.scale**2
    kept = 1 / (1 - case.dropout_p)
    out2 = inputs.gradients["out"].square() * (0.0 if case.through == "lse" else kept**2)
    lse_size = inputs.gradients["lse"].abs() * (0.0 if case.through == "out" else 1.0)

    key2 = key2 + _largest_entry(squares.get("relative_key"))
    value2 = value2 + _largest_entry(squares.get("relative_value"))
    weight, sink_weight, lse = _weights(case, inputs)
    # a backward computes its weights anew from lse, in whose rounding they share
    lse_dtype = torch.promote_types(case.dtype, torch.float32)
    share = torch.finfo(lse_dtype).eps / torch.finfo(case.dtype).eps
    again = weight * (1 + share * torch.where(lse.isfinite(), lse, 0.0).abs())[..., None]
    dweight = (out2 @ value2.transpose(2, 3)).sqrt()  # (B, Hq, Tq, Tk)
    delta = (weight * dweight).sum(3) + lse_size
    dscore2 = (again * (dweight + delta[..., None])).square()
    dscaled2 = scale2 * dscore2

    offset = case.key_length - case.query_length if case.query_offset is None else case.query_offset
    distance = torch.arange(case.key_length) - torch.arange(case.query_length)[:, None] - offset
    distance = distance.to(weight.device)
    sizes = {
        "out": kept**2 * weight.square() @ value2,
        "lse": (1 + torch.where(lse.isfinite(), lse, 0.0).abs()).square(),
        "d query": dscaled2 @ key2,
        "d key": _sum_groups(dscaled2.transpose(2, 3) @ squares["query"], repeat),
        "d value": _sum_groups(again.square().transpose(2, 3) @ out2, repeat),
    }
    for name, terms, factor in (
        ("relative_key", dscaled2, squares["query"]),
        ("relative_value", again.square(), out2),
        ("relative_bias", dscore2, torch.ones_like(lse)[..., None]),
    ):
        if name in leaves:
            shape = leaves[name].shape
            rows = shape[-1] if name == "relative_bias" else shape[-2]
            table = torch.einsum("bhmr,bhmd->hrd", _by_distance(terms, distance, rows), factor)
            shared = name != "relative_bias" and len(shape) == 2
            sizes[f"d {name}"] = table.sum(0) if shared else table.view(shape)
    if "relative_slopes" in leaves:
        sizes["d relative_slopes"] = (dscore2 * distance.square()).sum((0, 2, 3))
    if "mask" in leaves:
        shape = leaves["mask"].shape
        sizes["d mask"] = dscore2.sum_to_size((1,) * (4 - len(shape)) + shape).view(shape)
    if "sinks" in leaves:
        sizes["d sinks"] = (sink_weight * delta).square().sum((0, 2))
    return {name: size.sqrt() for name, size in sizes.items()}


def _weights(case: Case, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Weights before dropout (B, Hq, Tq, Tk), the sink's (B, Hq, Tq), and lse, whose gradient they are."""
    leaves = {name: leaf.detach() for name, leaf in inputs.leaves.items()}
    options = dict(inputs.options) | {"dropout_p": 0.0}
    mask = leaves.pop("mask", options.pop("mask", torch.zeros((), device=leaves["query"].device)))
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=torch.float64).masked_fill(~mask, -torch.inf)
    tables = {name: leaves.pop(f"relative_{name}", None) for name in ("key", "value", "bias", "slopes")}
    shape = (case.batch, case.heads, case.query_length, case.key_length)
    probe = mask.double().expand(shape).clone().requires_grad_()
    _, lse = sk.reference.attention(
        **leaves, **options, mask=probe, relative=sk.RelativePosition(**tables), return_lse=True
    )
    (weight,) = torch.autograd.grad(lse.sum(), probe)
    sink_weight = torch.zeros_like(lse)
    if "sinks" in leaves:
        sink_weight = torch.exp(leaves["sinks"][:, None] - lse.detach())
    return weight, sink_weight, lse.detach()


def _by_distance(terms: Tensor, distance: Tensor, rows: int) -> Tensor:
    """(B, Hq, Tq, Tk) to (B, Hq, Tq, rows of a table): what falls on each row of the table."""
    reach = rows // 2
    index = (distance.clamp(-reach, reach) + reach).expand_as(terms)
    return terms.new_zeros(*terms.shape[:3], rows).scatter_add(3, index, terms)


def _sum_groups(tensor: Tensor, group: int) -> Tensor:
    return tensor.unflatten(1, (-1, group)).sum(2)


def _largest_entry(table: Tensor | None) -> Tensor | float:
    """Over heads and distances: (dim,), or 0."""
    return 0.0 if table is None else table.flatten(0, -2).amax(0)
