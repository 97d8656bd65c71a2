"""Dropout alone: tensors, traffic, formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

import seo_kernels as sk
from seo_kernels.benchmark.op_problem import OpProblem
from seo_kernels.benchmark.problem import Inputs, Traffic, seeded_generator

SMALL = 16  # rows


@dataclass(frozen=True)
class DropoutProblem(OpProblem):
    """dropout(input) with probability p; the leaf is input (rows, columns).

    Which entries are dropped follows from the state of torch's default generator, by our rule or,
    ``torch_bits``, by that of ``F.dropout``, as in ``LinearProblem``.
    """

    rows: int
    columns: int
    p: float
    dtype: torch.dtype = torch.float32
    torch_bits: bool = False
    backward: bool = True

    @property
    def sizes(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def details(self) -> dict[str, str]:
        return {"dropout_p": f"{self.p:g}"}

    def make_inputs(self) -> Inputs:
        generator = seeded_generator()
        input, gradient = (
            torch.randn(self.rows, self.columns, generator=generator).to(self.dtype) for _ in range(2)
        )
        return Inputs({"input": input.requires_grad_(self.backward)}, gradient if self.backward else None)

    def reference(self, leaves: Mapping[str, Tensor]) -> Tensor:
        input = leaves["input"]
        if not self.torch_bits:
            return sk.reference.dropout(input, self.p)
        # the draws of F.dropout depend on shape and dtype: those of the timed step, whatever the leaf is
        kept = F.dropout(torch.ones(input.shape, dtype=self.dtype), self.p) != 0
        return torch.where(kept, input / (1 - self.p), 0.0)

    def small(self) -> DropoutProblem:
        return replace(self, rows=min(SMALL, self.rows))

    def traffic(self) -> Traffic:
        """Forward and backward each read one tensor and write one."""
        tensor = self.rows * self.columns * self.dtype.itemsize
        touched = 4 if self.backward else 2
        return Traffic(touched * tensor, tensor, touched)
