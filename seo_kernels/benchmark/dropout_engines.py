"""Dropout on this library and on torch."""

from __future__ import annotations

from torch.nn import functional as F

import seo_kernels as sk
from seo_kernels.benchmark.dropout_problem import DropoutProblem
from seo_kernels.benchmark.problem import Forward


def dropout(problem: DropoutProblem) -> Forward:
    """``sk.dropout``."""
    return lambda leaves: sk.dropout(leaves["input"], problem.p)


def torch_dropout(problem: DropoutProblem) -> Forward:
    """``torch.nn.functional.dropout``."""
    return lambda leaves: F.dropout(leaves["input"], problem.p)
