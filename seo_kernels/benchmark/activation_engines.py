"""Activations on this library, on eager torch and on compiled torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

import seo_kernels as sk
from seo_kernels._extras import require
from seo_kernels.benchmark.activation_problem import ActivationProblem
from seo_kernels.benchmark.problem import Forward


def fused(problem: ActivationProblem) -> Forward:
    """``sk.bias_act`` or ``sk.gated_act``."""

    def forward(leaves: Mapping[str, Tensor]) -> Tensor:
        if problem.gated:
            return sk.gated_act(leaves["input"], problem.activation, up=leaves["up"])
        return sk.bias_act(leaves["input"], leaves["bias"], problem.activation)

    return forward


def eager(problem: ActivationProblem) -> Forward:
    """As a model in plain torch writes it."""
    formula = _formula(problem)
    return lambda leaves: formula(*leaves.values())


def compiled(problem: ActivationProblem) -> Forward:
    """``torch.compile`` of the same; the first call compiles."""
    formula = torch.compile(_formula(problem), dynamic=False)
    return lambda leaves: formula(*leaves.values())


def liger(problem: ActivationProblem) -> Forward:
    """Liger-Kernel's SwiGLU."""
    if (problem.activation, problem.gated) != ("silu", True):
        raise ValueError(f"activation is {problem.activation!r}, expected a gated silu")
    ops = require("liger_kernel.ops.swiglu", extra="peers", purpose="run beside Liger")
    return lambda leaves: ops.LigerSiLUMulFunction.apply(leaves["input"], leaves["up"])


def _formula(problem: ActivationProblem) -> Callable[[Tensor, Tensor], Tensor]:
    formulas: dict[tuple[str, bool], Callable[[Tensor, Tensor], Tensor]] = {
        ("gelu", False): lambda input, bias: F.gelu(input + bias),
        ("gelu_tanh", False): lambda input, bias: F.gelu(input + bias, approximate="tanh"),
        ("silu", True): lambda input, up: F.silu(input) * up,
    }
    return formulas[problem.activation, problem.gated]
