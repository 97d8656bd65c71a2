import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from seo_kernels.demo.corpus import Corpus
from seo_kernels.demo.engines import fused
from seo_kernels.demo.model import ModelConfig
from seo_kernels.demo.train import TrainConfig, Trainer

MODEL = ModelConfig(width=16, layers=1, heads=2, window=8)
TRAIN = TrainConfig(steps=6, batch=2, length=24, precision="float32")
CORPUS = Corpus("test", train=bytes(range(256)) * 4, held_out=bytes(range(256)))


def trainer(model: ModelConfig = MODEL, train: TrainConfig = TRAIN, corpus: Corpus = CORPUS) -> Trainer:
    return Trainer(model, train, corpus, fused)


def same_state(one: Any, other: Any) -> bool:
    """Equality of nested states, tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_state(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same_state, one, other))
    return bool(one == other)


def interrupt_at(step: int) -> Any:
    def on_step(trainer: Trainer) -> None:
        if trainer.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return on_step


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = trainer()
    assert whole.run(tmp_path / "whole.pt", lambda trainer: None)

    handler = signal.getsignal(signal.SIGINT)
    first = trainer()
    assert not first.run(tmp_path / "checkpoint.pt", interrupt_at(2))
    assert first.step == 2
    assert signal.getsignal(signal.SIGINT) is handler

    torch.rand(3)  # whatever else the process draws
    second = trainer()
    second.resume(tmp_path / "checkpoint.pt")
    assert second.step == 2
    assert second.run(tmp_path / "checkpoint.pt", lambda trainer: None)
    states = [torch.load(tmp_path / name) for name in ("whole.pt", "checkpoint.pt")]
    for state in states:
        assert state.pop("seconds") > 0
    assert len(states[0]["history"]) == TRAIN.steps
    assert same_state(*states)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Whatever the shell that started the tests does with interrupts: in the background it ignores them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_acts_at_once(tmp_path: Path) -> None:
    def twice(trainer: Trainer) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trainer().run(tmp_path / "checkpoint.pt", twice)


def test_the_loss_falls() -> None:
    verse = Corpus("verse", train=b"to be, or not to be: " * 20, held_out=b"to be, or not to be: ")
    settings = TrainConfig(steps=40, batch=2, length=64, learning_rate=2e-2, precision="float32")
    learner = trainer(train=settings, corpus=verse)
    for _ in range(40):
        learner.train_step()
    assert learner.history[0] == pytest.approx(8.0)
    assert learner.history[-1] < 2.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": ModelConfig(width=32, layers=1, heads=2, window=8)}, "width=16, expected 32"),
        ({"train": TrainConfig(steps=7, batch=2, length=24, precision="float32")}, "steps=6, expected 7"),
        ({"corpus": Corpus("other", b"x" * 999, b"y" * 99)}, "another corpus"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, changed: Any, message: str) -> None:
    trainer().save(tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=message):
        trainer(**changed).resume(tmp_path / "checkpoint.pt")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_text("hello")
    with pytest.raises(ValueError, match="expected a checkpoint of the demo"):
        trainer().resume(tmp_path / "checkpoint.pt")
