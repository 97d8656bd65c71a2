"""The error rule: how far from the float64 reference a result may be.

At most twice as far as the reference itself evaluated at the tested dtype, both in the root mean square and
at the worst element, plus a few roundings of the terms that a number is made of (a sum may cancel to nothing,
and the reference may by luck be exact). And each gradient points the right way.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable

import torch
from ops.attention_case import Case, Inputs, build, poisoned_memory, run
from ops.term_sizes import term_sizes
from torch import Tensor

import seo_kernels as sk

# Roundings granted on top, in units of eps times the size of the terms. Added up one by one, in float32 at
# least, the roundings of a long sum grow like a random walk.
GRANTED = {torch.float64: 64.0, torch.float32: 1.0, torch.bfloat16: 0.25, torch.float16: 0.25}
COSINE = 0.999
# Heads' widths are multiples of it: kernels that copy pieces of 16 bytes take no others.
DIM_STEP = int(os.environ.get("SEO_KERNELS_TEST_DIM_STEP", "1"))


def check(case: Case, attention: Callable | None = None, device: str = "cpu") -> dict[str, Tensor]:
    """Run the case and hold it against the reference; returns what was computed."""
    dims = {name: -(-getattr(case, name) // DIM_STEP) * DIM_STEP for name in ("dim", "value_dim")}
    case = dataclasses.replace(case, **dims)
    inputs = build(case, device)
    exact_inputs = inputs.to(torch.float64)
    exact = run(sk.reference.attention, case, exact_inputs)
    plain = run(sk.reference.attention, case, inputs)
    with poisoned_memory():
        tested = run(attention or sk.attention, case, inputs)
    sizes = term_sizes(case, exact_inputs)
    for name, expected in exact.items():
        _check_form(case, name, tested[name], inputs)
        _check_errors(case, name, tested[name], plain[name], expected, sizes[name])
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


def _check_errors(case: Case, name: str, tested: Tensor, plain: Tensor, exact: Tensor, size: Tensor) -> None:
    coarsest = max(case.dtype, tested.dtype, key=lambda dtype: torch.finfo(dtype).eps)
    eps, least = torch.finfo(coarsest).eps, torch.finfo(coarsest).smallest_normal
    tested, plain = tested.double(), plain.double()
    nothing = exact == -math.inf  # rows of lse that see nothing
    assert torch.equal(tested == -math.inf, nothing), f"{name} is -inf at other places than expected"
    tested, plain, exact = (t.masked_fill(nothing, 0.0) for t in (tested, plain, exact))
    assert bool(tested.isfinite().all()), f"{name} is not finite"
    if tested.numel() == 0:
        return
    plain = torch.where(plain.isfinite(), plain, exact)
    error, plain_error = (tested - exact).abs(), (plain - exact).abs()
    sum_eps = torch.finfo(torch.promote_types(case.dtype, torch.float32)).eps
    granted = eps * GRANTED[coarsest] + 2 * sum_eps * math.sqrt(_longest_sum(case, name, exact))
    granted *= 1 + 3 / math.sqrt(exact.numel())  # the errors of few numbers scatter
    for what, measure, units in (("mean", _mean, 1.0), ("worst", _worst, 4.0)):
        allowed = 2 * measure(plain_error) + units * granted * measure(torch.maximum(size, exact.abs()))
        allowed += 2 * least * eps  # two steps between the smallest numbers
        assert measure(error) <= allowed, (
            f"{name}: {what} error {measure(error):.3g} of {measure(exact.abs()):.3g} at {_place(error)}, "
            f"allowed {allowed:.3g}; the reference at {case.dtype} has {measure(plain_error):.3g}"
        )
    clear = _mean(exact) > max(least, 20 * eps * _mean(size)) and _cosine(plain, exact) > 1 - (1 - COSINE) / 2
    if name.startswith("d ") and clear:
        assert _cosine(tested, exact) > COSINE, f"{name}: cosine {_cosine(tested, exact):.6f}"


def _longest_sum(case: Case, name: str, result: Tensor) -> int:
    pairs = case.batch * case.heads * case.query_length * case.key_length
    if name == "d mask":
        return pairs // result.numel()
    if name.startswith("d relative"):
        return pairs if result.shape[0] != case.heads else pairs // case.heads
    return max(case.batch * case.group * case.query_length, case.key_length, case.dim, case.value_dim)


def _mean(error: Tensor) -> float:
    return error.square().mean().sqrt().item()


def _worst(error: Tensor) -> float:
    return error.abs().max().item()


def _cosine(a: Tensor, b: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()


def _place(error: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
