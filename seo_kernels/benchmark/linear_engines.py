"""Linear layers and adapters on this library and on its peers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

import seo_kernels as sk
from seo_kernels.benchmark.linear_problem import SCALING, LinearProblem
from seo_kernels.benchmark.problem import Forward


def linear(problem: LinearProblem) -> Forward:
    """``sk.linear``."""
    return lambda leaves: sk.linear(leaves["input"], leaves["weight"], leaves["bias"], problem.activation)


def lora_linear(problem: LinearProblem) -> Forward:
    """``sk.lora_linear``."""
    return lambda leaves: sk.lora_linear(**leaves, scaling=SCALING, dropout_p=problem.dropout_p)


def torch_linear(problem: LinearProblem) -> Forward:
    """``F.linear``, what ``nn.Linear`` does, and ``F.gelu`` where the problem has it."""
    if problem.activation not in (None, "gelu"):
        raise ValueError(f"activation is {problem.activation!r}, expected None or 'gelu'")

    def forward(leaves: Mapping[str, Tensor]) -> Tensor:
        out = F.linear(leaves["input"], leaves["weight"], leaves["bias"])
        return out if problem.activation is None else F.gelu(out)

    return forward


def peft_formula(problem: LinearProblem) -> Forward:
    """What PEFT's LoRA layer computes, in plain torch: base(x) + lora_B(lora_A(dropout(x))) * scaling."""

    def forward(leaves: Mapping[str, Tensor]) -> Tensor:
        out = F.linear(leaves["input"], leaves["weight"], leaves["bias"])
        dropped = F.dropout(leaves["input"], problem.dropout_p) if problem.dropout_p else leaves["input"]
        return out + F.linear(F.linear(dropped, leaves["lora_a"]), leaves["lora_b"]) * SCALING

    return forward


def compiled_peft_formula(problem: LinearProblem) -> Forward:
    """``torch.compile`` of the same; the first call compiles."""
    compiled: Forward = torch.compile(peft_formula(problem), dynamic=False)
    return compiled
