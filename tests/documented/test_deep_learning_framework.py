"""Section 1.3: deep_learning_framework."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from custom_models import CustomModelConfig
from deep_learning_framework import CustomSEOModelTrainer, TrainingConfig
from torch import Tensor
from torch.utils.data import DataLoader

SMALL = CustomModelConfig(
    model_name="small", num_classes=3, hidden_size=24, num_layers=1, num_heads=4, vocab_size=1000
)
ROWS = [
    {
        "input_ids": torch.randint(0, 1000, (16,)),
        "attention_mask": torch.ones(16),
        "labels": torch.tensor(i % 3),
    }
    for i in range(16)
]


def tuples(rows: list[dict[str, Tensor]]) -> list[tuple[Tensor, ...]]:
    return [tuple(torch.stack([row[name] for row in rows]) for name in rows[0])]


def test_configuration(binds: Callable[..., dict[str, Any]]) -> None:
    documented = {
        "model_type": "custom",
        "num_classes": 3,
        "batch_size": 16,
        "learning_rate": 1e-4,
        "use_mixed_precision": True,
    }
    binds(TrainingConfig, (), **documented)
    config = TrainingConfig(**documented)  # type: ignore[arg-type]
    assert {name: getattr(config, name) for name in documented} == documented


@pytest.mark.parametrize("set_up", [True, False])
def test_trainer_of_a_training_configuration(set_up: bool) -> None:
    config = TrainingConfig(
        model_type="custom",
        num_classes=3,
        batch_size=16,
        learning_rate=1e-3,
        use_mixed_precision=True,
        model_config=SMALL,
        progress=False,
    )
    trainer = CustomSEOModelTrainer(config)
    if set_up:
        trainer.setup_training()
    losses = []
    for _ in range(6):
        results = trainer.train_epoch_with_monitoring(DataLoader(ROWS, batch_size=16))
        assert isinstance(results["loss"], float)
        assert 0.0 <= results["accuracy"] <= 1.0
        assert f"Loss={results['loss']:.4f}, Accuracy={results['accuracy']:.4f}"
        losses.append(results["loss"])
    assert losses[-1] < losses[0]
    statistics = trainer.get_autograd_summary()["gradient_statistics"]
    assert statistics.keys() == dict(trainer.model.named_parameters()).keys()


def test_trainer_of_a_model_configuration() -> None:
    trainer = CustomSEOModelTrainer(SMALL)
    results = trainer.train_epoch_with_monitoring(DataLoader(ROWS, batch_size=8))
    assert results["loss"] > 0.0


def test_batches_as_tuples() -> None:
    still = dataclasses.replace(SMALL, dropout_rate=0.0)
    results = [
        CustomSEOModelTrainer(
            TrainingConfig(model_config=still, seed=3, use_mixed_precision=False, progress=False)
        ).train_epoch_with_monitoring(loader)
        for loader in (DataLoader(ROWS, batch_size=16), tuples(ROWS))
    ]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)
    assert results[0]["accuracy"] == results[1]["accuracy"]
