"""``AdvancedTransformerModel`` learns a text byte by byte, through the documented pipeline, and writes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seo_kernels.demo.corpus import Corpus
from seo_kernels.demo.evaluate import held_out_bits, unigram_bits_per_byte, zlib_bits_per_byte
from seo_kernels.demo.train import resolve_precision
from seo_kernels.models import AdvancedTransformerModel, ModelConfig
from seo_kernels.models.generation import evaluating
from seo_kernels.training import AdvancedTokenizer, AdvancedTrainingPipeline

PROMPT_BYTES = 100
TEXT_BYTES = 500  # prompt and answer


@dataclass(frozen=True)
class LMSettings:
    """Sizes of the model, and how long it is trained on how much at a time."""

    steps: int = 600
    batch: int = 1
    length: int = 512
    width: int = 256
    layers: int = 4
    heads: int = 4
    window: int = 128
    precision: str = "auto"
    learning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")
        object.__setattr__(self, "precision", resolve_precision(self.precision))
        if self.length < 2:
            raise ValueError(f"length is {self.length}, expected at least 2: a byte and one to predict")

    def model_config(self) -> ModelConfig:
        """The documented configuration: rotary positions, attention to the last ``window`` bytes.

        Raises:
            ValueError: sizes that do not fit each other.
        """
        return ModelConfig(
            vocab_size=len(AdvancedTokenizer("byte")),
            d_model=self.width,
            n_layers=self.layers,
            n_heads=self.heads,
            max_seq_len=max(self.length, TEXT_BYTES),
            dropout=0.0,
            use_rope=True,
            attention_type="local",
            max_relative_position=self.window,
            mixed_precision=self.precision == "bfloat16",
            learning_rate=self.learning_rate,
            weight_decay=0.1,
            warmup_steps=self.steps // 10,
            label_smoothing=0.0,
        )


@dataclass
class Outcome:
    """What training came to; bits per byte, and for comparison those of simpler predictors."""

    unigram: float
    zlib: float
    held_out: float = math.nan
    seconds: float = 0.0
    prompt: str = ""
    text: str = ""
    history: list[float] = field(default_factory=list)  # of each step's batch

    @property
    def learned(self) -> bool:
        """Whether the model knows more of the held-out text than how often each byte comes."""
        return self.held_out < self.unigram


def make_pipeline(settings: LMSettings) -> AdvancedTrainingPipeline:
    """A model with fresh weights in its pipeline.

    Raises:
        ValueError: sizes that do not fit each other.
    """
    torch.manual_seed(settings.seed)
    config = settings.model_config()
    tokenizer = AdvancedTokenizer("byte", max_length=settings.length)
    return AdvancedTrainingPipeline(AdvancedTransformerModel(config), config, tokenizer, settings.steps)


def train(
    pipeline: AdvancedTrainingPipeline,
    corpus: Corpus,
    settings: LMSettings,
    on_step: Callable[[list[float]], None],
) -> Outcome:
    """Train on pieces of the text at random places, then measure on what was held out, and write."""
    outcome = Outcome(unigram_bits_per_byte(corpus.held_out), zlib_bits_per_byte(corpus.held_out))
    tokens = torch.tensor(pipeline.tokenizer.encode(corpus.train.decode(errors="replace")))
    places = torch.Generator().manual_seed(settings.seed)
    begun = time.perf_counter()
    for _ in range(settings.steps):
        metrics = pipeline.train_step(draw_batch(tokens, settings, places))
        outcome.history.append(metrics["loss"] / math.log(2))
        on_step(outcome.history)
    outcome.seconds = time.perf_counter() - begun

    def predict(ids: Tensor) -> Tensor:
        logits: Tensor = pipeline.model(ids)["logits"]
        return logits

    with evaluating(pipeline.model):
        outcome.held_out = held_out_bits(predict, corpus.held_out, settings.length, settings.length // 2)
    outcome.prompt = corpus.held_out[:PROMPT_BYTES].decode(errors="ignore")
    outcome.text = pipeline.generate_text(
        outcome.prompt, TEXT_BYTES, temperature=0.8, top_k=50, top_p=0.95, seed=settings.seed
    )
    return outcome


def draw_batch(tokens: Tensor, settings: LMSettings, places: torch.Generator) -> dict[str, Tensor]:
    """(batch, length) pieces of the text; the labels are the same, the model shifts them."""
    starts = torch.randint(len(tokens) - settings.length + 1, (settings.batch, 1), generator=places)
    pieces = tokens[starts + torch.arange(settings.length)]
    return {"input_ids": pieces, "labels": pieces}
