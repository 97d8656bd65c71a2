"""A model of transformers on one or another attention."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from seo_kernels._extras import require
from seo_kernels.benchmark.problem import Forward, Inputs, Results
from seo_kernels.benchmark.training_problem import TrainingProblem, check_gradients, trainee
from seo_kernels.integrations import transformers as integration


@dataclass(frozen=True)
class MistralProblem(TrainingProblem):
    """A training step of transformers' Mistral, whose attention slides over ``window`` keys."""

    window: int = 256
    key_heads: int = 2

    def make_inputs(self) -> Inputs:
        return Inputs({"tokens": self.tokens()}, None)

    def make_ours(self) -> nn.Module:
        return self.make_model(integration.register())

    def make_model(self, implementation: str) -> nn.Module:
        """On this attention, the same weights each time.

        Raises:
            MissingExtraError: transformers is not installed.
        """
        transformers = require("transformers", extra="models", purpose="run its models")
        config = transformers.MistralConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.dim,
            intermediate_size=4 * self.dim,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.key_heads,
            max_position_embeddings=self.length,
            sliding_window=self.window,
            attention_dropout=self.dropout,
            use_cache=False,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model: nn.Module = transformers.MistralForCausalLM._from_config(
                config, attn_implementation=implementation
            )
        return model

    def expect(self, inputs: Inputs) -> Results:
        """On SDPA, in float64."""
        from seo_kernels.benchmark.training_engines import mistral_on_sdpa

        return mistral_on_sdpa(self).exact().without_dropout(inputs.leaves)

    def verify(self, inputs: Inputs, forward: Forward, expected: Results) -> float:
        return check_gradients(trainee(forward).without_dropout(inputs.leaves), expected, self.dtype)

    def small(self) -> MistralProblem:
        return replace(self, layers=1, length=32, window=8)
