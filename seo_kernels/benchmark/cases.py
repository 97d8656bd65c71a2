"""The cases: what is measured beside what, and the floor that each ratio has to reach."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

import seo_kernels as sk
from seo_kernels.benchmark.engines import Engine, flex, fused, masked_sdpa, sdpa
from seo_kernels.benchmark.problems import Problem

OURS = "seo_kernels"


@dataclass(frozen=True)
class Floor:
    """At least ``amount`` times as fast as the peer, or, ``of_time``, at most ``amount`` times its time."""

    text: str
    amount: float
    of_time: bool = False

    @property
    def speedup(self) -> float:
        """What the peer's time over ours has to reach."""
        return 1 / self.amount if self.of_time else self.amount

    def describe(self, speedup: float) -> str:
        """A measured speedup in the words of the floor."""
        return f"{1 / speedup:.3g} x time" if self.of_time else f"{speedup:.3g} x"


@dataclass(frozen=True)
class Peer:
    """What runs in turn with ours; on the problem of the case, unless it has its own."""

    name: str
    engine: Engine
    floor: Floor
    problem: Problem | None = None


@dataclass(frozen=True)
class Case:
    """``share_floor``: of the multiply-add peak. ``memory_floor``: peak memory over the tensors, at most."""

    name: str
    title: str
    problem: Problem
    peers: tuple[Peer, ...]
    share_floor: float | None = None
    memory_floor: float | None = None


@dataclass(frozen=True)
class Sizes:
    """What the cases are made of; the defaults are those that the published figures are for."""

    batch: int = 1
    heads: int = 8
    length: int = 4096
    dim: int = 64
    window: int = 128  # to either side; also the reach of the tables
    block: int = 64
    long_factor: int = 16
    cache: int = 8192  # keys of the decoding step
    short: tuple[int, int, int] = (32, 12, 128)  # batch, heads, length


def faster(amount: float) -> Floor:
    return Floor(f"at least {amount:g} x", amount)


def cases(sizes: Sizes | None = None) -> list[Case]:
    """Every case, in the order of the table of figures."""
    sizes = Sizes() if sizes is None else sizes
    dense = Problem(sizes.batch, sizes.heads, sizes.length, sizes.length, sizes.dim)
    dense_bf16 = replace(dense, dtype=torch.bfloat16)
    local = replace(dense, pattern=sk.Local(sizes.window))
    local_bf16 = replace(local, dtype=torch.bfloat16)
    window = f"Local({sizes.window}, {sizes.window})"
    blocks = replace(dense, pattern=_random_blocks(sizes))
    shaw = replace(local, tables=("key", "value"), reach=sizes.window)
    bias = replace(local, tables=("bias",), reach=sizes.window)
    long_length = sizes.long_factor * sizes.length
    long = replace(local, query_length=long_length, key_length=long_length)
    decode = replace(dense, query_length=1, key_length=sizes.cache)
    batch, heads, length = sizes.short
    short = replace(dense, batch=batch, heads=heads, query_length=length, key_length=length)

    sixth = Floor("at most 1/6 x time", 1 / 6, of_time=True)
    # two above linear: the smaller size may live in a nearer cache
    linear = Floor(f"at most {sizes.long_factor + 2} x time", sizes.long_factor + 2, of_time=True)
    tables = Floor("at most 1.9 x time", 1.9, of_time=True)
    return [
        Case(
            "dense-fp32-fwd",
            "dense fp32 forward",
            dense,
            (Peer("SDPA", sdpa, faster(2.2)),),
            share_floor=0.7,
        ),
        Case(
            "dense-fp32-fwd-bwd",
            "dense fp32 forward + backward",
            _backward(dense),
            (Peer("SDPA", sdpa, faster(2.2)),),
        ),
        Case("dense-bf16-fwd", "dense bf16 forward", dense_bf16, (Peer("SDPA", sdpa, faster(2.5)),)),
        Case(
            "dense-bf16-fwd-bwd",
            "dense bf16 forward + backward",
            _backward(dense_bf16),
            (Peer("SDPA", sdpa, faster(2.0)),),
        ),
        Case(
            "causal-fp32-fwd",
            "causal fp32 forward",
            replace(dense, pattern=sk.Causal()),
            (Peer("SDPA is_causal", sdpa, faster(2.2)),),
        ),
        Case(
            "local-fp32-fwd",
            f"{window} fp32 forward",
            local,
            (
                Peer("FlexAttention", flex, faster(2.5)),
                Peer("SDPA, bool mask", masked_sdpa, faster(40)),
            ),
        ),
        Case(
            "local-fp32-fwd-bwd",
            f"{window} fp32 forward + backward",
            _backward(local),
            (Peer("SDPA, bool mask", masked_sdpa, faster(35)),),
        ),
        Case(
            "local-bf16-fwd-bwd",
            f"{window} bf16 forward + backward",
            _backward(local_bf16),
            (Peer("SDPA, bool mask", masked_sdpa, faster(20)),),
        ),
        Case(
            "local-shaw-fp32-fwd-bwd",
            f"{window} + Shaw keys and values, R={sizes.window}, fp32 forward + backward",
            _backward(shaw),
            (Peer("ours, plain Local", fused, tables, _backward(local)),),
        ),
        Case(
            "local-bias-fp32-fwd",
            f"{window} + bias table fp32 forward",
            bias,
            (Peer("FlexAttention", flex, faster(3)),),
        ),
        Case(
            "block-sparse-fp32-fwd",
            f"1/8 of {sizes.block}x{sizes.block} blocks fp32 forward",
            blocks,
            (Peer("ours, dense", fused, sixth, dense),),
        ),
        Case(
            "block-sparse-fp32-fwd-bwd",
            f"1/8 of {sizes.block}x{sizes.block} blocks fp32 forward + backward",
            _backward(blocks),
            (Peer("ours, dense", fused, sixth, _backward(dense)),),
        ),
        Case(
            "local-long-fp32-fwd-bwd",
            f"{window} fp32 forward + backward, T {sizes.length} -> {long_length}",
            _backward(long),
            (Peer(f"ours, T {sizes.length}", fused, linear, _backward(local)),),
            memory_floor=2.0,
        ),
        Case(
            "decode-fp32-fwd",
            f"one row against Tk = {sizes.cache} fp32 forward",
            decode,
            (Peer("SDPA", sdpa, Floor("no slower", 1.0)),),
        ),
        Case(
            "short-fp32-fwd-bwd",
            f"{short.sizes} dense fp32 forward + backward",
            _backward(short),
            (Peer("SDPA", sdpa, faster(1.5)),),
        ),
    ]


def _backward(problem: Problem) -> Problem:
    return replace(problem, backward=True)


def _random_blocks(sizes: Sizes) -> sk.BlockSparse:
    """An eighth of all blocks, drawn without a rule; the same for all heads."""
    edge = -(-sizes.length // sizes.block)
    order = torch.randperm(edge * edge, generator=torch.Generator().manual_seed(0))
    layout = torch.zeros(edge * edge, dtype=torch.bool)
    layout[order[: edge * edge // 8]] = True
    return sk.BlockSparse(layout.view(edge, edge), sizes.block)
