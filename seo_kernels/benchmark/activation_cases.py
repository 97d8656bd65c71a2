"""Activations beside eager and compiled torch, and beside the copy bandwidth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from seo_kernels.benchmark.activation_engines import compiled, eager, fused
from seo_kernels.benchmark.activation_problem import ActivationProblem
from seo_kernels.benchmark.case import Case, Peer, faster


@dataclass(frozen=True)
class ActivationSizes:
    rows: int = 2048
    columns: int = 3072


def activation_cases(sizes: ActivationSizes) -> list[Case]:
    """Bias and GELU, in float32 and bfloat16; bias and the GELU with tanh; SwiGLU of two tensors."""
    gelu = ActivationProblem(sizes.rows, sizes.columns, "gelu")
    gelu_peers = (Peer("eager", eager, faster(2.5)), Peer("torch.compile", compiled, faster(2)))
    return [
        Case(
            "bias-gelu-fp32-fwd-bwd",
            f"bias + GELU {gelu.sizes} fp32 forward + backward",
            gelu,
            fused,
            gelu_peers,
            copy_floor=0.7,
        ),
        Case(
            "bias-gelu-bf16-fwd-bwd",
            f"bias + GELU {gelu.sizes} bf16 forward + backward",
            replace(gelu, dtype=torch.bfloat16),
            fused,
            gelu_peers,
            copy_floor=0.7,
        ),
        Case(
            "bias-gelu-tanh-fp32-fwd-bwd",
            f"bias + tanh-GELU {gelu.sizes} fp32 forward + backward",
            replace(gelu, activation="gelu_tanh"),
            fused,
            (Peer("eager", eager, faster(5)),),
        ),
        Case(
            "swiglu-fp32-fwd-bwd",
            f"SwiGLU of two {gelu.sizes} fp32 forward + backward",
            replace(gelu, activation="silu", gated=True),
            fused,
            (Peer("eager", eager, faster(1.8)),),
        ),
    ]
