"""A whole training step with LoRA beside the same step with PEFT."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from seo_kernels.benchmark.case import Case, Peer, faster
from seo_kernels.benchmark.model_engines import ours, peft
from seo_kernels.benchmark.model_problem import ModelProblem


@dataclass(frozen=True)
class ModelSizes:
    """Those of the small GPT-2, but for the vocabulary: see ``ModelProblem``."""

    layers: int = 12
    dim: int = 768
    heads: int = 12
    length: int = 256
    batch: int = 2
    vocabulary: int = 1024
    rank: int = 16


def model_cases(sizes: ModelSizes) -> list[Case]:
    """GPT-2 with LoRA on all linear layers, in float32 and bfloat16."""
    problem = ModelProblem(
        sizes.layers, sizes.dim, sizes.heads, sizes.length, sizes.batch, sizes.vocabulary, sizes.rank
    )
    title = f"GPT-2 with LoRA, {problem.sizes}"
    return [
        Case(
            "gpt2-lora-fp32-step",
            f"{title}, fp32 training step",
            problem,
            ours,
            (Peer("PEFT", peft, faster(1.6)),),
        ),
        Case(
            "gpt2-lora-bf16-step",
            f"{title}, bf16 training step",
            replace(problem, dtype=torch.bfloat16),
            ours,
            (Peer("PEFT", peft, faster(1.2)),),
        ),
    ]
