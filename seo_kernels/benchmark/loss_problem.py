"""The output layer of a language model and its cross entropy: sizes, tensors, arithmetic, formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from seo_kernels.benchmark.op_problem import OpProblem
from seo_kernels.benchmark.problem import Inputs, seeded_generator

SMALL = 64  # tokens and classes
CHUNK = 512  # tokens


@dataclass(frozen=True)
class LossProblem(OpProblem):
    """Mean cross entropy of hidden weight^T at the targets.

    The leaves are hidden (tokens, dim), weight (vocabulary, dim), target (tokens,).
    """

    tokens: int
    dim: int
    vocabulary: int
    dtype: torch.dtype = torch.float32
    backward: bool = True

    @property
    def sizes(self) -> str:
        return f"{self.tokens} tokens d{self.dim} V{self.vocabulary}"

    def make_inputs(self) -> Inputs:
        generator = seeded_generator()
        hidden = torch.randn(self.tokens, self.dim, generator=generator).to(self.dtype)
        weight = torch.randn(self.vocabulary, self.dim, generator=generator).mul_(self.dim**-0.5)
        leaves = {
            "hidden": hidden.requires_grad_(self.backward),
            "weight": weight.to(self.dtype).requires_grad_(self.backward),
            "target": torch.randint(self.vocabulary, (self.tokens,), generator=generator),
        }
        return Inputs(leaves, torch.ones((), dtype=self.dtype) if self.backward else None)

    def reference(self, leaves: Mapping[str, Tensor]) -> Tensor:
        """In plain torch, a part of the tokens at a time: the logits whole take gigabytes in float64."""
        total = leaves["hidden"].new_zeros(())
        for hidden, target in zip(leaves["hidden"].split(CHUNK), leaves["target"].split(CHUNK), strict=True):
            total = total + F.cross_entropy(F.linear(hidden, leaves["weight"]), target, reduction="sum")
        return total / self.tokens

    def small(self) -> LossProblem:
        return replace(self, tokens=min(SMALL, self.tokens), vocabulary=min(SMALL, self.vocabulary))

    def flops(self) -> int:
        """Of the logits and of the gradients of hidden and weight, each once."""
        return 2 * self.tokens * self.dim * self.vocabulary * (3 if self.backward else 1)
