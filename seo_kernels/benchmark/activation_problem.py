"""An activation after a bias, or of one half by which the other is multiplied: tensors, traffic, formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

import seo_kernels as sk
from seo_kernels.benchmark.op_problem import OpProblem
from seo_kernels.benchmark.problem import Inputs, Traffic, seeded_generator

SMALL = 16  # rows


@dataclass(frozen=True)
class ActivationProblem(OpProblem):
    """activation(input + bias), or, ``gated``, activation(input) * up.

    The leaves are input (rows, columns), and bias (columns,) or up (rows, columns).
    """

    rows: int
    columns: int
    activation: str
    gated: bool = False
    dtype: torch.dtype = torch.float32
    backward: bool = True

    @property
    def sizes(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def details(self) -> dict[str, str]:
        return {"activation": self.activation}

    def make_inputs(self) -> Inputs:
        generator = seeded_generator()

        def random(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator).to(self.dtype)

        leaves = {"input": random(self.rows, self.columns)}
        if self.gated:
            leaves["up"] = random(self.rows, self.columns)
        else:
            leaves["bias"] = random(self.columns)
        for leaf in leaves.values():
            leaf.requires_grad_(self.backward)
        return Inputs(leaves, random(self.rows, self.columns) if self.backward else None)

    def reference(self, leaves: Mapping[str, Tensor]) -> Tensor:
        if self.gated:
            return sk.reference.gated_act(leaves["input"], self.activation, up=leaves["up"])
        return sk.reference.bias_act(leaves["input"], leaves["bias"], self.activation)

    def small(self) -> ActivationProblem:
        return replace(self, rows=min(SMALL, self.rows))

    def traffic(self) -> Traffic:
        """Forward reads each large input once and writes the output; backward reads the same inputs and the
        gradient of the output, and writes a gradient for each input. A bias is nothing beside them.
        """
        tensor = self.rows * self.columns * self.dtype.itemsize
        inputs = 2 if self.gated else 1
        passes = (inputs + 1) + (2 * inputs + 1 if self.backward else 0)
        touched = inputs + 1 + (inputs + 1 if self.backward else 0)
        return Traffic(passes * tensor, tensor, touched)
