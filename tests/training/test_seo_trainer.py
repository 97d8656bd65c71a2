"""The trainer of the SEO models: what it reports, learns, resumes and refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from seo_kernels.models import CustomModelConfig, CustomMultiTaskSEOModel, CustomSEOModel
from seo_kernels.training import CustomSEOModelTrainer, NonFiniteError, TrainingConfig
from seo_kernels.training.seo_losses import classifier_loss

MODEL = CustomModelConfig(
    hidden_size=16, num_layers=1, num_heads=2, vocab_size=50, max_length=8, dropout_rate=0.1
)
TASKS: dict[str, dict[str, Any]] = {
    "topic": {"num_classes": 3, "loss_type": "cross_entropy"},
    "relevant": {"num_classes": 1, "loss_type": "binary_cross_entropy"},
    "score": {"num_classes": 1, "loss_type": "huber"},
}


def config(**changes: Any) -> TrainingConfig:
    options: dict[str, Any] = {
        "model_config": MODEL,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "use_mixed_precision": False,
        "seed": 1,
        "progress": False,
    }
    return TrainingConfig(**{**options, **changes})


def rows(count: int = 12) -> list[dict[str, Tensor]]:
    """Texts whose first token is their class."""
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(3, 50, (count, 8), generator=generator)
    texts[:, 0] = torch.arange(count) % 3
    return [
        {"input_ids": text, "attention_mask": torch.ones(8), "labels": torch.tensor(index % 3)}
        for index, text in enumerate(texts)
    ]


class Rows(torch.utils.data.Dataset[Any]):
    def __init__(self, kept: list[Any]) -> None:
        self.kept = kept

    def __len__(self) -> int:
        return len(self.kept)

    def __getitem__(self, index: int) -> Any:
        return self.kept[index]


def batches(as_tuple: bool = False) -> list[Any]:
    made = list(DataLoader(Rows(rows()), batch_size=4))
    return [tuple(batch.values()) for batch in made] if as_tuple else made


@pytest.mark.parametrize("as_tuple", [False, True])
def test_an_epoch(as_tuple: bool) -> None:
    trainer = CustomSEOModelTrainer(config(model_config=replace(MODEL, dropout_rate=0.0), learning_rate=1e-9))
    results = trainer.train_epoch_with_monitoring(batches(as_tuple))
    whole = next(iter(DataLoader(Rows(rows()), batch_size=12)))
    logits = trainer.model(whole["input_ids"], whole["attention_mask"])
    expected = F.cross_entropy(logits, whole["labels"]).item()
    hits = (logits.argmax(1) == whole["labels"]).float().mean().item()
    assert results["loss"] == pytest.approx(expected, rel=1e-5)
    assert results["accuracy"] == pytest.approx(hits)
    assert trainer.evaluate(batches()) == pytest.approx({"loss": expected, "accuracy": hits}, rel=1e-5)
    assert (results["updates"], results["skipped"], results["epoch"], results["issues"]) == (3, 0, 0, [])
    assert results["grad_norm"] > 0


def test_it_learns_and_sums_up() -> None:
    trainer = CustomSEOModelTrainer(config(use_mixed_precision=True, warmup_steps=2))
    assert trainer.get_autograd_summary()["gradient_statistics"] == {}
    history = trainer.fit(Rows(rows()), Rows(rows()), num_epochs=12)
    assert history.epochs[-1].loss < 0.5 * history.epochs[0].loss
    assert trainer.evaluate(Rows(rows()))["accuracy"] == 1.0
    summary = trainer.get_autograd_summary()
    names = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert set(summary["gradient_statistics"]) == names
    assert summary["gradient_statistics"]["head.output.weight"]["steps"] == 36
    assert summary["total_norm"]["max"] >= summary["total_norm"]["mean"] > 0
    assert (summary["updates"], summary["skipped"], summary["epochs"]) == (36, 0, 12)
    assert summary["parameters"] == sum(p.numel() for p in trainer.model.parameters())


def test_the_documented_ways_to_make_one() -> None:
    short = CustomSEOModelTrainer(MODEL)
    assert short.config.num_classes == 3
    assert isinstance(short.model, CustomSEOModel)
    trainer = CustomSEOModelTrainer(config())
    trainer.setup_training()
    engine = trainer.engine
    trainer.setup_training()
    assert trainer.engine is engine
    assert TrainingConfig(num_classes=5).encoder_config() == CustomModelConfig(num_classes=5)


@pytest.mark.parametrize("labels", ["one class", "own model"])
def test_other_classifiers(labels: str) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 3)

        def forward(self, ids: Tensor, mask: Tensor | None) -> Tensor:
            return self.table(ids[:, 0])

    if labels == "own model":
        trainer = CustomSEOModelTrainer(config(model_config=None, learning_rate=0.3), Own())
        batch: dict[str, Tensor] = batches()[0]
    else:
        trainer = CustomSEOModelTrainer(config(model_config=replace(MODEL, num_classes=1), num_classes=1))
        batch = {**batches()[0], "labels": torch.tensor([0, 1, 1, 0])}
    found = [trainer.train_epoch_with_monitoring([batch])["loss"] for _ in range(20)]
    assert found[-1] < found[0]
    assert trainer.evaluate([batch])["accuracy"] == 1.0


def test_several_tasks() -> None:
    batch = batches()[0]
    labels = {
        "topic": batch["labels"],
        "relevant": torch.tensor([1, 0, 0, 1]),
        "score": torch.tensor([0.1, 0.5, 0.2, 0.9]),
    }
    batch = {**batch, "labels": labels}
    trainer = CustomSEOModelTrainer(config(model_type="multi_task", task_configs=TASKS))
    assert isinstance(trainer.model, CustomMultiTaskSEOModel)
    results = [trainer.train_epoch_with_monitoring([batch]) for _ in range(30)]
    assert results[-1]["loss"] < 0.5 * results[0]["loss"]
    found = trainer.evaluate([batch])
    assert set(found) == {"loss", "accuracy", "accuracy_topic", "accuracy_relevant"}
    assert found["accuracy"] == found["accuracy_topic"] == found["accuracy_relevant"] == 1.0


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules_end_with_the_training(schedule: str, tmp_path: Path) -> None:
    made = config(schedule=schedule, warmup_steps=1, accumulation_steps=2, num_epochs=3)
    trainer = CustomSEOModelTrainer(made)
    trainer.fit(batches())
    rates = [step.learning_rate for step in trainer.engine.history.steps if step.updated]
    assert len(rates) == 6
    assert rates[0] == rates[1] == 0.01
    assert 0.0 < rates[-1] < rates[-2] < rates[-3] < 0.01
    assert trainer.engine.learning_rate == pytest.approx(0.0, abs=1e-12)
    trainer.save_checkpoint(tmp_path)
    other = CustomSEOModelTrainer(made)
    other.load_checkpoint(tmp_path)
    assert other.engine.scheduler is not None
    assert trainer.engine.scheduler is not None
    assert other.engine.scheduler.state_dict() == trainer.engine.scheduler.state_dict()
    single = CustomSEOModelTrainer(replace(made, num_training_steps=4))
    single.train_epoch_with_monitoring(batches())
    assert single.engine.learning_rate < 0.01


def test_early_stopping_and_resume(tmp_path: Path) -> None:
    stopping = CustomSEOModelTrainer(config(early_stopping_patience=1, learning_rate=1e-12, num_epochs=5))
    history = stopping.fit(Rows(rows()), Rows(rows()))
    assert history.stopped_early
    assert len(history.epochs) < 5
    whole = CustomSEOModelTrainer(config(ema_decay=0.9, checkpoint_every=1))
    whole.fit(Rows(rows()), Rows(rows()))
    crashing = CustomSEOModelTrainer(config(ema_decay=0.9, checkpoint_every=1))
    loss, left = crashing.engine.loss_of_batch, 5

    def fails(model: nn.Module, batch: Any) -> Any:
        nonlocal left
        left -= model.training
        if left < 0:
            raise KeyError
        return loss(model, batch)

    crashing.engine.loss_of_batch = fails
    with pytest.raises(KeyError):
        crashing.fit(Rows(rows()), Rows(rows()), checkpoint_folder=tmp_path)
    torch.manual_seed(77)
    resumed = CustomSEOModelTrainer(config(ema_decay=0.9, checkpoint_every=1, seed=5))
    resumed.fit(Rows(rows()), Rows(rows()), checkpoint_folder=tmp_path, resume=True)
    assert resumed.engine.history.losses == whole.engine.history.losses
    assert resumed.evaluate(Rows(rows())) == whole.evaluate(Rows(rows()))


def test_a_loss_that_is_not_finite() -> None:
    class Broken(CustomSEOModel):
        def forward(self, input_ids: Any, attention_mask: Tensor | None = None) -> Tensor:
            return super().forward(input_ids, attention_mask) * math.nan

    skipping = CustomSEOModelTrainer(config(model_config=None), Broken(MODEL))
    with pytest.warns(RuntimeWarning, match="the loss of batch 0 is nan"):
        results = skipping.train_epoch_with_monitoring(batches())
    assert (results["updates"], results["skipped"], math.isnan(results["loss"])) == (0, 3, True)
    stopping = CustomSEOModelTrainer(config(model_config=None, non_finite="stop"), Broken(MODEL))
    with pytest.raises(NonFiniteError):
        stopping.train_epoch_with_monitoring(batches())


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(rows())


TRAINER = CustomSEOModelTrainer(config())
IDS = torch.ones(4, 8).long()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: CustomSEOModelTrainer({}), TypeError, "config is a dict, expected a TrainingConfig"),  # type: ignore[arg-type]
        (lambda: CustomSEOModelTrainer(config(), "m"), TypeError, "model is a str"),  # type: ignore[arg-type]
        (lambda: CustomSEOModelTrainer(config(), nn.Linear(1, 1)), ValueError, "beside config.model_config"),
        (
            lambda: CustomSEOModelTrainer(TrainingConfig(), CustomMultiTaskSEOModel(MODEL, TASKS)),
            ValueError,
            "config.model_type is 'custom' for a CustomMultiTaskSEOModel",
        ),
        (lambda: TRAINER.train_epoch_with_monitoring([]), ValueError, "loader yields nothing"),
        (
            lambda: TRAINER.train_epoch_with_monitoring([IDS]),
            TypeError,
            "the batch is a Tensor, expected a map",
        ),
        (lambda: TRAINER.train_epoch_with_monitoring([(IDS,)]), ValueError, "the batch has 1 parts"),
        (lambda: TRAINER.train_epoch_with_monitoring([{"input_ids": IDS}]), ValueError, "lacks labels"),
        (lambda: TRAINER.evaluate([{"ids": IDS, "labels": IDS}]), ValueError, "lacks input_ids"),
        (
            lambda: TRAINER.evaluate([{"input_ids": IDS, "labels": IDS[:, 0], "token_type_ids": IDS}]),
            ValueError,
            "the batch has token_type_ids, expected input_ids, attention_mask, labels",
        ),
        (lambda: TRAINER.evaluate([(IDS, IDS)]), ValueError, r"labels has shape \(4, 8\)"),
        (lambda: TRAINER.evaluate([(IDS, IDS[:, 0] + 5)]), ValueError, "labels holds 6"),
        (lambda: TRAINER.evaluate([(IDS + 50, IDS[:, 0])]), ValueError, "input_ids"),
        (
            lambda: CustomSEOModelTrainer(config(model_config=None), nn.Bilinear(2, 2, 2)).evaluate(
                [(torch.ones(4, 2, 2), torch.ones(4, 2, 2), IDS[:, 0])]
            ),
            TypeError,
            r"the model's output of shape \(4, 2, 2\) is something else",
        ),
        (
            lambda: CustomSEOModelTrainer(config(schedule="cosine")).fit(Stream()),
            ValueError,
            "expected config.num_training_steps for the schedule 'cosine'",
        ),
        (lambda: TrainingConfig(model_type="gpt"), ValueError, "model_type is 'gpt'"),
        (lambda: TrainingConfig(num_classes=0), ValueError, "num_classes is 0"),
        (lambda: TrainingConfig(batch_size=0), ValueError, "batch_size is 0"),
        (lambda: TrainingConfig(learning_rate=0.0), ValueError, r"learning_rate is 0\.0"),
        (lambda: TrainingConfig(use_mixed_precision=1), TypeError, "use_mixed_precision is an int"),  # type: ignore[arg-type]
        (lambda: TrainingConfig(model_config={}), TypeError, "model_config is a dict"),  # type: ignore[arg-type]
        (
            lambda: TrainingConfig(num_classes=4, model_config=MODEL),
            ValueError,
            "num_classes is 4, expected the 3",
        ),
        (
            lambda: TrainingConfig(task_configs=TASKS),
            ValueError,
            "task_configs is a dict, expected None but for",
        ),
        (
            lambda: TrainingConfig(model_type="multi_task"),
            ValueError,
            "task_configs is None, expected some for",
        ),
        (lambda: TrainingConfig(schedule="step"), ValueError, "schedule is 'step'"),
        (lambda: TrainingConfig(warmup_steps=-1), ValueError, "warmup_steps is -1"),
        (lambda: TrainingConfig(max_grad_norm=0.0), ValueError, r"max_grad_norm is 0\.0"),
        (lambda: TrainingConfig(early_stopping_patience=0), ValueError, "early_stopping_patience is 0"),
        (lambda: TrainingConfig(accumulation_steps=0), ValueError, "accumulation_steps is 0"),
        (lambda: TrainingConfig(device="gpu"), ValueError, "device is 'gpu', expected one that torch knows"),
        (lambda: TrainingConfig(device=0), TypeError, "device is an int"),  # type: ignore[arg-type]
        (lambda: TrainingConfig(num_epochs=0), ValueError, "num_epochs is 0"),
        (lambda: TrainingConfig(weight_decay=-1.0), ValueError, r"weight_decay is -1\.0"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_accuracy() -> None:
    def accuracy(logits: list[list[float]], labels: list[int]) -> float:
        outputs = torch.tensor(logits)
        batch = (torch.zeros(len(labels), 1).long(), torch.tensor(labels))
        return float(classifier_loss(lambda ids, mask: outputs, batch)[1]["accuracy"])  # type: ignore[arg-type]

    assert accuracy([[0.5], [0.2], [-0.5], [2.0]], [1, 1, 0, 0]) == 0.75
    assert accuracy([[0.5, 0.1], [0.2, 0.3], [0.0, 1.0], [2.0, 0.0]], [0, 0, 1, -100]) == pytest.approx(2 / 3)
