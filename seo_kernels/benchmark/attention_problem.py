"""Attention: the sizes of one problem, its tensors, and its arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import seo_kernels as sk
from seo_kernels.benchmark import attention_verification
from seo_kernels.benchmark.attention_verification import AttentionExpected
from seo_kernels.benchmark.problem import Forward, Inputs, Problem, seeded_generator

SMALL = 256  # rows
TABLE_SIZE = 0.1  # standard deviation of the relative tables


def random_blocks(length: int, block: int) -> sk.BlockSparse:
    """An eighth of all blocks, drawn without a rule; the same for all heads."""
    edge = -(-length // block)
    order = torch.randperm(edge * edge, generator=torch.Generator().manual_seed(0), device="cpu")
    layout = torch.zeros(edge * edge, dtype=torch.bool, device="cpu")
    layout[order[: edge * edge // 8]] = True
    return sk.BlockSparse(layout.view(edge, edge), block)


@dataclass(frozen=True)
class AttentionProblem(Problem):
    """Sizes, dtype, pattern, and which relative tables ("key", "value", "bias") take part.

    Tables reach ``reach`` to either side; key and value tables are shared by all heads. The leaves are query,
    key, value, and the tables as "relative_key" and so on; grad_out is (B, H, Tq, D).
    """

    batch: int
    heads: int
    query_length: int
    key_length: int
    dim: int
    dtype: torch.dtype = torch.float32
    pattern: sk.Pattern = field(default_factory=sk.Dense)
    tables: tuple[str, ...] = ()
    reach: int = 0
    backward: bool = False

    @property
    def sizes(self) -> str:
        """In short: "B1 H8 T4096 D64"."""
        queries, keys = self.query_length, self.key_length
        lengths = f"T{queries}" if queries == keys else f"Tq{queries} Tk{keys}"
        return f"B{self.batch} H{self.heads} {lengths} D{self.dim}"

    @property
    def details(self) -> dict[str, str]:
        return {"pattern": str(self.pattern), "tables": " ".join(self.tables)}

    @property
    def query_offset(self) -> int:
        return self.key_length - self.query_length

    def make_inputs(self) -> Inputs:
        generator = seeded_generator()

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.dtype)

        query_shape = (self.batch, self.heads, self.query_length, self.dim)
        key_shape = (self.batch, self.heads, self.key_length, self.dim)
        rows = 2 * self.reach + 1
        leaves = {"query": random(*query_shape), "key": random(*key_shape), "value": random(*key_shape)}
        for table in self.tables:
            shape = (self.heads, rows) if table == "bias" else (rows, self.dim)
            leaves[f"relative_{table}"] = TABLE_SIZE * random(*shape)
        for leaf in leaves.values():
            leaf.requires_grad_(self.backward)
        return Inputs(leaves, random(*query_shape) if self.backward else None)

    def expect(self, inputs: Inputs) -> AttentionExpected:
        return attention_verification.expect(self, inputs)

    def verify(self, inputs: Inputs, forward: Forward, expected: AttentionExpected) -> float:
        return attention_verification.verify(self, inputs, forward, expected)

    def small(self) -> AttentionProblem:
        rows, columns = min(SMALL, self.query_length), min(SMALL, self.key_length)
        return replace(self, query_length=rows, key_length=columns, pattern=sk.Dense())

    def flops(self) -> int | None:
        """Of the matrix products over the pairs that the pattern shows.

        4 D per pair forward (Q K^T and P V), 10 D more backward (scores again, dP, dV, dQ, dK), as the papers
        on FlashAttention count. None where that is not what takes the time: one query row only reads the
        keys, and the products of key and value tables are not counted in it.
        """
        if self.query_length == 1 or {"key", "value"} & set(self.tables):
            return None
        pairs = self.batch * self.heads * self._visible_pairs()
        return pairs * self.dim * (14 if self.backward else 4)

    def _visible_pairs(self) -> int:
        """Pairs per head, counted a few query rows at a time."""
        keys = torch.arange(self.key_length)
        rows = max(1, 2**22 // self.key_length)
        return sum(
            int(self.pattern.element_mask(queries, keys, self.query_offset).sum())
            for queries in torch.arange(self.query_length).split(rows)
        )
