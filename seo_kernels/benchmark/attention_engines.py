"""Attention on this library and on its peers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

import seo_kernels as sk
from seo_kernels.benchmark.attention_problem import AttentionProblem
from seo_kernels.benchmark.problem import Forward


def fused(problem: AttentionProblem) -> Forward:
    """``sk.attention``, through the public call."""

    def forward(leaves: Mapping[str, Tensor]) -> Tensor:
        tables = {table: leaves[f"relative_{table}"] for table in problem.tables}
        relative = sk.RelativePosition(**tables) if tables else None
        return sk.attention(
            leaves["query"], leaves["key"], leaves["value"], pattern=problem.pattern, relative=relative
        )

    return forward


def sdpa(problem: AttentionProblem) -> Forward:
    """PyTorch's ``scaled_dot_product_attention`` without a mask: dense, or ``is_causal``."""
    is_causal = isinstance(problem.pattern, sk.Causal)

    def forward(leaves: Mapping[str, Tensor]) -> Tensor:
        return F.scaled_dot_product_attention(
            leaves["query"], leaves["key"], leaves["value"], is_causal=is_causal
        )

    return forward


def _backend_sdpa(problem: AttentionProblem, backend: SDPBackend) -> Forward:
    plain = sdpa(problem)

    def forward(leaves: Mapping[str, Tensor]) -> Tensor:
        with sdpa_kernel(backend):
            return plain(leaves)

    return forward


def cudnn_sdpa(problem: AttentionProblem) -> Forward:
    """``sdpa`` on cuDNN."""
    return _backend_sdpa(problem, SDPBackend.CUDNN_ATTENTION)


def flash_sdpa(problem: AttentionProblem) -> Forward:
    """``sdpa`` on FlashAttention."""
    return _backend_sdpa(problem, SDPBackend.FLASH_ATTENTION)


def efficient_sdpa(problem: AttentionProblem) -> Forward:
    """``sdpa`` on xFormers' memory-efficient kernels."""
    return _backend_sdpa(problem, SDPBackend.EFFICIENT_ATTENTION)


SDPA_BACKENDS = {"cuDNN": cudnn_sdpa, "flash": flash_sdpa, "efficient": efficient_sdpa}


def masked_sdpa(problem: AttentionProblem) -> Forward:
    """``scaled_dot_product_attention`` with the pattern as a bool mask, which is made beforehand."""
    # four dimensions: with three, SDPA leaves its fused kernel
    mask = problem.pattern.dense_mask(problem.query_length, problem.key_length).unsqueeze(0)

    def forward(leaves: Mapping[str, Tensor]) -> Tensor:
        return F.scaled_dot_product_attention(leaves["query"], leaves["key"], leaves["value"], attn_mask=mask)

    return forward


def _flex_mask(problem: AttentionProblem) -> BlockMask | None:
    pattern, offset = problem.pattern, problem.query_offset
    here = torch.get_default_device()
    if isinstance(pattern, sk.Dense):
        return None
    if isinstance(pattern, sk.Causal):
        left, right = problem.key_length, 0
    elif isinstance(pattern, sk.Local):
        left, right = pattern.left, pattern.right
    elif isinstance(pattern, sk.BlockSparse):
        layout, size = pattern.layout[0].to(here), pattern.block_size

        def in_layout(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return layout[query // size, key // size]

        return create_block_mask(
            in_layout, None, None, problem.query_length, problem.key_length, device=here, BLOCK_SIZE=size
        )
    else:
        raise TypeError(f"pattern is {pattern!r}, expected Dense, Causal, Local or BlockSparse")

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = key - query - offset
        return (distance >= -left) & (distance <= right)

    return create_block_mask(visible, None, None, problem.query_length, problem.key_length, device=here)


def flex(problem: AttentionProblem) -> Forward:
    """``torch.compile(flex_attention)`` with the pattern as a block mask and the bias as score_mod.

    The block mask is made beforehand; the first call compiles. On the CPU it knows no backward.
    """
    offset, reach = problem.query_offset, problem.reach
    mask = _flex_mask(problem)

    def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return flex_attention(query, key, value, block_mask=mask)

    def biased(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        def add(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return score + bias[head, (key - query - offset).clamp(-reach, reach) + reach]

        return flex_attention(query, key, value, score_mod=add, block_mask=mask)

    compiled = torch.compile(biased if problem.tables == ("bias",) else plain, dynamic=False)
    return lambda leaves: compiled(*leaves.values())
