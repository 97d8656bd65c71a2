"""What the arguments and results of a pair of ops are called, and what follows from the names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class PairNames:
    """See ``FunctionPair`` for the fields."""

    inputs: tuple[str, ...]
    differentiable: tuple[str, ...]
    outputs: tuple[str, ...]
    saved_outputs: tuple[str, ...]
    backward_takes: tuple[str, ...]
    leading: tuple[str, ...]
    rows: tuple[str, ...]

    def __post_init__(self) -> None:
        known = (*self.inputs, *self.outputs, *self.saved_outputs)
        if len(set(known)) != len(known):
            raise ValueError(f"inputs and outputs are {known}, expected names that differ")
        for field in ("differentiable", "backward_takes", "leading", "rows"):
            for name in getattr(self, field):
                if name not in (self.inputs if field == "differentiable" else known):
                    raise ValueError(f"{field} has {name!r}, expected one of {known}")
        for name in self.differentiable:
            if name not in self.backward_takes:
                raise ValueError(f"backward_takes is {self.backward_takes}, expected {name!r} among them")

    @cached_property
    def places(self) -> tuple[int, ...]:
        """Where the differentiable inputs stand among the inputs."""
        return tuple(map(self.inputs.index, self.differentiable))

    @cached_property
    def kept(self) -> tuple[str, ...]:
        """The outputs that backward takes: saved outputs, and outputs if it names them."""
        return tuple(name for name in (*self.outputs, *self.saved_outputs) if name in self.backward_takes)

    @cached_property
    def taken(self) -> tuple[int, ...]:
        """Where what backward takes stands among inputs and kept outputs."""
        return tuple(map((*self.inputs, *self.kept).index, self.backward_takes))

    @cached_property
    def gradient_arguments(self) -> tuple[str, ...]:
        """What the gradient's Function takes before ``wanted``; a gradient has the name of its output."""
        return (*self.outputs, *self.inputs, *self.kept)


def as_tuple(results: Any) -> tuple[Tensor, ...]:
    """The results of an op or a function of one result or several."""
    return (results,) if isinstance(results, Tensor) else tuple(results)
