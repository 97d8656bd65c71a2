"""Losses beside torch's, in time and in memory."""

from __future__ import annotations

from dataclasses import dataclass

from seo_kernels.benchmark.case import Case, MemoryFloor, Peer, no_slower
from seo_kernels.benchmark.loss_engines import fused, separate
from seo_kernels.benchmark.loss_problem import LossProblem


@dataclass(frozen=True)
class LossSizes:
    tokens: int = 4096
    dim: int = 512
    vocabulary: int = 32768


def loss_cases(sizes: LossSizes) -> list[Case]:
    """The output layer and its cross entropy in one."""
    problem = LossProblem(sizes.tokens, sizes.dim, sizes.vocabulary)
    torch_name = "F.linear + F.cross_entropy"
    return [
        Case(
            "linear-cross-entropy-fp32-fwd-bwd",
            f"linear_cross_entropy, {problem.sizes}, fp32 forward + backward",
            problem,
            fused,
            (Peer(torch_name, separate, no_slower()),),
            memory_floor=MemoryFloor(1 / 4, peer=torch_name),
        ),
    ]
