"""No figure without a right result: how far a result may be from float64."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seo_kernels.benchmark.problem import Results

# Roundings on top of twice the error of plain torch, which is small by luck at some sizes.
GRANTED = {torch.float32: 32, torch.bfloat16: 4}


class WrongResultError(Exception):
    """A result is too far from float64: its time would say nothing."""


@dataclass(frozen=True)
class Expected:
    """``exact``: the results in float64. ``allowed``: the error of the worst row of each."""

    exact: Results
    allowed: dict[str, float]


def expectation(exact: Results, plain: Mapping[str, Tensor], dtype: torch.dtype) -> Expected:
    """Allow twice the error of ``plain``, which plain torch computed at ``dtype``, and a few roundings."""
    granted = GRANTED[dtype] * torch.finfo(dtype).eps
    return Expected(exact, {name: 2 * worst_row(plain[name], exact[name]) + granted for name in exact})


def check_results(results: Mapping[str, Tensor], expected: Expected) -> float:
    """The error of the worst of all results, relative to it, in the root mean square.

    Raises:
        WrongResultError: a result is not finite, or its worst row is further off than allowed.
    """
    worst = 0.0
    for name, exact in expected.exact.items():
        result = results[name].detach()
        check_finite(name, result)
        error, allowed = worst_row(result, exact), expected.allowed[name]
        if not error <= allowed:
            raise WrongResultError(
                f"{name} has a row that is off by {error:.1e}, expected {allowed:.1e} at most"
            )
        worst = max(worst, float((result.double() - exact).norm() / exact.norm()))
    return worst


def check_finite(name: str, result: Tensor) -> None:
    """Raise WrongResultError where it holds anything but numbers."""
    if not bool(result.isfinite().all()):
        raise WrongResultError(f"{name} is not finite")


def worst_row(result: Tensor, exact: Tensor) -> float:
    """The worst row's error, relative to the root mean square of the rows that are not zero."""
    errors = (result.double() - exact).norm(dim=-1)
    sizes = exact.norm(dim=-1)
    size = sizes[sizes > 0].square().mean().sqrt()
    return float(errors.max() / size)
