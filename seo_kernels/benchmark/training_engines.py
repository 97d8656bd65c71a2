"""Models that are trained side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.benchmark.mistral_problem import MistralProblem
from seo_kernels.benchmark.training_problem import LanguageProblem, RelativeProblem, Trainee
from seo_kernels.nn.attention_projection import merge_heads, split_heads
from seo_kernels.nn.typed_attention import TypedAttention


def language(problem: LanguageProblem) -> Trainee:
    """``AdvancedTransformerModel``."""
    return Trainee(problem.make_ours(), _labelled, problem.dtype)


def gpt2(problem: LanguageProblem) -> Trainee:
    """transformers' GPT-2."""
    return Trainee(problem.make_gpt2(), _labelled, problem.dtype)


def relative(problem: RelativeProblem) -> Trainee:
    """``CustomTransformer``."""
    return Trainee(problem.make_ours(), _projected, problem.dtype)


def plain_relative(problem: RelativeProblem) -> Trainee:
    """The same model and weights with attention in plain torch."""
    model = problem.make_ours()
    for path, layer in list(model.named_modules()):
        if isinstance(layer, TypedAttention):
            model.set_submodule(path, PlainRelativeAttention(layer))
    return Trainee(model, _projected, problem.dtype)


def mistral(problem: MistralProblem) -> Trainee:
    """transformers' Mistral on this library's attention."""
    return Trainee(problem.make_ours(), _labelled, problem.dtype)


def mistral_on_sdpa(problem: MistralProblem) -> Trainee:
    return Trainee(problem.make_model("sdpa"), _labelled, problem.dtype)


class PlainRelativeAttention(nn.Module):
    """Attention with relative keys and values as their formula says (Shaw et al. 2018, eq. 3 and 4).

    Of ``layer`` it takes parameters and names.
    """

    def __init__(self, layer: TypedAttention) -> None:
        super().__init__()
        self.num_heads = layer.num_heads
        self.reach = layer.max_relative_position
        self.w_q, self.w_k, self.w_v, self.w_o = layer.w_q, layer.w_k, layer.w_v, layer.w_o
        self.relative = layer.relative
        self.dropout = nn.Dropout(layer.dropout)

    def forward(self, x: Tensor, mask: None = None) -> Tensor:
        """(B, T, d_model) -> the same."""
        tables: Any = self.relative
        query, key, value = (
            split_heads(layer(x), 1, self.num_heads, True)[0] for layer in (self.w_q, self.w_k, self.w_v)
        )
        positions = torch.arange(x.size(1))
        distance = (positions - positions[:, None]).clamp(-self.reach, self.reach) + self.reach  # (T, T)
        scores = query @ key.transpose(-1, -2)
        scores = scores + torch.einsum("bhqd,qkd->bhqk", query, tables.key[distance])
        weights = self.dropout((scores * query.size(-1) ** -0.5).softmax(-1))
        out = weights @ value + torch.einsum("bhqk,qkd->bhqd", weights, tables.value[distance])
        mixed: Tensor = self.w_o(merge_heads(out, True, True))
        return mixed


def _labelled(model: Any, leaves: Mapping[str, Tensor]) -> Tensor:
    loss: Tensor = model(input_ids=leaves["tokens"], labels=leaves["tokens"])["loss"]
    return loss


def _projected(model: Any, leaves: Mapping[str, Tensor]) -> Tensor:
    hidden: Tensor = model(leaves["tokens"])
    return (hidden * leaves["target"].to(hidden.dtype)).sum()
