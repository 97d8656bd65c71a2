"""LoRA fine-tuning of a small GPT-2, twice from the same weights: with this library and with PEFT."""

import copy
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

import seo_kernels as sk
from seo_kernels._extras import require
from seo_kernels.demo.corpus import Corpus
from seo_kernels.demo.train import to_tokens

POINTS = 8  # of the held-out curve, beside its start
HELD_OUT_PIECES = 24
PURPOSE = "tune a GPT-2 beside PEFT"


@dataclass(frozen=True)
class LoRASettings:
    """A byte-level GPT-2, how long it is pre-trained and tuned, and its adapters."""

    width: int = 256
    layers: int = 4
    heads: int = 4
    steps: int = 80  # of pre-training, and again of tuning
    batch: int = 8
    length: int = 192
    rank: int = 16
    alpha: float = 32.0
    pretraining_rate: float = 2e-3
    tuning_rate: float = 3e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "steps", "batch", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, expected a divisor of width={self.width}")
        if self.rank > self.width:
            raise ValueError(f"width is {self.width}, expected {self.rank} or more, the rank of the adapters")


@dataclass
class Run:
    """One engine's tuning: held-out bits per byte by step, and the seconds of all its updates."""

    held_out: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Comparison:
    """Both runs, and how many parameters each trained."""

    ours: Run
    peft: Run
    trained: int
    parameters: int

    @property
    def largest_difference(self) -> float:
        """Between the two held-out curves, in bits per byte."""
        return max(abs(value - self.peft.held_out[step]) for step, value in self.ours.held_out.items())

    @property
    def fell(self) -> bool:
        """Whether the held-out loss ended below its start, in both runs."""
        curves = [list(run.held_out.values()) for run in (self.ours, self.peft)]
        return all(curve[-1] < curve[0] for curve in curves)


def require_peft() -> Any:
    """The ``peft`` module.

    Raises:
        MissingExtraError: it or transformers is not installed.
    """
    require("transformers", extra="peft", purpose=PURPOSE)
    return require("peft", extra="peft", purpose=PURPOSE)


def make_model(settings: LoRASettings) -> Any:
    """A GPT-2 on bytes, randomly initialised, without dropout: both engines then compute the same."""
    transformers = require("transformers", extra="peft", purpose=PURPOSE)
    torch.manual_seed(settings.seed)
    config = transformers.GPT2Config(
        vocab_size=256,
        n_positions=settings.length,
        n_embd=settings.width,
        n_layer=settings.layers,
        n_head=settings.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    return transformers.GPT2LMHeadModel(config)


def halves(text: bytes) -> tuple[Tensor, Tensor]:
    """The text to pre-train on and the text to tune on, cut between paragraphs where one ends nearby."""
    middle = len(text) // 2
    paragraph = text.rfind(b"\n\n", 0, middle) + 2
    cut = paragraph if middle - paragraph < len(text) // 20 else middle
    return to_tokens(text[:cut]), to_tokens(text[cut:])


class Batches:
    """(batch, length) pieces of a text at random places, equal for equal seeds."""

    def __init__(self, tokens: Tensor, settings: LoRASettings) -> None:
        self.tokens, self.settings = tokens, settings
        self.generator = torch.Generator().manual_seed(settings.seed)

    def draw(self) -> Tensor:
        length = self.settings.length
        size = (self.settings.batch, 1)
        starts = torch.randint(len(self.tokens) - length + 1, size, generator=self.generator)
        return self.tokens[starts + torch.arange(length)]


def next_byte_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    """Mean negative log likelihood in nats of tokens[:, 1:] given those before; tokens (B, T)."""
    logits = model(input_ids=tokens).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


class Updates:
    """AdamW with a rise and fall of the learning rate, on the parameters that want a gradient."""

    def __init__(self, model: nn.Module, rate: float, steps: int) -> None:
        self.model = model
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = AdamW(self.parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        self.schedule = OneCycleLR(self.optimizer, rate, steps + 1, pct_start=0.1, cycle_momentum=False)

    def step(self, tokens: Tensor) -> float:
        """One update; returns the seconds that it took."""
        begun = time.perf_counter()
        loss = next_byte_loss(self.model, tokens)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.schedule.step()
        return time.perf_counter() - begun


def pretrain(model: nn.Module, text: Tensor, settings: LoRASettings, on_step: Callable[[], None]) -> None:
    """Train all parameters, as nobody would call fine-tuning."""
    batches, updates = Batches(text, settings), Updates(model, settings.pretraining_rate, settings.steps)
    for _ in range(settings.steps):
        updates.step(batches.draw())
        on_step()


def twins(model: nn.Module, settings: LoRASettings) -> tuple[nn.Module, nn.Module]:
    """The model with adapters of ours, and with the same ones in PEFT, which reads our adapter folder."""
    peft = require_peft()
    ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
    torch.manual_seed(settings.seed)
    sk.lora.apply(ours, rank=settings.rank, alpha=settings.alpha, target_modules="all-linear")
    with tempfile.TemporaryDirectory() as folder:
        sk.lora.save(ours, folder)
        adapted: nn.Module = peft.PeftModel.from_pretrained(theirs, folder, is_trainable=True)
    return ours.train(), adapted.train()


@torch.no_grad()
def held_out_bits(model: nn.Module, text: Tensor, length: int) -> float:
    """Bits per byte of up to HELD_OUT_PIECES pieces, spread evenly over the text."""
    count = min(HELD_OUT_PIECES, len(text) // length)
    starts = torch.linspace(0, len(text) - length, count).long()[:, None]
    pieces = text[starts + torch.arange(length)]
    model.eval()
    loss = float(next_byte_loss(model, pieces))
    model.train()
    return loss / math.log(2)


def tune(
    model: nn.Module, text: Tensor, held_out: Tensor, settings: LoRASettings, on_step: Callable[[], None]
) -> tuple[Comparison, nn.Module]:
    """Tune both twins on the same batches, in turn; returns the comparison and our tuned model."""
    ours, theirs = twins(model, settings)
    runs = [(ours, Run()), (theirs, Run())]
    updates = [Updates(each, settings.tuning_rate, settings.steps) for each, _ in runs]
    batches = Batches(text, settings)
    shown = {round(settings.steps * point / POINTS) for point in range(POINTS + 1)}
    for step in range(settings.steps + 1):
        if step in shown:
            for each, run in runs:
                run.held_out[step] = held_out_bits(each, held_out, settings.length)
        if step == settings.steps:
            break
        tokens = batches.draw()
        turns = list(zip(updates, runs, strict=True))
        for update, (_, run) in turns if step % 2 else reversed(turns):
            run.seconds += update.step(tokens)
        on_step()
    counted = [parameter.numel() for parameter in ours.parameters()]
    trained = sum(parameter.numel() for parameter in ours.parameters() if parameter.requires_grad)
    return Comparison(runs[0][1], runs[1][1], trained, sum(counted)), ours


def prepare(corpus: Corpus) -> tuple[Tensor, Tensor, Tensor]:
    """The demo's text in three: to pre-train on, to tune on, and held out."""
    first, second = halves(corpus.train)
    return first, second, to_tokens(corpus.held_out)
