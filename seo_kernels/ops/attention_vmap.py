"""Attention over one more dimension (``torch.func.vmap``): folded into the batch, or call after call.

The loop serves what the op does not tell apart along its batch: tables and masks that are batched themselves,
gradients that are summed over the batch, and dropout, whose bits depend on the batch index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.arguments import AttentionArguments

FIELDS = tuple(AttentionArguments.__dataclass_fields__)  # in the order of the op's schema
_BACKWARD_FIELDS = ("grad_out", "grad_lse", *FIELDS[:3], "out", "lse", *FIELDS[3:])
_FOLDED = (*_BACKWARD_FIELDS[:7], "key_lengths", "query_segments", "key_segments")  # batch first

Dims = Sequence[int | None]


def vmap_forward(
    apply: Callable[..., Any], size: int, dims: Dims, arguments: Sequence[Any]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """``AttentionFunction`` over ``size`` problems; ``dims`` is where an argument has them, None: nowhere.

    Returns:
        The outputs, and the dimension of each along which the problems lie.
    """
    if _must_loop(FIELDS, dims, arguments):
        return _looped(apply, size, dims, arguments)
    return _folded(apply, size, dims, arguments, FIELDS)


def vmap_backward(
    apply: Callable[..., Any], size: int, dims: Dims, inputs: Sequence[Any]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """``AttentionBackwardFunction`` over ``size`` problems."""
    summed = any(inputs[len(_BACKWARD_FIELDS) + 3 :])  # a gradient of a table, a mask or the sinks is wanted
    if summed or _must_loop(_BACKWARD_FIELDS, dims, inputs):
        return _looped(apply, size, dims, inputs)
    return _folded(apply, size, dims, inputs, _BACKWARD_FIELDS)


def _must_loop(names: Sequence[str], dims: Dims, arguments: Sequence[Any]) -> bool:
    named = dict(zip(names, arguments, strict=False))
    return named["seed"] is not None or any(
        dim is not None and name not in _FOLDED for name, dim in zip(names, dims, strict=False)
    )


def _looped(
    apply: Callable[..., Any], size: int, dims: Dims, arguments: Sequence[Any]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    results = [
        apply(*(a if dim is None else a.select(dim, i) for a, dim in zip(arguments, dims, strict=True)))
        for i in range(size)
    ]
    outputs = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return outputs, (0,) * len(outputs)


def _folded(
    apply: Callable[..., Any], size: int, dims: Dims, arguments: Sequence[Any], names: Sequence[str]
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    folded = list(arguments)
    for place, (name, dim) in enumerate(zip(names, dims, strict=False)):
        argument = arguments[place]
        if argument is None or not (name in _FOLDED or (name == "mask" and argument.shape[0] > 1)):
            continue
        problems = argument.expand(size, *argument.shape) if dim is None else argument.movedim(dim, 0)
        folded[place] = problems.flatten(0, 1)
    batch = folded[names.index("query")].shape[0]
    outputs = apply(*folded)
    dims = tuple(None if output.ndim == 1 else 0 for output in outputs)  # 1-D: an absent gradient
    return tuple(
        output if dim is None else output.unflatten(0, (size, batch // size))
        for output, dim in zip(outputs, dims, strict=True)
    ), dims
