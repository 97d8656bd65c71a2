"""Training, evaluation and generation of a language model, a step at a time."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.gradient_norms import gradient_norms
from seo_kernels.models.generation import evaluating, generate
from seo_kernels.nn.sizes import check_flag, check_positive
from seo_kernels.ops.checks import kind
from seo_kernels.ops.losses import cross_entropy
from seo_kernels.training.batches import IGNORED, checked_batch, of_tokens, present
from seo_kernels.training.engine_settings import Clipping
from seo_kernels.training.gradient_clipper import clip_gradients
from seo_kernels.training.non_finite import non_finite_gradient, warn_of_skipping
from seo_kernels.training.optimizers import AdvancedOptimizers, setting
from seo_kernels.training.precision import autocast, best_precision, loss_scaler
from seo_kernels.training.tokenizer import AdvancedTokenizer


class AdvancedTrainingPipeline:
    """Optimizer, schedule, clipping and mixed precision around a model that computes its own loss.

    Where the tokenizer has more tokens than the model's embedding, ``model.resize_token_embeddings`` is
    called first, with a warning.

    Args:
        model: called with the keys of a batch as keywords it gives a mapping with "loss", a scalar, and
            "logits": an ``AdvancedTransformerModel``, a language model of transformers, or your own.
        config: has ``learning_rate``, ``weight_decay``, ``warmup_steps``, ``max_grad_norm`` and
            ``mixed_precision``: autocast to bfloat16 or, on GPUs without it, to float16 with scaled losses.
        tokenizer: of the prompts.
        num_training_steps: after which the learning rate is 0: see ``AdvancedOptimizers.create_scheduler``.

    Attributes:
        model, config, tokenizer: as given.
        optimizer, scheduler: of ``AdvancedOptimizers``.

    Raises:
        TypeError, ValueError: an argument of another kind, or a setting that is out of range.

    >>> from seo_kernels.models import AdvancedTransformerModel, ModelConfig
    >>> config = ModelConfig(vocab_size=258, d_model=16, n_layers=1, n_heads=2, warmup_steps=1)
    >>> tokenizer = AdvancedTokenizer("byte", max_length=16)
    >>> pipeline = AdvancedTrainingPipeline(AdvancedTransformerModel(config), config, tokenizer)
    >>> batch = tokenizer.tokenize_text(["first", "second"])
    >>> sorted(pipeline.train_step({**batch, "labels": batch["input_ids"]}))
    ['grad_norm', 'learning_rate', 'loss', 'skipped']
    """

    def __init__(
        self, model: nn.Module, config: Any, tokenizer: AdvancedTokenizer, num_training_steps: int = 10000
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is {kind(model)}, expected a torch.nn.Module")
        largest = check_positive("config.max_grad_norm", setting(config, "max_grad_norm"))
        self.clipping = Clipping("norm", largest)
        mixed = check_flag("config.mixed_precision", setting(config, "mixed_precision"))
        self.model, self.config, self.tokenizer = model, config, tokenizer
        _grow(model, len(tokenizer))
        self.optimizer = AdvancedOptimizers.create_optimizer(model, config)
        self.scheduler = AdvancedOptimizers.create_scheduler(self.optimizer, config, num_training_steps)
        self.precision = best_precision(self.device) if mixed else None
        self.scaler = loss_scaler(self.device, self.precision)

    @property
    def device(self) -> torch.device:
        """Where the model is; batches are moved there."""
        return next(self.model.parameters()).device

    def train_step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """One update. A loss or a gradient that is not finite is reported, and nothing is updated.

        Args:
            batch: "input_ids" int (B, T), "labels" (B, T) or (B,), "attention_mask" (B, T) where there is
                padding, and whatever else the model takes by name.

        Returns:
            "loss", the "learning_rate" of this update, "grad_norm" before clipping, and "skipped": 1.0 where
            nothing was updated (the schedule waits too), else 0.0.

        Raises:
            TypeError, ValueError: a batch that does not fit, or a model without the outputs that it needs.
        """
        inputs = checked_batch(batch, self.device)
        if not self.model.training:
            self.model.train()
        self.optimizer.zero_grad()
        loss = _loss(self._forward(inputs))
        rate = float(self.scheduler.get_last_lr()[0])
        metrics = {"loss": loss.item(), "learning_rate": rate, "grad_norm": math.nan, "skipped": 1.0}
        if not math.isfinite(metrics["loss"]):
            warn_of_skipping(f"the loss is {metrics['loss']}")
            return metrics
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        norms = gradient_norms(self.model)
        metrics["grad_norm"] = norms.total
        if norms.finite:
            clip_gradients(self.model, self.clipping, norms)
            self.scaler.step(self.optimizer)
            self.scheduler.step()
            metrics["skipped"] = 0.0
        elif not self.scaler.is_enabled():  # which looks for the largest scale that float16 holds
            warn_of_skipping(non_finite_gradient(norms))
        self.scaler.update()
        return metrics

    def evaluate_step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """How well the model does on a batch; nothing changes, neither modes nor random numbers.

        Returns:
            "loss", the model's own, and "perplexity", exp of the mean of -log p of the next token: without
            what label smoothing or a focal loss make of it. Where labels are not of tokens, exp(loss).

        Raises:
            TypeError, ValueError: as for ``train_step``.
        """
        inputs = checked_batch(batch, self.device)
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices), evaluating(self.model):
            outputs = self._forward(inputs)
            loss = _loss(outputs)
            surprise = _next_token_surprise(outputs, inputs)
        nats = (loss if surprise is None else surprise).item()
        # what overflows a float is as bad as it gets
        return {"loss": loss.item(), "perplexity": math.exp(nats) if nats < 700.0 else math.inf}

    def generate_text(
        self,
        prompt: str,
        max_length: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        *,
        seed: int | None = None,
    ) -> str:
        """The prompt, and what the model goes on with, until the tokenizer's token for the end of a text.

        Args:
            prompt: not empty.
            max_length: tokens at most, of prompt and answer together.
            temperature, top_k, top_p: see ``seo_kernels.models.generation.Sampling``; a temperature of 0
                takes the likeliest token.
            seed: of the draws; None: torch's own generator.

        Raises:
            TypeError, ValueError: an argument of another kind or out of range, or more tokens than the model
                takes.
        """
        ids = self.tokenizer.encode(prompt)
        longest = getattr(getattr(self.model, "config", None), "max_seq_len", None)
        if longest is not None and isinstance(max_length, int) and max_length > longest:
            raise ValueError(
                f"max_length is {max_length}, expected at most the model's max_seq_len={longest}"
            )
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        answer = generate(
            self.model,
            torch.tensor([ids], device=self.device),
            max_length,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            eos_token_id=self.tokenizer.eos_token_id,
            vocab_size=len(self.tokenizer),
            generator=generator,
        )
        return self.tokenizer.decode_tokens(answer)[0]

    def _forward(self, inputs: dict[str, Tensor]) -> Mapping[str, Tensor]:
        with autocast(self.device, self.precision):
            outputs = self.model(**inputs)
        if not isinstance(outputs, Mapping) or "loss" not in outputs:
            shown = f"the keys {', '.join(outputs)}" if isinstance(outputs, Mapping) else kind(outputs)
            raise TypeError(f"the model gave {shown}, expected a mapping with 'loss' when labels are given")
        return outputs


def _loss(outputs: Mapping[str, Tensor]) -> Tensor:
    loss = outputs["loss"]
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shown = f"has shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"is {kind(loss)}"
        raise TypeError(f"the model's loss {shown}, expected a tensor with one number")
    return loss.reshape(())


def _next_token_surprise(outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor | None:
    """The mean of -log p of the tokens that the loss counts; None where labels are not of tokens."""
    labels, logits = inputs["labels"], outputs.get("logits")
    if not of_tokens(labels) or logits is None or logits.dim() != 3:
        return None
    targets = labels[:, 1:]
    if "attention_mask" in inputs:  # nothing is asked of padding either
        targets = targets.masked_fill(~present(inputs["attention_mask"])[:, :-1], IGNORED)
    # logits may be of more positions than there are labels: of prompts in front
    logits = logits[:, -labels.shape[1] : -1].float().flatten(0, 1)
    targets = targets.flatten()
    losses = cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    return losses / (targets != IGNORED).sum().clamp(min=1)


def _grow(model: nn.Module, tokens: int) -> None:
    """Give the model a row of its embedding for each token, where it can and has fewer."""
    embedding: Any = getattr(model, "embedding", None)
    if embedding is None and hasattr(model, "get_input_embeddings"):
        find: Any = model.get_input_embeddings
        embedding = find()
    resize: Any = getattr(model, "resize_token_embeddings", None)
    rows = getattr(embedding, "num_embeddings", None)
    if resize is not None and rows is not None and rows < tokens:
        warnings.warn(
            f"the tokenizer has {tokens} tokens, the model's embedding {rows} rows: it grows to {tokens}",
            stacklevel=3,
        )
        resize(tokens)
