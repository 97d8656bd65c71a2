"""How examples print what they measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def headline(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows below their columns: the first to the left, the others, numbers mostly, to the right.

    >>> table(("layer", "norm"), [("first", 0.25), ("second", 10)])
    layer   norm
    first   0.25
    second    10
    """
    lines = [[*map(str, columns)], *([shown(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for first, *others in lines:
        padded = (value.rjust(width) for value, width in zip(others, widths[1:], strict=True))
        print("  ".join([first.ljust(widths[0]), *padded]).rstrip())


def shown(value: object) -> str:
    """A number with the digits that mean something."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def median_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Of one call, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def bytes_kept(forward: Callable[[], Tensor]) -> int:
    """What is alive, of the tensors that a forward pass makes, when it has ended: kept for the backward pass.

    Its result is one of them; arguments and parameters are not.
    """
    with _MadeTensors() as made:
        output = forward()
    alive = made.bytes_alive()
    del output
    return alive


class _MadeTensors(TorchDispatchMode):
    """Watches the storages that operations make, without keeping them."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {_storage(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and _storage(value) not in given:
                storage = value.untyped_storage()
                self._made[_storage(value)] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def bytes_alive(self) -> int:
        return sum(size for storage, size in self._made.values() if not storage.expired())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def largest_difference(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    """The largest magnitude in what two lists of tensors differ by."""
    return max((a - b).abs().max().item() for a, b in zip(first, second, strict=True))


def gradients(model: nn.Module) -> list[Tensor]:
    """Copies of all gradients of a model, whose every parameter has one."""
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
