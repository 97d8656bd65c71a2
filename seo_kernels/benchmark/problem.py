"""What a case computes: the protocol of all problems, and the words for their parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Results = dict[str, Tensor]  # output and gradients by name
Forward = Callable[[Mapping[str, Tensor]], Tensor]  # from the leaves by name to the output

# Takes a problem of its family, prepares what is not timed (masks, compilation on the first call, models) and
# returns the forward pass. Defined at the top level of a module: the process that measures memory imports it.
Engine = Callable[[Any], Forward]


@dataclass(frozen=True)
class Inputs:
    """``leaves``: the tensors that go in; those with ``requires_grad`` get a gradient.

    ``grad_out``: the gradient of the output, None where a step has no backward or makes it itself.
    """

    leaves: dict[str, Tensor]
    grad_out: Tensor | None


@dataclass(frozen=True)
class Traffic:
    """What a step that computes next to nothing has to move.

    ``moved``: bytes that it reads and writes at least. The measure are copies among ``tensors`` tensors of
    ``tensor`` bytes, as many as the step touches.
    """

    moved: int
    tensor: int
    tensors: int


class Problem(ABC):
    """Sizes and kind of one computation: a hashable value that can be pickled.

    ``backward`` says whether a step is forward and backward or forward only. Tensors are made on torch's
    default device, which is that of the case.
    """

    dtype: torch.dtype
    backward: bool

    @property
    @abstractmethod
    def sizes(self) -> str:
        """In short: "B1 H8 T4096 D64"."""

    @property
    def details(self) -> dict[str, str]:
        """Whatever else tells it from its like: further columns of the report."""
        return {}

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @abstractmethod
    def make_inputs(self) -> Inputs:
        """Random tensors, the same ones each time."""

    def step(self, forward: Forward, inputs: Inputs) -> Results:
        """The work that is timed: the output "out", with ``backward`` also "d NAME" of the leaves."""
        return gradient_step(forward, inputs, self.backward)

    @abstractmethod
    def expect(self, inputs: Inputs) -> Any:
        """The right results, and how far off a contender may be: what ``verify`` takes."""

    @abstractmethod
    def verify(self, inputs: Inputs, forward: Forward, expected: Any) -> float:
        """The error of the worst of all results, relative to it, in the root mean square.

        Raises:
            WrongResultError: a result is too far off.
        """

    @abstractmethod
    def small(self) -> Problem:
        """One of the same kind that takes next to no memory."""

    def flops(self) -> int | None:
        """Floating point operations of a step; None where they are not what takes the time."""
        return None

    def traffic(self) -> Traffic | None:
        """None where moving bytes is not what takes the time."""
        return None


def seeded_generator() -> torch.Generator:
    """Of torch's default device, where a case has its tensors made: the same numbers each time."""
    return torch.Generator(torch.get_default_device()).manual_seed(0)


def gradient_step(forward: Forward, inputs: Inputs, backward: bool) -> Results:
    """Output, and with ``backward`` the gradient of every leaf that asks for one."""
    if not backward:
        with torch.no_grad():
            return {"out": forward(inputs.leaves)}
    wanted = {name: leaf for name, leaf in inputs.leaves.items() if leaf.requires_grad}
    out = forward(inputs.leaves)
    gradients = torch.autograd.grad(out, list(wanted.values()), inputs.grad_out)
    return {"out": out, **{f"d {name}": gradient for name, gradient in zip(wanted, gradients, strict=True)}}
