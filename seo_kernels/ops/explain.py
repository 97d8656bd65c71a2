"""``sk.explain``: which kernel serves a call of ``sk.attention``, why, and what it visits."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seo_kernels import _library
from seo_kernels.ops.arguments import AttentionArguments, normalise

KEY_TILE = 64  # keys per tile: kPanel of csrc/params/tile_plan.h
CAPABILITY_VARIABLE = "SEO_KERNELS_CPU_CAPABILITY"
BFLOAT16_INSTRUCTIONS = {"avx512_bf16": "vdpbf16ps", "amx_bf16": "tdpbf16ps on tile registers"}


@dataclass(frozen=True)
class Explanation:
    """What serves a call, and why. ``str()`` tells it in words.

    Tiles are counted over the heads; they are None where the reference serves, which has no tiles.
    """

    device: str  # "cpu", "cuda"
    kernel: str  # "cpu/amx_bf16", "cuda/simt", "cuda/sm80", or "reference"
    reasons: tuple[str, ...]
    tiles_visited: int | None
    tiles_total: int | None
    masked_tiles: int | None  # those of the visited that need an element mask for the pattern

    def __str__(self) -> str:
        return "\n- ".join((f"{self.kernel} serves", *self.reasons))


def explain(
    query: Tensor, key: Tensor, value: Tensor, *, return_lse: bool = False, **options: Any
) -> Explanation:
    """Which kernel serves ``attention`` with the same arguments, and why.

    Args:
        query, key, value, return_lse: as for ``attention``.
        options: the keyword arguments of ``attention``.

    Raises:
        TypeError, ValueError: as ``attention`` does. Nothing is computed, and no random number is drawn.

    >>> import torch, seo_kernels as sk
    >>> query, key, value = torch.zeros(3, 1, 2, 4096, 64).unbind()
    >>> explanation = explain(query, key, value, pattern=sk.Local(128))
    >>> explanation.device
    'cpu'
    """
    generators = [query.device] if isinstance(query, Tensor) and query.device.type == "cuda" else []
    with torch.random.fork_rng(devices=generators):
        arguments = normalise(query, key, value, **options)
    device = arguments.query.device
    if not _library.available(device):
        why = (_library.reason(device), "plain torch computes the whole Tq x Tk matrix, and masks it")
        return Explanation(device.type, "reference", why, None, None, None)
    tile_rows, kernel, *reasons = _chosen(arguments)
    visited, masked = _tiles(arguments, arguments.pattern, tile_rows)
    total, _ = _tiles(arguments, "dense", tile_rows)
    reasons += [
        f"pattern '{arguments.pattern}' visits {visited} of {total} tiles, {masked} with an element mask",
    ]
    if arguments.key_lengths is not None or arguments.query_segments is not None:
        reasons.append("key_lengths and segment_ids skip further tiles while it runs")
    if arguments.mask is not None:
        reasons.append(
            "mask is read in every visited tile: say with a pattern what it can say, to skip tiles"
        )
    return Explanation(device.type, kernel, tuple(reasons), visited, total, masked)


def _chosen(arguments: AttentionArguments) -> tuple[Any, ...]:
    """Queries per tile (0: the CPU's), the kernel that serves, and why it and no other."""
    dtype = arguments.query.dtype
    if arguments.query.device.type == "cuda":
        tier, tile_rows, why = torch.ops.seo_kernels.attention_tier(*arguments.values())
        built = ", ".join(_library.cuda_architectures())
        return tile_rows, f"cuda/{tier}", why, f"compiled for {built}", _arithmetic_of_tier(dtype, tier)
    capability = torch.ops.seo_kernels.cpu_capability()
    return 0, f"cpu/{capability}", _why_capability(capability), _arithmetic(dtype, capability)


def _tiles(arguments: AttentionArguments, pattern: str, tile_rows: int) -> tuple[int, int]:
    """How many tiles all heads visit, and how many of those the pattern masks."""
    heads = arguments.query.shape[1]
    plan = torch.ops.seo_kernels.attention_plan(
        pattern,
        arguments.layout,
        heads,
        arguments.query.shape[2],
        arguments.key.shape[2],
        arguments.query_offset,
        tile_rows,
    )
    counts = [0, 0]  # not masked, masked
    for head, _query_begin, _query_end, key_begin, key_end, masked in plan.tolist():
        counts[masked] += -(-(key_end - key_begin) // KEY_TILE) * (heads if head == -1 else 1)
    return sum(counts), counts[1]


def _why_capability(capability: str) -> str:
    cap = os.environ.get(CAPABILITY_VARIABLE)
    chosen = f"{CAPABILITY_VARIABLE}={cap} asks for no more" if cap else "the best that this machine has"
    return f"instruction set {capability}: {chosen}"


def _arithmetic(dtype: torch.dtype, capability: str) -> str:
    if dtype == torch.bfloat16 and capability in BFLOAT16_INSTRUCTIONS:
        instruction = BFLOAT16_INSTRUCTIONS[capability]
        return f"bfloat16 dot products run natively ({instruction}), with float32 sums and softmax"
    return _converted(dtype)


def _arithmetic_of_tier(dtype: torch.dtype, tier: str) -> str:
    if tier == "simt":
        return _converted(dtype)
    name = str(dtype).removeprefix("torch.")
    return f"{name} is multiplied on tensor cores, weights too; sums and softmax run in float32"


def _converted(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if dtype in (torch.float32, torch.float64):
        return f"{name} throughout"
    return f"{name} is converted to float32 tile by tile: dot products, sums and softmax run in float32"
