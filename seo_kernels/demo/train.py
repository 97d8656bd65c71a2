"""Training with a checkpoint from which an interrupted run goes on exactly where it stopped."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from seo_kernels._library import info
from seo_kernels.demo.corpus import Corpus
from seo_kernels.demo.model import Attend, ByteModel, ModelConfig

PRECISIONS = ("auto", "float32", "bfloat16")
CHECKPOINT_EVERY = 100  # steps; and once more at the end or on Ctrl-C


@dataclass(frozen=True)
class TrainConfig:
    """How long, on how much at a time, and how fast."""

    steps: int
    batch: int
    length: int
    learning_rate: float = 3e-3
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")


def resolve_precision(precision: str) -> str:
    """The precision itself, and for "auto" bfloat16 where the CPU multiplies it.

    Raises:
        ValueError: an unknown name.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    return "bfloat16" if str(info().get("cpu_capability")).endswith("_bf16") else "float32"


@contextmanager
def precision_context(precision: str) -> Iterator[None]:
    """Autocast to bfloat16, or plain float32."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def to_tokens(text: bytes) -> Tensor:
    """Bytes as int64 (length,)."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


class Trainer:
    """Model, optimizers, schedules and the generator of the batches: all that a checkpoint has to hold."""

    def __init__(
        self, model_config: ModelConfig, config: TrainConfig, corpus: Corpus, attend: Attend
    ) -> None:
        self.config, self.attend = config, attend
        self.identity = {"model": asdict(model_config), "train": asdict(config), "corpus": corpus.fingerprint}
        torch.manual_seed(config.seed)
        self.model = ByteModel(model_config)
        # Muon (Jordan et al. 2024) for the matrices of the blocks: AdamW alone needs several times the steps
        matrices = [module.weight for module in self.model.blocks.modules() if isinstance(module, nn.Linear)]
        known = set(matrices)
        others = [parameter for parameter in self.model.parameters() if parameter not in known]
        self.optimizers: list[Optimizer] = [
            Muon(matrices, lr=config.learning_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
            AdamW(others, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        ]
        self.schedules = [
            OneCycleLR(optimizer, config.learning_rate, config.steps + 1, pct_start=0.1, cycle_momentum=False)
            for optimizer in self.optimizers
        ]
        self.tokens = to_tokens(corpus.train)
        self.batches = torch.Generator().manual_seed(config.seed)
        self.history: list[float] = []  # bits per byte of each step's batch
        self.seconds = 0.0

    @property
    def step(self) -> int:
        """Steps done."""
        return len(self.history)

    def draw_batch(self) -> Tensor:
        """(batch, length + 1) pieces of the training text, at random places."""
        starts = torch.randint(
            len(self.tokens) - self.config.length, (self.config.batch, 1), generator=self.batches
        )
        return self.tokens[starts + torch.arange(self.config.length + 1)]

    def train_step(self) -> float:
        """One update; returns the batch's bits per byte."""
        begun = time.perf_counter()
        with precision_context(self.config.precision):
            loss = self.model.loss(self.draw_batch(), self.attend)
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()
        self.history.append(loss.item() / math.log(2))
        self.seconds += time.perf_counter() - begun
        return self.history[-1]

    def run(self, checkpoint: Path, on_step: Callable[["Trainer"], None]) -> bool:
        """Train to the last step; False if Ctrl-C (or SIGTERM) came first. Always writes the checkpoint."""
        with _stop_requests() as stop:
            while self.step < self.config.steps and not stop:
                self.train_step()
                on_step(self)
                if self.step % CHECKPOINT_EVERY == 0:
                    self.save(checkpoint)
            self.save(checkpoint)
        return self.step == self.config.steps

    def save(self, path: Path) -> None:
        """Write the checkpoint; a crash in between leaves the previous one whole."""
        state = {
            "identity": self.identity,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "batches": self.batches.get_state(),
            "history": self.history,
            "seconds": self.seconds,
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        os.replace(partial, path)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint.

        Raises:
            ValueError: the file is no checkpoint of the demo, or one of other settings or another text.
        """
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True)
            identity = state["identity"]
        except Exception as error:
            raise ValueError(f"{str(path)!r} can't be read, expected a checkpoint of the demo") from error
        for part, expected in self.identity.items():
            if identity[part] != expected:
                raise ValueError(f"{str(path)!r} has {_difference(part, identity[part], expected)}")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
        self.batches.set_state(state["batches"])
        self.history, self.seconds = state["history"], state["seconds"]


def _difference(part: str, found: Any, expected: Any) -> str:
    if not isinstance(expected, dict):
        return f"another {part}, expected the one that is given now"
    names = [name for name in expected if found.get(name) != expected[name]]
    return ", ".join(f"{name}={found.get(name)}, expected {expected[name]}" for name in names)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that fills when the process is asked to stop, so that a step is never cut in two.

    The second request acts at once.
    """
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        for each, handler in previous.items():
            signal.signal(each, handler)

    for number in previous:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
