"""A ``FunctionPair`` over one more dimension (``torch.func.vmap``): in one call, or call after call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.function_pair_names import PairNames


@dataclass(frozen=True)
class Batched:
    """Arguments of ``size`` problems: ``dims`` says where an argument has them, None: the same for all."""

    names: Sequence[str]
    arguments: Sequence[Any]
    dims: Sequence[int | None]
    size: int

    def __iter__(self) -> Iterator[tuple[str, Any, int | None]]:
        return iter(zip(self.names, self.arguments, self.dims, strict=True))


def in_problems(
    apply: Callable[..., tuple[Tensor, ...]],
    names: PairNames,
    batched: Batched,
    wanted: Sequence[bool],
    results: Sequence[str | None],
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """A Function over all problems.

    Args:
        apply: the Function; it takes the batched arguments, then ``wanted``.
        names: of the pair's arguments.
        batched: the arguments.
        wanted: what follows them.
        results: names of the results, None for one that is absent.

    Returns:
        The results, and the dimension of each along which the problems lie.
    """
    together = (*names.leading, *names.rows)
    foldable = all(result is None or result in together for result in results) and all(
        (dim is None or name in together) and not (name == "seed" and argument is not None)
        for name, argument, dim in batched
    )
    if not foldable:
        return looped(apply, batched, wanted)
    found = apply(*(_folded(names, *item, batched.size) for item in batched), *wanted)
    placed = [
        (part, None) if result is None or _absent(part) else (_unfolded(names, result, part, batched.size), 0)
        for result, part in zip(results, found, strict=True)
    ]
    return tuple(part for part, _ in placed), tuple(dim for _, dim in placed)


def looped(
    apply: Callable[..., tuple[Tensor, ...]], batched: Batched, wanted: Sequence[bool]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Call after call: the results of all problems, in their first dimension."""
    found = [
        apply(*(a if dim is None else a.select(dim, i) for _, a, dim in batched), *wanted)
        for i in range(batched.size)
    ]
    stacked = tuple(torch.stack(parts) for parts in zip(*found, strict=True))
    return stacked, (0,) * len(stacked)


def _folded(names: PairNames, name: str, argument: Any, dim: int | None, size: int) -> Any:
    """An argument of all problems in one."""
    if not isinstance(argument, Tensor) or name not in (*names.leading, *names.rows):
        return argument
    if dim is None:
        if name in names.saved_outputs and _absent(argument):
            return argument
        problems = argument.expand(size, *argument.shape)
    else:
        problems = argument.movedim(dim, 0)
    return problems if name in names.leading else problems.flatten(0, 1)


def _unfolded(names: PairNames, name: str, result: Tensor, size: int) -> Tensor:
    """A result of all problems, with the problems in its first dimension."""
    return result if name in names.leading else result.unflatten(0, (size, result.shape[0] // size))


def _absent(tensor: Tensor) -> bool:
    """Whether this is what an op returns for a result that there is not."""
    return tensor.shape == (0,)
