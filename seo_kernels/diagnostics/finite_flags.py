"""Which modules gave something that is not finite: one sum each, kept on the device until somebody asks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)


class FiniteFlags:
    """The sum of each module's output, by name, in the order in which the modules first gave one.

    A sum is finite if all that was summed is; it costs one pass over what has just been written. Later
    outputs of the same module are added. Nothing is looked at inside ``torch.compile`` and the transforms of
    ``torch.func``, whose tensors must not leave them.

    >>> flags = FiniteFlags()
    >>> flags.note("first", torch.ones(2))
    >>> flags.note("second", torch.tensor([1.0, float("inf")]))
    >>> flags.broken()
    {'second': 'Inf'}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._last: object = None

    def note(self, name: str, output: Any) -> None:
        """Look at what a module gave; containers that pass on what their last child gave cost nothing."""
        if output is self._last or torch._C._are_functorch_transforms_active():
            return
        self._last = output
        for tensor in _floating(output):
            values = tensor.detach()
            if values.is_complex():
                values = values.abs()
            total = values.sum(dtype=torch.float32) if values.dtype in HALF else values.sum()
            if name in self._sums:
                total += self._sums[name].to(total.device, total.dtype)
            self._sums[name] = total

    def release(self) -> None:
        """Let go of the output that was looked at last."""
        self._last = None

    def broken(self) -> dict[str, str]:
        """The modules that gave "NaN" or "Inf", in the order in which they did: one transfer."""
        if not self._sums:
            return {}
        place = next(iter(self._sums.values())).device
        sums = torch.stack([total.to(place, torch.float32) for total in self._sums.values()]).tolist()
        named = zip(self._sums, sums, strict=True)
        return {
            name: "NaN" if math.isnan(total) else "Inf" for name, total in named if not math.isfinite(total)
        }


def all_finite(value: Any) -> bool:
    """Whether all floating-point tensors in a nest of tuples, lists and mappings are finite."""
    return all(bool(tensor.isfinite().all()) for tensor in _floating(value))


def _floating(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        wanted = value.is_floating_point() or value.is_complex()
        if wanted and value.device.type != "meta" and value.layout is torch.strided:
            yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _floating(entry)
    elif isinstance(value, (tuple, list)):
        for entry in value:
            yield from _floating(entry)
