"""A training step of a small GPT-2 with adapters on all its linear layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seo_kernels.benchmark.gpt2 import make_gpt2
from seo_kernels.benchmark.problem import Forward, Inputs, Problem, Results, seeded_generator
from seo_kernels.benchmark.verification import Expected, check_results, expectation

TARGETS = ("c_attn", "c_proj", "c_fc")  # all linear layers but the head, which is the embedding
SCALING = 2.0  # alpha / rank
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class ModelProblem(Problem):
    """transformers' GPT-2 with random weights, cast to ``dtype``, and LoRA; forward, backward, AdamW's step.

    The head has ``vocabulary`` classes, far fewer than GPT-2's 50257: it is no linear layer with an adapter,
    and with all of them it would take much of the time, the same on both sides. Dropout is off everywhere.
    """

    layers: int
    dim: int
    heads: int
    length: int
    batch: int
    vocabulary: int
    rank: int
    dtype: torch.dtype = torch.float32
    backward: bool = True

    @property
    def sizes(self) -> str:
        model = f"{self.layers} layers d{self.dim} V{self.vocabulary}"
        return f"{model} B{self.batch} T{self.length} r{self.rank}"

    def make_inputs(self) -> Inputs:
        generator = seeded_generator()
        shape = (self.batch, self.length)
        return Inputs({"tokens": torch.randint(self.vocabulary, shape, generator=generator)}, None)

    def make_model(self) -> nn.Module:
        """The same weights each time, without adapters.

        Raises:
            MissingExtraError: transformers is not installed.
        """
        model = make_gpt2(
            layers=self.layers,
            dim=self.dim,
            heads=self.heads,
            length=self.length,
            vocabulary=self.vocabulary,
        )
        return model.to(self.dtype)

    def step(self, forward: Forward, inputs: Inputs) -> Results:
        """The loss and the gradients of the adapters, which then take a step of the optimizer."""
        if not isinstance(forward, Training):
            raise TypeError(f"forward is {forward!r}, expected a Training")
        loss = forward(inputs.leaves)
        loss.backward()
        gradients = {f"d {name}": adapter.grad for name, adapter in forward.adapters.items()}
        forward.optimizer.step()
        forward.optimizer.zero_grad()
        return {"loss": loss.detach(), **{name: grad for name, grad in gradients.items() if grad is not None}}

    def expect(self, inputs: Inputs) -> Expected:
        """The adapters in plain torch around the model in float64, and once more at its own dtype."""
        exact = self.step(self._plain(torch.float64), inputs)
        plain = self.step(self._plain(self.dtype), inputs)
        return expectation(exact, plain, self.dtype)

    def verify(self, inputs: Inputs, forward: Forward, expected: Expected) -> float:
        return check_results(self.step(forward, inputs), expected)

    def small(self) -> ModelProblem:
        return replace(self, layers=1)

    def _plain(self, dtype: torch.dtype) -> Training:
        model = self.make_model().to(dtype).requires_grad_(False)
        layers = {path: layer for path, layer in model.named_modules() if path.endswith(TARGETS)}
        adapters: dict[str, nn.Parameter] = {}
        for path, base in layers.items():
            adapter = PlainAdapter(base, self.rank, torch.promote_types(dtype, torch.float32))
            model.set_submodule(path, adapter)
            adapters |= {f"{path}.lora_a": adapter.lora_a, f"{path}.lora_b": adapter.lora_b}
        return Training(model, adapters)


class Training:
    """A model, its adapters by the path of their layer and ".lora_a" or ".lora_b", and their optimizer.

    The adapters start from values that follow from names and shapes, lora_a (rank, in), lora_b (out, rank).
    """

    def __init__(self, model: nn.Module, adapters: Mapping[str, nn.Parameter]) -> None:
        generator = seeded_generator()
        for _, adapter in sorted(adapters.items()):
            values = torch.randn(adapter.shape, generator=generator) * adapter.shape[1] ** -0.5 / 4
            adapter.data.copy_(values)
        self.model: Any = model
        self.adapters = dict(adapters)
        self.optimizer = torch.optim.AdamW(self.adapters.values(), lr=LEARNING_RATE)

    def __call__(self, leaves: Mapping[str, Tensor]) -> Tensor:
        """The mean cross entropy of the next token, from logits in float32 or float64."""
        tokens = leaves["tokens"]
        logits = self.model(input_ids=tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, tokens[:, 1:].flatten())


class PlainAdapter(nn.Module):
    """LoRA as its formula says, in the dtype of the base: base(x) + x A^T B^T * scaling."""

    def __init__(self, base: nn.Module, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        inside, outside = base.get_parameter("weight").shape  # transformers' Conv1D
        self.base = base
        self.lora_a = nn.Parameter(torch.empty(rank, inside, dtype=dtype))
        self.lora_b = nn.Parameter(torch.empty(outside, rank, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        lora_a, lora_b = self.lora_a.to(input.dtype), self.lora_b.to(input.dtype)
        out: Tensor = self.base(input)
        return out + F.linear(F.linear(input, lora_a), lora_b) * SCALING
