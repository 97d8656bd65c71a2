"""One call of sk.attention as a value: its sizes, options and the seed of its data; and how to run it.

A case builds the same tensors every time, so that the kernels, the reference at their dtype and the reference
in float64 all see the same inputs and the same dropout bits.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

import seo_kernels as sk

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
STRIDES = ("contiguous", "heads inside", "gaps", "reversed", "expanded")
_PERTURB = -6  # M_PERTURB of malloc.h
TABLES = ("key", "value", "bias", "slopes")


@dataclass(frozen=True)
class Table:
    """A relative table of this name over distances from -reach to reach."""

    name: str
    reach: int = 3
    per_head: bool = True
    dtype: torch.dtype | None = None  # None: that of the query


@dataclass(frozen=True)
class Mask:
    """A mask whose last dimensions are full or 1; "holes" is a float mask with some -inf."""

    kind: str = "bool"  # bool | float | holes
    full: tuple[bool, ...] = (True, True, True, True)
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Case:
    dtype: torch.dtype = torch.float32
    batch: int = 2
    key_heads: int = 2
    group: int = 1
    query_length: int = 33
    key_length: int = 37
    dim: int = 16
    value_dim: int = 16
    pattern: sk.Pattern | None = None
    tables: tuple[Table, ...] = ()
    mask: Mask | None = None
    lengths: tuple[int, ...] | None = None  # what key and value hold beyond is NaN
    segments: str | None = None  # packed | scattered
    sinks: bool = False
    softcap: float | None = None
    scale: float | None = None
    dropout_p: float = 0.0
    query_offset: int | None = None
    strides: tuple[str, str, str] = ("contiguous", "contiguous", "contiguous")
    through: str = "both"  # what the gradient comes through: out | lse | both
    wanted: tuple[str, ...] | None = None  # which tensors ask for a gradient; None: all
    seed: int = 0

    @property
    def heads(self) -> int:
        return self.key_heads * self.group


@dataclass
class Inputs:
    """leaves: every floating point tensor by name. options: everything else. gradients: of out and lse."""

    leaves: dict[str, Tensor]
    options: dict[str, object]
    gradients: dict[str, Tensor]

    def to(self, dtype: torch.dtype) -> Inputs:
        leaves = {
            name: leaf.detach().to(dtype).requires_grad_(leaf.requires_grad)
            for name, leaf in self.leaves.items()
        }
        gradients = {name: gradient.to(dtype) for name, gradient in self.gradients.items()}
        return Inputs(leaves, self.options, gradients)


def build(case: Case, device: str = "cpu") -> Inputs:
    """The tensors of a case at its own dtypes."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(case.seed)

    def random(*shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype or case.dtype)

    sizes = (case.batch, case.heads, case.query_length, case.key_length)
    shapes = {
        "query": (case.batch, case.heads, case.query_length, case.dim),
        "key": (case.batch, case.key_heads, case.key_length, case.dim),
        "value": (case.batch, case.key_heads, case.key_length, case.value_dim),
    }
    leaves = {
        name: _strided(shape, how, random)
        for (name, shape), how in zip(shapes.items(), case.strides, strict=True)
    }
    for table in case.tables:
        shape = {
            "key": (2 * table.reach + 1, case.dim),
            "value": (2 * table.reach + 1, case.value_dim),
            "bias": (2 * table.reach + 1,),
            "slopes": (),
        }[table.name]
        heads = (case.heads,) if table.per_head or table.name in ("bias", "slopes") else ()
        leaves[f"relative_{table.name}"] = random(*heads, *shape, dtype=table.dtype) * 0.5
    if case.sinks:
        leaves["sinks"] = random(case.heads)
    options: dict[str, object] = {
        "pattern": case.pattern,
        "softcap": case.softcap,
        "scale": case.scale,
        "dropout_p": case.dropout_p,
        "query_offset": case.query_offset,
    }
    if case.mask is not None:
        shape = tuple(
            n if full else 1 for n, full in zip(sizes[4 - len(case.mask.full) :], case.mask.full, strict=True)
        )
        numbers = random(*shape, dtype=case.mask.dtype)
        if case.mask.kind == "bool":
            options["mask"] = (numbers > -0.5).to(device)
        else:
            leaves["mask"] = (
                numbers.masked_fill(numbers > 0.8, -math.inf) if case.mask.kind == "holes" else numbers
            )
    if case.lengths is not None:
        options["key_lengths"] = torch.tensor(case.lengths, dtype=torch.int32, device=device)
        for name, how in zip(("key", "value"), case.strides[1:], strict=True):
            if how != "expanded":
                for row, length in zip(leaves[name], case.lengths, strict=True):
                    row[:, length:] = math.nan
    if case.segments is not None:
        options["segment_ids"] = _segments(case, generator, device)
    gradients = {"out": random(case.batch, case.heads, case.query_length, case.value_dim)}
    gradients["out"] = gradients["out"].transpose(1, 2).contiguous().transpose(1, 2)
    gradients["lse"] = random(*sizes[:3], dtype=torch.promote_types(case.dtype, torch.float32))
    for name, leaf in leaves.items():
        leaves[name] = leaf.to(device).requires_grad_(case.wanted is None or name in case.wanted)
    return Inputs(leaves, options, {name: gradient.to(device) for name, gradient in gradients.items()})


def _strided(shape: tuple[int, ...], how: str, random: Callable[..., Tensor]) -> Tensor:
    batch, heads, length, dim = shape
    if how == "heads inside":
        return random(batch, length, heads, dim).transpose(1, 2)
    if how == "gaps":
        return random(batch, heads, length, 2 * dim + 1)[..., 1::2]
    if how == "reversed":
        return random(dim, length, heads, batch).permute(3, 2, 1, 0)
    if how == "expanded":
        return random(1, heads, length, dim).expand(shape)
    return random(*shape)


def _segments(case: Case, generator: torch.Generator, device: str) -> Tensor | tuple[Tensor, Tensor]:
    """Packed: three runs of random length each; scattered: any order. One tensor where the lengths agree."""

    def ids(length: int) -> Tensor:
        drawn = torch.randint(3, (case.batch, length), generator=generator)
        return (drawn.sort(1).values if case.segments == "packed" else drawn).to(device)

    query_ids = ids(case.query_length)
    return query_ids if case.query_length == case.key_length else (query_ids, ids(case.key_length).int())


def run(attention: Callable, case: Case, inputs: Inputs) -> dict[str, Tensor]:
    """Output, lse and every wanted gradient by name; a gradient that autograd leaves out is zero."""
    leaves = dict(inputs.leaves)
    tables = {name: leaves.pop(f"relative_{name}", None) for name in TABLES}
    relative = sk.RelativePosition(**tables) if case.tables else None
    torch.manual_seed(case.seed)
    returned = attention(**leaves, relative=relative, **inputs.options, return_lse=case.through != "out")
    results = {"out": returned} if case.through == "out" else dict(zip(("out", "lse"), returned, strict=True))
    through = [case.through] if case.through != "both" else ["out", "lse"]
    through = [name for name in through if results[name].requires_grad]  # lse does not depend on value
    wanted = {name: leaf for name, leaf in inputs.leaves.items() if leaf.requires_grad}
    gradients = torch.autograd.grad(
        [results[name] for name in through],
        list(wanted.values()),
        [inputs.gradients[name].to(results[name].dtype) for name in through],
        allow_unused=True,
    )
    for (name, leaf), gradient in zip(wanted.items(), gradients, strict=True):
        results[f"d {name}"] = torch.zeros_like(leaf) if gradient is None else gradient
    return {name: result.detach() for name, result in results.items()}


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fresh memory holds NaN, so that reading what was never written shows, be it multiplied by zero."""
    allocator = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: None)  # in glibc only
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # also: every path must be deterministic
    assert torch.utils.deterministic.fill_uninitialized_memory
    allocator(_PERTURB, 0x100)  # memory is filled with the complement of the low byte: 0xff.. is NaN
    try:
        yield
    finally:
        allocator(_PERTURB, int(os.environ.get("MALLOC_PERTURB_", "0")))
        torch.use_deterministic_algorithms(before)
