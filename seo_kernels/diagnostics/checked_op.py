"""What there is to verify of an op: its reference, and the features that its problems cover."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Size = Literal["tiny", "odd"]


@dataclass(frozen=True)
class Problem:
    """Values and a call: ``call(function, inputs)`` applies the op (or its reference) to them."""

    inputs: Mapping[str, Tensor]  # float64; each gets a gradient
    call: Callable[[Callable[..., Any], Mapping[str, Tensor]], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Feature:
    """One combination of an op's arguments.

    ``make("tiny", device)`` suits finite differences, ``make("odd", device)`` spans several tiles.
    Inputs named in ``wide`` stay float32 where the others have 16 bits, as parameters do under autocast.
    """

    name: str
    make: Callable[[Size, str], Problem]
    wide: tuple[str, ...] = ()

    def problem(self, size: Size, device: str) -> Problem:
        """Its values lie on the CPU, the same for every device; what else a call takes is on the device."""
        with torch.device("cpu"):  # whatever torch's default device is
            return self.make(size, device)


@dataclass(frozen=True)
class CheckedOp:
    """An op, the reference it is held against, and the features to verify."""

    name: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    features: tuple[Feature, ...]
