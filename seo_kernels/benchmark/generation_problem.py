"""Greedy text with a cache of keys and values."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.benchmark.problem import Forward, Inputs, Problem
from seo_kernels.benchmark.training_problem import LanguageProblem
from seo_kernels.benchmark.verification import WrongResultError
from seo_kernels.models.generation import generate

TIE = 1e-3  # logits that float32 may take for the larger one


@dataclass(frozen=True)
class GenerationProblem(Problem):
    """``new_tokens`` behind a prompt, each the likeliest, from models of one size with random weights."""

    language: LanguageProblem  # its length: of prompt and answer
    new_tokens: int
    backward: bool = False

    @property
    def dtype(self) -> torch.dtype:  # type: ignore[override]
        return self.language.dtype

    @property
    def sizes(self) -> str:
        return f"{self.language.sizes}, {self.new_tokens} new tokens"

    def make_inputs(self) -> Inputs:
        return Inputs({"prompt": self.language.tokens()[:, : self.language.length - self.new_tokens]}, None)

    def expect(self, inputs: Inputs) -> None:
        """Each contender says it for itself."""

    def verify(self, inputs: Inputs, forward: Forward, expected: None) -> float:
        """How far, at most, a token's logit is below the largest: in float64, without a cache."""
        if not isinstance(forward, Writer):
            raise TypeError(f"forward is {forward!r}, expected a Writer")
        ids = forward(inputs.leaves)
        prompt = inputs.leaves["prompt"]
        if ids.shape != (len(prompt), self.language.length) or not bool(
            (ids[:, : prompt.shape[1]] == prompt).all()
        ):
            raise WrongResultError(
                f"it gives {tuple(ids.shape)} tokens, expected the prompt and {self.new_tokens}"
            )
        exact: Any = copy.deepcopy(forward.model).double()
        with torch.no_grad():
            logits = exact(input_ids=ids)["logits"][:, prompt.shape[1] - 1 : -1]
        chosen = logits.gather(2, ids[:, prompt.shape[1] :, None])[..., 0]
        short = float((logits.amax(2) - chosen).max())
        if not short <= TIE:
            raise WrongResultError(f"a token's logit is {short:.1e} below the largest, expected the largest")
        return short

    def small(self) -> GenerationProblem:
        language = replace(self.language, layers=1, length=20)
        return replace(self, language=language, new_tokens=8)


class Writer:
    """A model in eval mode, and how it writes."""

    def __init__(self, model: nn.Module, length: int) -> None:
        self.model: Any = model.eval()
        self.length = length

    def __call__(self, leaves: Mapping[str, Tensor]) -> Tensor:
        """(B, length), prompt and answer."""
        return generate(self.model, leaves["prompt"], self.length, temperature=0.0)


class TransformersWriter(Writer):
    def __call__(self, leaves: Mapping[str, Tensor]) -> Tensor:
        ids: Tensor = self.model.generate(
            leaves["prompt"],
            attention_mask=torch.ones_like(leaves["prompt"]),
            max_length=self.length,
            do_sample=False,
            eos_token_id=None,
        )
        return ids


def ours(problem: GenerationProblem) -> Writer:
    """``generate`` of ``AdvancedTransformerModel``."""
    return Writer(problem.language.make_ours(), problem.language.length)


def transformers_generate(problem: GenerationProblem) -> Writer:
    """``generate`` of transformers' GPT-2."""
    return TransformersWriter(problem.language.make_gpt2(), problem.language.length)
