"""A linear layer, with an activation or with a low-rank adapter: sizes, tensors, arithmetic, formula."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

import seo_kernels as sk
from seo_kernels.benchmark.op_problem import OpProblem
from seo_kernels.benchmark.problem import Inputs, seeded_generator

SMALL = 16  # tokens
SCALING = 2.0  # of the adapter's product, alpha / rank


@dataclass(frozen=True)
class LinearProblem(OpProblem):
    """input W^T + bias, through ``activation`` if there is one, plus the adapter's product if ``rank``.

    The leaves are input (tokens, in), weight (out, in), bias (out,), and with ``rank`` lora_a (rank, in) and
    lora_b (out, rank), all of one dtype; ``frozen`` ones, weight and bias, get no gradient.

    ``dropout_p`` acts on the adapter's input. Which entries are dropped follows from the state of torch's
    default generator, by our rule or, ``torch_bits``, by that of ``F.dropout``: a contender is verified with
    the bits that its own rule draws, against a formula in float64 that is given the same bits.
    """

    tokens: int
    in_features: int
    out_features: int
    dtype: torch.dtype = torch.float32
    rank: int = 0
    dropout_p: float = 0.0
    torch_bits: bool = False
    activation: str | None = None
    frozen: bool = False
    backward: bool = True

    @property
    def sizes(self) -> str:
        rank = f" r{self.rank}" if self.rank else ""
        return f"{self.tokens}x{self.in_features} -> {self.out_features}{rank}"

    @property
    def details(self) -> dict[str, str]:
        return {"activation": self.activation or "", "dropout_p": f"{self.dropout_p:g}"}

    def make_inputs(self) -> Inputs:
        generator = seeded_generator()

        def random(*shape: int, scale: float = 1.0, frozen: bool = False) -> Tensor:
            leaf = (scale * torch.randn(shape, generator=generator)).to(self.dtype)
            return leaf.requires_grad_(self.backward and not frozen)

        inside, outside = self.in_features, self.out_features
        leaves = {
            "input": random(self.tokens, inside),
            "weight": random(outside, inside, scale=inside**-0.5, frozen=self.frozen),
            "bias": random(outside, frozen=self.frozen),
        }
        if self.rank:
            leaves["lora_a"] = random(self.rank, inside, scale=inside**-0.5)
            leaves["lora_b"] = random(outside, self.rank, scale=self.rank**-0.5)
        return Inputs(leaves, random(self.tokens, outside, frozen=True) if self.backward else None)

    def reference(self, leaves: Mapping[str, Tensor]) -> Tensor:
        if not self.rank:
            return sk.reference.linear(leaves["input"], leaves["weight"], leaves["bias"], self.activation)
        if not self.torch_bits:
            return sk.reference.lora_linear(**leaves, scaling=SCALING, dropout_p=self.dropout_p)
        # the draws of F.dropout depend on shape and dtype: those of the timed step, whatever the leaves are
        kept = F.dropout(torch.ones(leaves["input"].shape, dtype=self.dtype), self.dropout_p) != 0
        dropped = torch.where(kept, leaves["input"] / (1 - self.dropout_p), 0.0)
        update = F.linear(F.linear(dropped, leaves["lora_a"]), leaves["lora_b"])
        return F.linear(leaves["input"], leaves["weight"], leaves["bias"]) + SCALING * update

    def small(self) -> LinearProblem:
        return replace(self, tokens=min(SMALL, self.tokens))

    def flops(self) -> int:
        """Of the matrix products: output, gradients of input and weight, each once."""
        products = 1 + self.backward + (self.backward and not self.frozen)
        base = 2 * self.tokens * self.in_features * self.out_features * products
        # each of lora_a and lora_b: in the output, in the gradient of the input, its own gradient
        sides = self.in_features + self.out_features
        return base + 2 * self.tokens * self.rank * sides * (3 if self.backward else 1)
