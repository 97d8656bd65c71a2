"""The error rule: how far from the float64 reference a result may be.

At most twice as far as the reference itself evaluated at the tested dtype, both in the root mean square and at the
worst element, plus a few roundings of the terms that a number is made of (a sum may cancel to nothing, and the
reference may by luck be exact). And each gradient points the right way.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from ops.attention_case import Case, Inputs, build, poisoned_memory, run
from torch import Tensor

import seo_kernels as sk

# Roundings granted on top, in units of eps times the size of the terms: in the mean, and at the worst element.
GRANTED = {torch.float64: (64.0, 512.0)}
GRANTED_ELSE = (0.5, 4.0)
COSINE = 0.999


def check(case: Case, attention: Callable | None = None, device: str = "cpu") -> dict[str, Tensor]:
    """Run the case and hold it against the reference; returns what was computed."""
    inputs = build(case, device)
    exact_inputs = inputs.to(torch.float64)
    exact = run(sk.reference.attention, case, exact_inputs)
    plain = exact if case.dtype == torch.float64 else run(sk.reference.attention, case, inputs)
    with poisoned_memory():
        tested = run(attention or sk.attention, case, inputs)
    sizes = term_sizes(case, exact_inputs, exact)
    for name, expected in exact.items():
        _check_form(case, name, tested[name], inputs)
        _check_errors(case, name, *(t.double() for t in (tested[name], plain[name], expected)), sizes[name])
    return tested


def _check_form(case: Case, name: str, tested: Tensor, inputs: Inputs) -> None:
    if name.startswith("d "):
        leaf = inputs.leaves[name[2:]]
        dtype, shape = leaf.dtype, leaf.shape
    else:
        dtype = case.dtype if name == "out" else torch.promote_types(case.dtype, torch.float32)
        shape = inputs.gradients[name].shape
    assert tested.dtype == dtype, f"{name} has dtype {tested.dtype}, expected {dtype}"
    assert tested.shape == shape, f"{name} has shape {tuple(tested.shape)}, expected {tuple(shape)}"


def _check_errors(case: Case, name: str, tested: Tensor, plain: Tensor, exact: Tensor, size: float) -> None:
    nothing = exact == -math.inf  # rows of lse that see nothing
    assert torch.equal(tested == -math.inf, nothing), f"{name} is -inf at other places than expected"
    tested, plain, exact = (t.masked_fill(nothing, 0.0) for t in (tested, plain, exact))
    assert bool(tested.isfinite().all()), f"{name} is not finite"
    if tested.numel() == 0:
        return
    plain = torch.where(plain.isfinite(), plain, exact)
    eps = torch.finfo(case.dtype).eps
    mean_granted, worst_granted = (eps * size * units for units in GRANTED.get(case.dtype, GRANTED_ELSE))
    error, plain_error = (tested - exact).abs(), (plain - exact).abs()
    for what, measure, granted in (
        ("mean", lambda t: t.square().mean().sqrt().item(), mean_granted),
        ("worst", lambda t: t.max().item(), worst_granted),
    ):
        allowed = 2 * measure(plain_error) + granted
        assert measure(error) <= allowed, (
            f"{name}: {what} error {measure(error):.3g} of {measure(exact.abs()):.3g} at {_place(error)}, "
            f"allowed {allowed:.3g}; the reference at {case.dtype} has {measure(plain_error):.3g}"
        )
    if name.startswith("d ") and _cosine(plain, exact) > 1 - (1 - COSINE) / 2:
        if exact.square().mean().sqrt().item() > 20 * mean_granted:
            assert _cosine(tested, exact) > COSINE, f"{name}: cosine {_cosine(tested, exact):.6f}"


def _cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def _place(error: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))


def term_sizes(case: Case, inputs: Inputs, exact: dict[str, Tensor]) -> dict[str, float]:
    """How large the terms are that each result is summed from, roughly: its rounding errors go with them."""
    norm = {name: _largest_row(leaf) for name, leaf in inputs.leaves.items()}
    scale = abs(case.dim**-0.5 if case.scale is None else case.scale)
    key = norm["key"] + norm.get("relative_key", 0.0)
    score = scale * norm["query"] * key
    if case.softcap is not None:
        score = min(score, case.softcap)
    reach = case.query_length + case.key_length + abs(case.query_offset or 0)
    score += sum(norm.get(name, 0.0) for name in ("mask", "sinks"))
    for name, factor in (("relative_bias", 1.0), ("relative_slopes", reach)):
        score += factor * _largest(inputs.leaves.get(name))
    value = norm["value"] + norm.get("relative_value", 0.0)
    through_out = 0.0 if case.through == "lse" else _largest_row(inputs.gradients["out"]) / (1 - case.dropout_p)
    through_lse = 0.0 if case.through == "out" else _largest(inputs.gradients["lse"])
    of_score = through_out * value + through_lse  # the gradient of a row's scores, in the 1-norm
    of_score *= 1.0 + score  # an absolute error of a score is a relative one of its weight
    rows = math.sqrt(case.batch * case.query_length * case.group) if case.batch * case.query_length else 1.0
    sizes = {
        "out": value * (1.0 + score) / (1 - case.dropout_p),
        "lse": 1.0 + score,
        "d query": scale * of_score * key,
        "d key": scale * of_score * norm["query"] * rows,
        "d value": through_out * (1.0 + score) * rows,
        "d relative_key": scale * of_score * norm["query"] * rows,
        "d relative_value": through_out * (1.0 + score) * rows,
        "d relative_slopes": of_score * reach * rows,
    }
    sizes |= {name: of_score * rows for name in ("d relative_bias", "d mask", "d sinks")}
    return {name: max(sizes[name], _largest(result)) for name, result in exact.items()}


def _largest(tensor: Tensor | None) -> float:
    if tensor is None or tensor.numel() == 0:
        return 0.0
    finite = torch.where(tensor.isfinite(), tensor, 0.0)
    return finite.abs().max().item()


def _largest_row(tensor: Tensor) -> float:
    """Largest 2-norm of a row of the last dimension, as a typical row's dot product is far below the product."""
    if tensor.numel() == 0:
        return 0.0
    finite = torch.where(tensor.isfinite(), tensor, 0.0)
    return (finite.abs().max() if tensor.ndim == 0 else finite.norm(dim=-1).max()).item()
