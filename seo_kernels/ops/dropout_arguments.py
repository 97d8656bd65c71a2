"""From what the user passes to ``sk.dropout`` to what the op takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.checks import check_floating, check_number, draw_seed, kind


@dataclass(frozen=True)
class DropoutArguments:
    """The arguments of ``torch.ops.seo_kernels.dropout``, in the order of its schema."""

    input: Tensor
    seed: Tensor | None  # int64 (), None: nothing is dropped
    p: float

    def values(self) -> tuple[Any, ...]:
        return (self.input, self.seed, self.p)


def normalise_dropout(input: Tensor, p: float, training: bool) -> DropoutArguments:
    """Check the arguments of ``sk.dropout``, and draw the seed where something is dropped.

    Raises:
        TypeError: not a tensor, number or bool where one is expected, or a wrong dtype.
        ValueError: a probability that is none.
    """
    if not isinstance(input, Tensor):
        raise TypeError(f"input is {kind(input)}, expected a tensor")
    check_number("p", p, "a number in [0, 1]")
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"p is {p}, expected a number in [0, 1]")
    if not isinstance(training, (bool, torch.SymBool)):
        raise TypeError(f"training is {kind(training)}, expected a bool")
    if not training or p == 0.0:
        return DropoutArguments(input, None, 0.0)
    check_floating("input", input, input.device, owner="input")
    return DropoutArguments(input, draw_seed(p, input.device), float(p))
