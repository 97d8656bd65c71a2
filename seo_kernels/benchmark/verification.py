"""No figure without a right result: output and gradients against the formula in float64.

The whole problem in float64 would take longer than the benchmark. So the gradient of the output is zero but
for some query rows, at the beginning, in the middle and at the end: then every gradient follows from those
rows alone, for all heads and all keys, and the formula is evaluated for them only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seo_kernels.benchmark.problems import Forward, Inputs, Problem, step
from seo_kernels.reference.attention import attention_tile

STRETCH = 100  # query rows at each of the three places: no multiple of any tile
TABLES = ("relative_key", "relative_value", "relative_bias")
# Roundings on top of twice the error of plain torch, which is small by luck at some sizes.
GRANTED = {torch.float32: 32, torch.bfloat16: 4}


class WrongResultError(Exception):
    """A result is too far from float64: its time would say nothing."""


@dataclass(frozen=True)
class Expected:
    """What the sampled rows lead to, in float64, and how far plain torch at the problem's dtype is off."""

    rows: Tensor  # (m,) sampled queries
    keys: Tensor  # (n,) keys that they see
    results: dict[str, Tensor]  # out and gradients, query's at ``rows``, key's and value's at ``keys``
    plain_errors: dict[str, float]  # of the worst row


def expect(problem: Problem, inputs: Inputs) -> Expected:
    """Evaluate the formula for the sampled rows in float64, and once more at the problem's own dtype."""
    rows = _sampled_rows(problem.query_length)
    everything = torch.arange(problem.key_length)
    visible = problem.pattern.element_mask(rows, everything, problem.query_offset)
    keys = visible.any(0).any(0).nonzero()[:, 0]
    exact = _formula(problem, inputs, rows, keys, torch.float64)
    plain = _formula(problem, inputs, rows, keys, problem.dtype)
    return Expected(rows, keys, exact, {name: _worst_row(plain[name], exact[name]) for name in exact})


def verify(problem: Problem, inputs: Inputs, forward: Forward, expected: Expected) -> float:
    """The error of the worst of all results, relative to it, in the root mean square.

    Raises:
        WrongResultError: the worst row of a result is more than twice as far off as that of plain torch at
            the same dtype, a result is not finite, or a gradient is not zero where no sampled row reaches.
    """
    grad_out = inputs.grad_out
    if grad_out is not None:
        grad_out = torch.zeros_like(grad_out).index_copy_(2, expected.rows, grad_out[:, :, expected.rows])
    results = step(problem, forward, inputs.leaves, grad_out)
    worst = 0.0
    for name, exact in expected.results.items():
        result = results[name].detach()
        if not bool(result.isfinite().all()):
            raise WrongResultError(f"{name} is not finite")
        sampled = _sampled(name, result, expected)
        error = _worst_row(sampled, exact)
        allowed = 2 * expected.plain_errors[name] + GRANTED[problem.dtype] * torch.finfo(problem.dtype).eps
        if not error <= allowed:
            raise WrongResultError(
                f"{name} has a row that is off by {error:.1e}, expected {allowed:.1e} at most"
            )
        worst = max(worst, float((sampled.double() - exact).norm() / exact.norm()))
    return worst


def _sampled_rows(length: int) -> Tensor:
    if length <= 3 * STRETCH:
        return torch.arange(length)
    starts = (0, (length - STRETCH) // 2, length - STRETCH)
    return torch.cat([torch.arange(start, start + STRETCH) for start in starts])


def _formula(
    problem: Problem, inputs: Inputs, rows: Tensor, keys: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    places = {"query": rows, "key": keys, "value": keys}
    leaves = {
        name: (leaf.detach()[:, :, places[name]] if name in places else leaf.detach())
        .to(dtype)
        .requires_grad_(problem.backward)
        for name, leaf in inputs.leaves.items()
    }

    def forward(leaves: Mapping[str, Tensor]) -> Tensor:
        text, layout = problem.pattern.encode()
        out, _ = attention_tile(
            leaves["query"],
            leaves["key"],
            leaves["value"],
            query_index=rows,
            key_index=keys,
            pattern=text,
            layout=layout,
            **{name: leaves.get(name) for name in TABLES},
            slopes=None,
            mask=None,
            key_lengths=None,
            query_segments=None,
            key_segments=None,
            sinks=None,
            seed=None,
            dropout_p=0.0,
            scale=1 / math.sqrt(problem.dim),
            softcap=0.0,
            query_offset=problem.query_offset,
        )
        return out

    grad_out = None if inputs.grad_out is None else inputs.grad_out[:, :, rows].to(dtype)
    results = step(problem, forward, leaves, grad_out)
    return {name: result.detach() for name, result in results.items()}


def _sampled(name: str, result: Tensor, expected: Expected) -> Tensor:
    """The part of a result that ``expected`` holds, after a look at the rest."""
    if name in ("out", "d query"):
        part = expected.rows
    elif name in ("d key", "d value"):
        part = expected.keys
    else:
        return result
    if name != "out":
        elsewhere = torch.ones(result.shape[2], dtype=torch.bool)
        elsewhere[part] = False
        if bool(result[:, :, elsewhere].any()):
            raise WrongResultError(f"{name} is not zero where no gradient reaches")
    return result[:, :, part]


def _worst_row(result: Tensor, exact: Tensor) -> float:
    """The worst row's error, relative to the root mean square of the rows that are not zero."""
    errors = (result.double() - exact).norm(dim=-1)
    sizes = exact.norm(dim=-1)
    size = sizes[sizes > 0].square().mean().sqrt()
    return float(errors.max() / size)
