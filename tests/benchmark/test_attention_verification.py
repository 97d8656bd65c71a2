"""Attention: a wrong result is refused, wherever it is wrong; a right one is not."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import seo_kernels as sk
from seo_kernels.benchmark.attention_engines import fused
from seo_kernels.benchmark.attention_problem import AttentionProblem
from seo_kernels.benchmark.verification import WrongResultError

LENGTH = 500  # longer than what is sampled
PROBLEM = AttentionProblem(
    2, 2, LENGTH, LENGTH, 16, pattern=sk.Local(9), tables=("key", "value"), reach=9, backward=True
)

Spoil = Callable[[Tensor], Tensor]


class SpoiledBackward(torch.autograd.Function):
    """The identity, whose gradient goes through ``spoil``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spoil: Spoil) -> Tensor:
        ctx.spoil = spoil
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.spoil(grad.clone()), None


def longer(x: Tensor) -> Tensor:
    return x * 1.001


def wrong_row(x: Tensor) -> Tensor:
    """One row of the last head, the last of all."""
    rows = x.flatten(0, -2).clone()
    rows[-1] *= 1.001
    return rows.view_as(x)


def not_a_number(x: Tensor) -> Tensor:
    return x.index_fill(x.ndim - 1, torch.tensor([0]), torch.nan)


def leaking(x: Tensor) -> Tensor:
    """Every key gets a little."""
    return x + 1e-9


def check(problem: AttentionProblem, result: Spoil | None = None, **gradients: Spoil) -> float:
    inputs = problem.make_inputs()
    honest = fused(problem)

    def forward(leaves: Mapping[str, Tensor]) -> Tensor:
        spoiled = {name: SpoiledBackward.apply(leaves[name], spoil) for name, spoil in gradients.items()}
        out = honest({**leaves, **spoiled})
        return out if result is None else result(out)

    return problem.verify(inputs, forward, problem.expect(inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("length", [100, LENGTH])
@pytest.mark.parametrize("backward", [False, True])
def test_right_results_pass(dtype: torch.dtype, length: int, backward: bool) -> None:
    problem = replace(PROBLEM, dtype=dtype, query_length=length, key_length=length, backward=backward)
    error = check(problem)
    assert error < (1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("spoil", [longer, wrong_row, not_a_number])
def test_a_wrong_output_is_refused(spoil: Spoil) -> None:
    with pytest.raises(WrongResultError, match=r"^out "):
        check(replace(PROBLEM, backward=False), spoil)


@pytest.mark.parametrize("spoil", [longer, wrong_row, not_a_number])
@pytest.mark.parametrize("name", ["query", "key", "value", "relative_key", "relative_value"])
def test_a_wrong_gradient_is_refused(name: str, spoil: Spoil) -> None:
    with pytest.raises(WrongResultError, match=rf"^d {name} "):
        check(PROBLEM, **{name: spoil})


@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_a_gradient_out_of_reach_is_refused(name: str) -> None:
    with pytest.raises(WrongResultError, match=rf"^d {name} is not zero where no gradient reaches"):
        check(PROBLEM, **{name: leaking})


def test_another_pattern_is_refused() -> None:
    inputs = PROBLEM.make_inputs()
    other = fused(replace(PROBLEM, pattern=sk.Local(9, 8)))
    with pytest.raises(WrongResultError, match=r"^out has a row that is off by"):
        PROBLEM.verify(inputs, other, PROBLEM.expect(inputs))
