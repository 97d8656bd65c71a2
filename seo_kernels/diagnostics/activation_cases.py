"""The features of ``sk.bias_act`` and ``sk.gated_act`` that the gradient verification runs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from seo_kernels.diagnostics.checked_op import CheckedOp, Feature, Problem, Size
from seo_kernels.ops.checks import ACTIVATIONS

LEAST_DISTANCE = 0.05  # of every entry from a kink, which finite differences must not cross


def ops() -> tuple[CheckedOp, CheckedOp]:
    """``sk.bias_act`` and ``sk.gated_act`` against ``sk.reference``."""
    import seo_kernels as sk

    bias_act = [Feature(f"{name} with bias", _maker(_bias_act_problem, name)) for name in ACTIVATIONS]
    bias_act += [
        Feature("gelu without bias", _maker(_bias_act_problem, "gelu", bias=False)),
        Feature("silu of a slice", _maker(_bias_act_problem, "silu", sliced=True)),
        Feature("leaky_relu, slope 0.3", _maker(_bias_act_problem, "leaky_relu", negative_slope=0.3)),
    ]
    gated_act = [Feature(f"{name}, halves", _maker(_gated_act_problem, name)) for name in ACTIVATIONS]
    gated_act.append(Feature("silu, up apart", _maker(_gated_act_problem, "silu", apart=True)))
    return (
        CheckedOp("bias_act", sk.bias_act, sk.reference.bias_act, tuple(bias_act)),
        CheckedOp("gated_act", sk.gated_act, sk.reference.gated_act, tuple(gated_act)),
    )


def _maker(problem: Callable[..., Problem], name: str, **options: Any) -> Callable[[Size, str], Problem]:
    return lambda size, device: problem(name, size, **options)


def _draw(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _off_kink(values: Tensor) -> Tensor:
    return torch.where(values.abs() < LEAST_DISTANCE, values + 3 * LEAST_DISTANCE, values)


def _bias_act_problem(
    name: str, size: Size, bias: bool = True, sliced: bool = False, negative_slope: float | None = None
) -> Problem:
    rows, columns = (3, 5) if size == "tiny" else (130, 257)
    shift = _draw(columns)
    inputs = {"input": 2 * _off_kink(_draw(rows, 2 * columns if sliced else columns))}
    if bias:
        summed = inputs["input"][:, :columns] + shift
        inputs["input"][:, :columns] += _off_kink(summed) - summed
        inputs["bias"] = shift
    options = {} if negative_slope is None else {"negative_slope": negative_slope}

    def call(function: Callable[..., Any], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (function(values["input"][:, :columns], values.get("bias"), name, **options),)

    return Problem(inputs, call)


def _gated_act_problem(name: str, size: Size, apart: bool = False) -> Problem:
    rows, columns = (3, 4) if size == "tiny" else (130, 101)
    gate, up = 2 * _off_kink(_draw(rows, columns)), _draw(columns, rows).mT
    inputs = {"input": gate, "up": up} if apart else {"input": torch.cat([gate, up], 1)}

    def call(function: Callable[..., Any], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return (function(values["input"], name, up=values.get("up")),)

    return Problem(inputs, call)
