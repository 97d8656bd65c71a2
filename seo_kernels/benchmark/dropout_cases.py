"""Dropout beside torch's."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from seo_kernels.benchmark.case import Case, Peer, faster
from seo_kernels.benchmark.dropout_engines import dropout, torch_dropout
from seo_kernels.benchmark.dropout_problem import DropoutProblem


@dataclass(frozen=True)
class DropoutSizes:
    """Those of the activations' cases."""

    rows: int = 2048
    columns: int = 3072
    p: float = 0.1


def dropout_cases(sizes: DropoutSizes) -> list[Case]:
    """In float32 and bfloat16."""
    problem = DropoutProblem(sizes.rows, sizes.columns, sizes.p)
    return [
        Case(
            f"dropout-{name}-fwd-bwd",
            f"dropout {sizes.p:g} {problem.sizes} {name} forward + backward",
            replace(problem, dtype=dtype),
            dropout,
            (Peer("F.dropout", torch_dropout, faster(8), replace(problem, dtype=dtype, torch_bits=True)),),
        )
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))
    ]
