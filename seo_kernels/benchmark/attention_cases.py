"""Attention beside SDPA and FlexAttention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

import seo_kernels as sk
from seo_kernels.benchmark.attention_engines import flex, fused, masked_sdpa, sdpa
from seo_kernels.benchmark.attention_problem import AttentionProblem, random_blocks
from seo_kernels.benchmark.case import Case, Floor, MemoryFloor, Peer, faster, no_slower, within


@dataclass(frozen=True)
class AttentionSizes:
    batch: int = 1
    heads: int = 8
    length: int = 4096
    dim: int = 64
    window: int = 128  # to either side; also the reach of the tables
    block: int = 64
    long_factor: int = 16
    cache: int = 8192  # keys of the decoding step
    short: tuple[int, int, int] = (32, 12, 128)  # batch, heads, length


def attention_cases(sizes: AttentionSizes) -> list[Case]:
    """Dense, causal, local, with tables, block-sparse, long, a decoding step, short."""
    dense = AttentionProblem(sizes.batch, sizes.heads, sizes.length, sizes.length, sizes.dim)
    dense_bf16 = replace(dense, dtype=torch.bfloat16)
    local = replace(dense, pattern=sk.Local(sizes.window))
    local_bf16 = replace(local, dtype=torch.bfloat16)
    window = f"Local({sizes.window}, {sizes.window})"
    blocks = replace(dense, pattern=random_blocks(sizes.length, sizes.block))
    shaw = replace(local, tables=("key", "value"), reach=sizes.window)
    bias = replace(local, tables=("bias",), reach=sizes.window)
    long_length = sizes.long_factor * sizes.length
    long = replace(local, query_length=long_length, key_length=long_length)
    decode = replace(dense, query_length=1, key_length=sizes.cache)
    batch, heads, length = sizes.short
    short = replace(dense, batch=batch, heads=heads, query_length=length, key_length=length)

    sixth = Floor("at most 1/6 x time", 1 / 6, of_time=True)
    # two above linear: the smaller size may live in a nearer cache
    linear, tables = within(sizes.long_factor + 2), within(1.9)
    return [
        Case(
            "dense-fp32-fwd",
            "dense fp32 forward",
            dense,
            fused,
            (Peer("SDPA", sdpa, faster(2.2)),),
            share_floor=0.7,
        ),
        Case(
            "dense-fp32-fwd-bwd",
            "dense fp32 forward + backward",
            _backward(dense),
            fused,
            (Peer("SDPA", sdpa, faster(2.2)),),
        ),
        Case("dense-bf16-fwd", "dense bf16 forward", dense_bf16, fused, (Peer("SDPA", sdpa, faster(2.5)),)),
        Case(
            "dense-bf16-fwd-bwd",
            "dense bf16 forward + backward",
            _backward(dense_bf16),
            fused,
            (Peer("SDPA", sdpa, faster(2.0)),),
        ),
        Case(
            "causal-fp32-fwd",
            "causal fp32 forward",
            replace(dense, pattern=sk.Causal()),
            fused,
            (Peer("SDPA is_causal", sdpa, faster(2.2)),),
        ),
        Case(
            "local-fp32-fwd",
            f"{window} fp32 forward",
            local,
            fused,
            (
                Peer("FlexAttention", flex, faster(2.5)),
                Peer("SDPA, bool mask", masked_sdpa, faster(40)),
            ),
        ),
        Case(
            "local-fp32-fwd-bwd",
            f"{window} fp32 forward + backward",
            _backward(local),
            fused,
            (Peer("SDPA, bool mask", masked_sdpa, faster(35)),),
        ),
        Case(
            "local-bf16-fwd-bwd",
            f"{window} bf16 forward + backward",
            _backward(local_bf16),
            fused,
            (Peer("SDPA, bool mask", masked_sdpa, faster(20)),),
        ),
        Case(
            "local-shaw-fp32-fwd-bwd",
            f"{window} + Shaw keys and values, R={sizes.window}, fp32 forward + backward",
            _backward(shaw),
            fused,
            (Peer("ours, plain Local", fused, tables, _backward(local)),),
        ),
        Case(
            "local-bias-fp32-fwd",
            f"{window} + bias table fp32 forward",
            bias,
            fused,
            (Peer("FlexAttention", flex, faster(3)),),
        ),
        Case(
            "block-sparse-fp32-fwd",
            f"1/8 of {sizes.block}x{sizes.block} blocks fp32 forward",
            blocks,
            fused,
            (Peer("ours, dense", fused, sixth, dense),),
        ),
        Case(
            "block-sparse-fp32-fwd-bwd",
            f"1/8 of {sizes.block}x{sizes.block} blocks fp32 forward + backward",
            _backward(blocks),
            fused,
            (Peer("ours, dense", fused, sixth, _backward(dense)),),
        ),
        Case(
            "local-long-fp32-fwd-bwd",
            f"{window} fp32 forward + backward, T {sizes.length} -> {long_length}",
            _backward(long),
            fused,
            (Peer(f"ours, T {sizes.length}", fused, linear, _backward(local)),),
            memory_floor=MemoryFloor(2.0),
        ),
        Case(
            "decode-fp32-fwd",
            f"one row against Tk = {sizes.cache} fp32 forward",
            decode,
            fused,
            (Peer("SDPA", sdpa, no_slower()),),
        ),
        Case(
            "short-fp32-fwd-bwd",
            f"{short.sizes} dense fp32 forward + backward",
            _backward(short),
            fused,
            (Peer("SDPA", sdpa, faster(1.5)),),
        ),
    ]


def _backward(problem: AttentionProblem) -> AttentionProblem:
    return replace(problem, backward=True)
