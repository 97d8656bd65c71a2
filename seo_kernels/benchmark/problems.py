"""What a benchmark computes: the sizes of one attention problem, its tensors, and one step on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

import seo_kernels as sk

Forward = Callable[[Mapping[str, Tensor]], Tensor]  # from the tensors by name to out (B, H, Tq, D)

TABLE_SIZE = 0.1  # standard deviation of the relative tables


@dataclass(frozen=True)
class Problem:
    """Sizes, dtype, pattern, and which relative tables ("key", "value", "bias") take part.

    Tables reach ``reach`` to either side; key and value tables are shared by all heads. ``backward`` says
    whether a step is forward and backward or forward only.
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
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def query_offset(self) -> int:
        return self.key_length - self.query_length


@dataclass(frozen=True)
class Inputs:
    """leaves: query, key, value, and the tables as "relative_key" and so on.

    grad_out: (B, H, Tq, D), or None for a problem without backward.
    """

    leaves: dict[str, Tensor]
    grad_out: Tensor | None


def make_inputs(problem: Problem) -> Inputs:
    """Random tensors, the same ones each time."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(problem.dtype)

    query_shape = (problem.batch, problem.heads, problem.query_length, problem.dim)
    key_shape = (problem.batch, problem.heads, problem.key_length, problem.dim)
    rows = 2 * problem.reach + 1
    leaves = {"query": random(*query_shape), "key": random(*key_shape), "value": random(*key_shape)}
    for table in problem.tables:
        shape = (problem.heads, rows) if table == "bias" else (rows, problem.dim)
        leaves[f"relative_{table}"] = TABLE_SIZE * random(*shape)
    for leaf in leaves.values():
        leaf.requires_grad_(problem.backward)
    return Inputs(leaves, random(*query_shape) if problem.backward else None)


def step(
    problem: Problem, forward: Forward, leaves: Mapping[str, Tensor], grad_out: Tensor | None
) -> dict[str, Tensor]:
    """Output, and with ``backward`` the gradient of every leaf: the work that is timed."""
    if not problem.backward:
        with torch.no_grad():
            return {"out": forward(leaves)}
    out = forward(leaves)
    gradients = torch.autograd.grad(out, list(leaves.values()), grad_out)
    return {"out": out, **{f"d {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}}


def tensor_bytes(problem: Problem) -> int:
    """Bytes of the tensors that a user holds anyway: leaves and output, with ``backward`` their gradients."""
    rows = 2 * problem.query_length + 2 * problem.key_length  # query, out; key, value
    elements = problem.batch * problem.heads * rows * problem.dim
    for table in problem.tables:
        width = problem.heads if table == "bias" else problem.dim
        elements += (2 * problem.reach + 1) * width
    return elements * problem.dtype.itemsize * (2 if problem.backward else 1)


def flops(problem: Problem) -> int | None:
    """Floating point operations of the matrix products over the pairs that the pattern shows.

    4 D per pair forward (Q K^T and P V), 10 D more backward (scores again, dP, dV, dQ, dK), as the papers on
    FlashAttention count. None where that is not what takes the time: one query row only reads the keys, and
    the products of key and value tables are not counted in it.
    """
    if problem.query_length == 1 or {"key", "value"} & set(problem.tables):
        return None
    pairs = problem.batch * problem.heads * _visible_pairs(problem)
    return pairs * problem.dim * (14 if problem.backward else 4)


def _visible_pairs(problem: Problem) -> int:
    """Pairs per head, counted a few query rows at a time."""
    keys = torch.arange(problem.key_length)
    rows = max(1, 2**22 // problem.key_length)
    return sum(
        int(problem.pattern.element_mask(queries, keys, problem.query_offset).sum())
        for queries in torch.arange(problem.query_length).split(rows)
    )
