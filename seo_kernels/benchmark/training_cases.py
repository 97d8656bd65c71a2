"""The documented models beside what else there is: whole training steps, and text."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from seo_kernels.benchmark.case import Case, MemoryFloor, Peer, faster, no_slower
from seo_kernels.benchmark.generation_problem import GenerationProblem, ours, transformers_generate
from seo_kernels.benchmark.mistral_problem import MistralProblem
from seo_kernels.benchmark.training_engines import (
    gpt2,
    language,
    mistral,
    mistral_on_sdpa,
    plain_relative,
    relative,
)
from seo_kernels.benchmark.training_problem import LanguageProblem, RelativeProblem


@dataclass(frozen=True)
class TrainingSizes:
    layers: int = 6
    dim: int = 512
    heads: int = 8
    vocabulary: int = 8192
    length: int = 512
    batch: int = 4
    long_length: int = 4096
    window: int = 256
    relative_length: int = 1024
    prompt: int = 16
    new_tokens: int = 256


def training_cases(sizes: TrainingSizes) -> list[Case]:
    """Language models beside GPT-2 of the same size, and relative positions beside their formula."""
    model = (sizes.layers, sizes.dim, sizes.heads)
    full = LanguageProblem(*model, sizes.length, sizes.batch, sizes.vocabulary)
    # without dropout: with it GPT-2's attention leaves SDPA's fast path on the CPU and takes 8 times as long
    local = LanguageProblem(*model, sizes.long_length, 1, sizes.vocabulary, dropout=0.0, window=sizes.window)
    sliding = MistralProblem(*model, sizes.long_length, 1, sizes.vocabulary, 0.0, window=sizes.window)
    relations = RelativeProblem(*model, sizes.relative_length, 1, sizes.vocabulary)
    writing = replace(full, length=sizes.prompt + sizes.new_tokens, batch=1)
    beside, formula = "transformers' GPT-2", "plain torch"
    near = f"attention to {sizes.window}"
    return [
        Case(
            "language-fp32-step",
            f"language model, {full.sizes}, fp32 training step",
            full,
            language,
            (Peer(beside, gpt2, faster(1.7)),),
        ),
        Case(
            "language-local-fp32-step",
            f"language model, {near}, {local.sizes}, fp32 training step",
            local,
            language,
            (Peer(beside, gpt2, faster(2.5)),),
        ),
        Case(
            "language-local-bf16-step",
            f"language model, {near}, {local.sizes}, bf16 training step",
            replace(local, dtype=torch.bfloat16),
            language,
            (Peer(beside, gpt2, faster(1.5)),),
        ),
        Case(
            "mistral-window-fp32-step",
            f"transformers' Mistral, window of {sizes.window}, {sliding.sizes}, fp32 training step",
            sliding,
            mistral,
            (Peer("the same on SDPA", mistral_on_sdpa, faster(2)),),
        ),
        Case(
            "relative-model-fp32-step",
            f"transformer with relative positions, {relations.sizes}, fp32 training step",
            relations,
            relative,
            (Peer(formula, plain_relative, faster(4)),),
            memory_floor=MemoryFloor(0.25, peer=formula),
        ),
        Case(
            "generate-fp32",
            f"text, {sizes.new_tokens} tokens, {writing.sizes}, fp32",
            GenerationProblem(writing, sizes.new_tokens),
            ours,
            (Peer("transformers' generate()", transformers_generate, no_slower()),),
        ),
    ]
