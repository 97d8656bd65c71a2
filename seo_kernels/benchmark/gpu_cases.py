"""What a GPU is measured on: sizes that fill it, and the peers that run there."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

import seo_kernels as sk
from seo_kernels.benchmark import activation_engines, attention_engines, linear_engines, loss_engines
from seo_kernels.benchmark.activation_problem import ActivationProblem
from seo_kernels.benchmark.attention_problem import AttentionProblem, random_blocks
from seo_kernels.benchmark.case import (
    Case,
    Floor,
    MemoryFloor,
    Peer,
    at_rate,
    beside,
    faster,
    no_slower,
    within,
)
from seo_kernels.benchmark.linear_problem import LinearProblem
from seo_kernels.benchmark.loss_problem import LossProblem

BFLOAT16 = torch.bfloat16


@dataclass(frozen=True)
class GpuSizes:
    """The defaults are those that the published figures are for."""

    rows: int = 16384  # of activations, tokens of linear layers
    columns: int = 8192
    features: int = 4096
    rank: int = 16
    heads: int = 16
    dim: int = 128
    length: int = 8192
    long: int = 32768
    window: int = 1024
    reach: int = 128
    block: int = 128  # of block-sparse attention, an eighth of whose blocks are there
    vocabulary: int = 128256


def gpu_cases(sizes: GpuSizes | None = None) -> list[Case]:
    """Activations, linear layers, losses, attention."""
    sizes = GpuSizes() if sizes is None else sizes
    found = [*_activations(sizes), *_linear(sizes), *_losses(sizes), *_attention(sizes)]
    return [replace(case, device="cuda") for case in found]


def _activations(sizes: GpuSizes) -> list[Case]:
    gelu = ActivationProblem(sizes.rows, sizes.columns, "gelu", dtype=BFLOAT16)
    compiled = Peer("torch.compile", activation_engines.compiled, no_slower())
    eager = Peer("eager", activation_engines.eager, beside())
    liger = Peer("Liger", activation_engines.liger, beside())
    swiglu = replace(gelu, activation="silu", gated=True)
    entries = {
        "bias-gelu-bf16": (gelu, (compiled, eager)),
        "bias-gelu-fp32": (replace(gelu, dtype=torch.float32), (compiled, eager)),
        "bias-gelu-tanh-bf16": (replace(gelu, activation="gelu_tanh"), (compiled, eager)),
        "swiglu-bf16": (swiglu, (compiled, eager, liger)),
    }
    return [
        Case(
            f"gpu-{name}-fwd-bwd",
            f"{name} {problem.sizes} forward + backward",
            problem,
            activation_engines.fused,
            peers,
            copy_floor=0.85,
        )
        for name, (problem, peers) in entries.items()
    ]


def _linear(sizes: GpuSizes) -> list[Case]:
    dense = LinearProblem(sizes.rows, sizes.features, sizes.features, dtype=BFLOAT16)
    frozen = replace(dense, frozen=True)
    lora = replace(frozen, rank=sizes.rank)
    dropping = replace(lora, dropout_p=0.1)
    alone = Peer("frozen nn.Linear alone", linear_engines.torch_linear, within(1.08), frozen)
    formula = linear_engines.peft_formula
    compiled = linear_engines.compiled_peft_formula
    torch_bits = replace(dropping, torch_bits=True)
    return [
        Case(
            "gpu-lora-bf16-fwd-bwd",
            f"LoRA {lora.sizes} bf16 forward + backward",
            lora,
            linear_engines.lora_linear,
            (
                alone,
                Peer("PEFT's formula, compiled", compiled, faster(1.2)),
                Peer("PEFT's formula", formula, beside()),
            ),
        ),
        Case(
            "gpu-lora-dropout-bf16-fwd-bwd",
            f"LoRA, dropout 0.1, {lora.sizes} bf16 forward + backward",
            dropping,
            linear_engines.lora_linear,
            (alone, Peer("PEFT's formula", formula, beside(), torch_bits)),
        ),
        Case(
            "gpu-linear-gelu-bf16-fwd-bwd",
            f"linear and GELU {dense.sizes} bf16 forward + backward",
            replace(dense, activation="gelu"),
            linear_engines.linear,
            (Peer("F.gelu(F.linear)", linear_engines.torch_linear, beside()),),
        ),
    ]


def _losses(sizes: GpuSizes) -> list[Case]:
    problem = LossProblem(sizes.rows, sizes.features, sizes.vocabulary, dtype=BFLOAT16)
    return [
        Case(
            "gpu-linear-cross-entropy-bf16-fwd-bwd",
            f"linear_cross_entropy, {problem.sizes}, bf16 forward + backward",
            problem,
            loss_engines.fused,
            (
                Peer("F.linear + F.cross_entropy", loss_engines.separate, beside()),
                Peer("Liger", loss_engines.liger, no_slower()),
            ),
            memory_floor=MemoryFloor(1, peer="Liger"),
        ),
    ]


def _backends(floor: Floor) -> tuple[Peer, ...]:
    """Faster than each is faster than the best."""
    engines = attention_engines.SDPA_BACKENDS.items()
    return tuple(Peer(f"SDPA {name}", engine, floor) for name, engine in engines)


def _attention(sizes: GpuSizes) -> list[Case]:
    return [case for backward in (False, True) for case in _attention_one_way(sizes, backward)]


def _attention_one_way(sizes: GpuSizes, backward: bool) -> list[Case]:
    dense = AttentionProblem(
        1, sizes.heads, sizes.length, sizes.length, sizes.dim, dtype=BFLOAT16, backward=backward
    )
    window = sk.Local(sizes.window, 0)
    local = replace(dense, query_length=sizes.long, key_length=sizes.long, pattern=window)
    near = replace(dense, pattern=sk.Local(sizes.reach))
    shaw = replace(near, tables=("key", "value"), reach=sizes.reach)
    sparse = replace(dense, pattern=random_blocks(sizes.length, sizes.block))
    biased = replace(near, tables=("bias",), reach=sizes.reach)
    tensor_cores = faster(0.9) if backward else faster(0.95)
    flex = functools.partial(Peer, "FlexAttention", attention_engines.flex)
    masked = Peer("SDPA, bool mask", attention_engines.masked_sdpa, faster(1))
    ours = attention_engines.fused
    entries = {
        "dense-bf16": (dense, (*_backends(tensor_cores), flex(faster(1.3)))),
        "dense-fp32": (replace(dense, dtype=torch.float32), _backends(beside())),
        "causal-bf16": (replace(dense, pattern=sk.Causal()), (*_backends(tensor_cores), flex(faster(1.3)))),
        "local-bf16": (local, (masked, flex(faster(1.3)), Peer("ours, dense", ours, at_rate(0.6), dense))),
        "local-shaw-bf16": (
            shaw,
            (
                Peer("FlexAttention, learned bias", attention_engines.flex, faster(2), biased),
                Peer("ours, plain Local", ours, beside(), near),
            ),
        ),
        "block-sparse-bf16": (sparse, (flex(faster(1.2)),)),
    }
    way, words = ("fwd-bwd", "forward + backward") if backward else ("fwd", "forward")
    return [
        Case(
            f"gpu-{name}-{way}",
            f"attention {name} {problem.sizes} {words}",
            problem,
            attention_engines.fused,
            peers,
        )
        for name, (problem, peers) in entries.items()
    ]
