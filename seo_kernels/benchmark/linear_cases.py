"""Linear layers beside ``F.linear``; LoRA beside the frozen layer that it adapts, alone, and beside PEFT."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from seo_kernels.benchmark.case import Case, Peer, faster, within
from seo_kernels.benchmark.linear_engines import linear, lora_linear, peft_formula, torch_linear
from seo_kernels.benchmark.linear_problem import LinearProblem


@dataclass(frozen=True)
class LinearSizes:
    tokens: int = 2048
    in_features: int = 768
    out_features: int = 3072
    rank: int = 16
    dropout_p: float = 0.1


def linear_cases(sizes: LinearSizes) -> list[Case]:
    """LoRA in bfloat16 without and with dropout, in float32; a linear layer whole, and with GELU."""
    dense = LinearProblem(sizes.tokens, sizes.in_features, sizes.out_features)
    frozen = replace(dense, frozen=True)
    frozen_bf16 = replace(frozen, dtype=torch.bfloat16)
    lora_bf16 = replace(frozen_bf16, rank=sizes.rank)
    dropping = replace(lora_bf16, dropout_p=sizes.dropout_p)
    what, alone, peft = f"LoRA r={sizes.rank}", "frozen nn.Linear alone", "PEFT's formula"
    return [
        Case(
            "lora-bf16-fwd-bwd",
            f"{what} {dense.sizes} bf16 forward + backward",
            lora_bf16,
            lora_linear,
            (
                Peer(alone, torch_linear, within(1.08), frozen_bf16),
                Peer(peft, peft_formula, faster(1)),
            ),
        ),
        Case(
            "lora-dropout-bf16-fwd-bwd",
            f"{what}, dropout {sizes.dropout_p:g}, {dense.sizes} bf16 forward + backward",
            dropping,
            lora_linear,
            (
                Peer(alone, torch_linear, within(1.12), frozen_bf16),
                Peer(peft, peft_formula, faster(1), replace(dropping, torch_bits=True)),
            ),
        ),
        Case(
            "lora-fp32-fwd-bwd",
            f"{what} {dense.sizes} fp32 forward + backward",
            replace(frozen, rank=sizes.rank),
            lora_linear,
            (Peer(alone, torch_linear, within(0.6), frozen),),
        ),
        Case(
            "linear-fp32-fwd-bwd",
            f"linear {dense.sizes} fp32 forward + backward",
            dense,
            linear,
            (Peer("F.linear", torch_linear, faster(1.9)),),
            share_floor=0.8,
        ),
        Case(
            "linear-gelu-fp32-fwd-bwd",
            f"linear {dense.sizes} and GELU fp32 forward + backward",
            replace(dense, activation="gelu"),
            linear,
            (Peer("F.gelu(F.linear)", torch_linear, faster(2.2)),),
        ),
    ]
