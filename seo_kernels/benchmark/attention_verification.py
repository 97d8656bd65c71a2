"""Attention's output and gradients against the formula in float64.

The whole problem in float64 would take longer than the benchmark. So the gradient of the output is zero but
for some query rows, at the beginning, in the middle and at the end: then every gradient follows from those
rows alone, for all heads and all keys, and the formula is evaluated for them only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from seo_kernels.benchmark.problem import Forward, Inputs, Results
from seo_kernels.benchmark.verification import (
    Expected,
    WrongResultError,
    check_finite,
    check_results,
    expectation,
)
from seo_kernels.reference.attention import attention_tile

if TYPE_CHECKING:
    from seo_kernels.benchmark.attention_problem import AttentionProblem

STRETCH = 100  # query rows at each of the three places: no multiple of any tile
TABLES = ("relative_key", "relative_value", "relative_bias")


@dataclass(frozen=True)
class AttentionExpected:
    """``results``: out and gradients, query's at the sampled rows, key's and value's at the keys they see."""

    rows: Tensor  # (m,) sampled queries
    keys: Tensor  # (n,) keys that they see
    results: Expected


def expect(problem: AttentionProblem, inputs: Inputs) -> AttentionExpected:
    """Evaluate the formula for the sampled rows in float64, and once more at the problem's own dtype."""
    rows = _sampled_rows(problem.query_length)
    everything = torch.arange(problem.key_length)
    visible = problem.pattern.element_mask(rows, everything, problem.query_offset)
    keys = visible.any(0).any(0).nonzero()[:, 0]
    exact = _formula(problem, inputs, rows, keys, torch.float64)
    plain = _formula(problem, inputs, rows, keys, problem.dtype)
    return AttentionExpected(rows, keys, expectation(exact, plain, problem.dtype))


def verify(problem: AttentionProblem, inputs: Inputs, forward: Forward, expected: AttentionExpected) -> float:
    """The error of the worst of all results, relative to it, in the root mean square.

    Raises:
        WrongResultError: the worst row of a result is more than twice as far off as that of plain torch at
            the same dtype, a result is not finite, or a gradient is not zero where no sampled row reaches.
    """
    grad_out = inputs.grad_out
    if grad_out is not None:
        grad_out = torch.zeros_like(grad_out).index_copy_(2, expected.rows, grad_out[:, :, expected.rows])
    results = problem.step(forward, Inputs(inputs.leaves, grad_out))
    sampled = {name: _sampled(name, result.detach(), expected) for name, result in results.items()}
    return check_results(sampled, expected.results)


def _sampled_rows(length: int) -> Tensor:
    if length <= 3 * STRETCH:
        return torch.arange(length)
    starts = (0, (length - STRETCH) // 2, length - STRETCH)
    return torch.cat([torch.arange(start, start + STRETCH) for start in starts])


def _formula(
    problem: AttentionProblem, inputs: Inputs, rows: Tensor, keys: Tensor, dtype: torch.dtype
) -> Results:
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
    results = problem.step(forward, Inputs(leaves, grad_out))
    return {name: result.detach() for name, result in results.items()}


def _sampled(name: str, result: Tensor, expected: AttentionExpected) -> Tensor:
    """The part of a result that ``expected`` holds, after a look at the rest."""
    check_finite(name, result)
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
