"""Text from a language model, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.nn.sizes import check_not_negative, check_positive, check_size
from seo_kernels.ops.checks import kind

HEAD = 256  # tokens that a nucleus is looked for in first


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn: from softmax(logits / temperature), cut down to the likeliest.

    Args:
        temperature: at least 0; 0 takes the likeliest token (greedy).
        top_k: the likeliest tokens that are drawn from, however few there are; None: all.
        top_p: in (0, 1]; the fewest of the likeliest tokens that together are at least as probable (Holtzman
            et al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1); after top_k; None: all.

    Raises:
        TypeError, ValueError: an argument of another kind or out of range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        check_not_negative("temperature", self.temperature)
        if self.top_k is not None:
            check_size("top_k", self.top_k)
        if self.top_p is not None and check_positive("top_p", self.top_p) > 1.0:
            raise ValueError(f"top_p is {self.top_p}, expected a number in (0, 1]")

    def draw(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """A token (B,) for each row of logits (B, V).

        Raises:
            ValueError: a row without a largest logit: with NaN, +inf, or -inf only.
        """
        logits = logits.float()
        largest, likeliest = logits.max(-1, keepdim=True)
        if not bool(torch.isfinite(largest).all()):
            raise ValueError("the model's logits are not finite, expected numbers to draw a token by")
        if self.temperature == 0.0:
            return likeliest[:, 0]
        tokens: Tensor | None = None  # of each column; None: its own number
        if self.top_k is not None and self.top_k < logits.shape[1]:
            logits, tokens = logits.topk(self.top_k)
        # less the largest first: with any temperature one of the terms is exp(0)
        probabilities = ((logits - largest) / self.temperature).softmax(-1)
        if self.top_p is not None and self.top_p < 1.0:
            if tokens is None:
                probabilities, tokens = _head(probabilities, self.top_p)
            before = probabilities.cumsum(-1) - probabilities
            probabilities = probabilities.masked_fill(before >= self.top_p, 0.0)
        drawn = _draw(probabilities, generator)
        return (drawn if tokens is None else tokens.gather(1, drawn))[:, 0]


def _draw(weights: Tensor, generator: torch.Generator | None) -> Tensor:
    """A column (B, 1) of each row: where the running sum passes a random share of the whole.

    One random number a row; ``torch.multinomial`` draws one for each column.
    """
    sums = weights.cumsum(-1, dtype=torch.float64)
    share = torch.rand(len(sums), 1, dtype=sums.dtype, device=sums.device, generator=generator)
    return torch.searchsorted(sums, share * sums[:, -1:], right=True)


def _head(probabilities: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The largest probabilities and their columns, enough for that share of each row: a sort of few."""
    size = HEAD
    while size < probabilities.shape[1]:
        head, columns = probabilities.topk(size)
        if bool((head.sum(-1) >= share).all()):
            return head, columns
        size *= 8
    return probabilities.sort(descending=True)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def generate(
    model: nn.Module,
    input_ids: Tensor,
    max_length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_token_id: int | None = None,
    vocab_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The prompts, and what the model goes on with.

    Args:
        model: with ``new_cache()`` and ``decode(ids, cache)`` as ``AdvancedTransformerModel`` has them, or
            called with ids alone it gives a mapping with "logits" (B, T, V), all of them for each token. It
            computes in eval mode and keeps its own.
        input_ids: int64 (B, T), prompts without padding; T below max_length.
        max_length: tokens at most, prompt and answer together.
        temperature, top_k, top_p: as for ``Sampling``.
        eos_token_id: ends a row; what comes after it is it again. None: all rows become max_length long.
        vocab_size: what is drawn is below it, where the model has more tokens than the tokenizer; None:
            all of the model's.
        generator: of the draws, on the model's device; None: torch's own.

    Returns:
        int64 (B, at most max_length).

    Raises:
        TypeError: an argument of another kind.
        ValueError: one out of range, or logits that are not finite.

    >>> successor = lambda ids: {"logits": torch.nn.functional.one_hot((ids + 1) % 5, 5).float()}
    >>> module = torch.nn.Module()
    >>> module.forward = successor
    >>> generate(module, torch.tensor([[2]]), 6, temperature=0.0)
    tensor([[2, 3, 4, 0, 1, 2]])
    """
    sampling = Sampling(temperature, top_k, top_p)
    _check_prompts(input_ids, max_length)
    if vocab_size is not None:
        check_size("vocab_size", vocab_size)
    next_logits = _decoder(model)
    batch, length = input_ids.shape
    ids = input_ids.new_empty(batch, max_length, dtype=torch.int64)
    ids[:, :length] = input_ids
    ended = torch.zeros(batch, dtype=torch.bool, device=ids.device)
    with evaluating(model):
        logits = next_logits(ids[:, :length])
        while True:
            token = sampling.draw(logits[:, :vocab_size], generator)
            if eos_token_id is not None:
                token = token.masked_fill(ended, eos_token_id)
                ended |= token == eos_token_id
            ids[:, length] = token
            length += 1
            if length == max_length or (eos_token_id is not None and bool(ended.all())):
                return ids[:, :length]
            logits = next_logits(token[:, None])


def _decoder(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """From the ids (B, T) after those of the calls before to the logits (B, V) of the token after them."""
    decode: Any = getattr(model, "decode", None)
    if decode is not None and hasattr(model, "new_cache"):
        new_cache: Any = model.new_cache
        cache = new_cache()
        return lambda ids: decode(ids, cache)
    before: list[Tensor] = []

    def from_the_start(ids: Tensor) -> Tensor:
        before.append(ids)
        logits: Tensor = model(torch.cat(before, 1))["logits"]
        return logits[:, -1]

    return from_the_start


def _check_prompts(input_ids: Tensor, max_length: int) -> None:
    if not isinstance(input_ids, Tensor):
        raise TypeError(f"input_ids is {kind(input_ids)}, expected a tensor of token ids (B, T)")
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"input_ids has dtype {input_ids.dtype}, expected token ids, int64 (B, T)")
    if input_ids.dim() != 2 or input_ids.numel() == 0:
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}, expected (B, T), at least one token")
    check_size("max_length", max_length)
    if input_ids.shape[1] >= max_length:
        raise ValueError(
            f"the prompt has {input_ids.shape[1]} tokens, expected fewer than max_length={max_length}, which "
            "counts prompt and answer"
        )
