"""The documented training of ``advanced_autograd_models``: each name, as the document calls it."""

from __future__ import annotations

import advanced_autograd_models
import pytest
import torch
from advanced_autograd_models import (
    AdvancedLossFunctions,
    AdvancedOptimizers,
    AdvancedTokenizer,
    AdvancedTrainingPipeline,
    AdvancedTransformerModel,
    ModelConfig,
)

NAMES = ["AdvancedLossFunctions", "AdvancedOptimizers", "AdvancedTokenizer", "AdvancedTrainingPipeline"]
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    assert name in advanced_autograd_models.__all__
    assert getattr(advanced_autograd_models, name).__doc__


def test_losses() -> None:
    predictions, targets = torch.randn(4, 3), torch.randint(0, 3, (4,))
    rows = torch.randn(3, 8, 16)
    losses = [
        AdvancedLossFunctions.focal_loss(predictions, targets, alpha=1.0, gamma=2.0),
        AdvancedLossFunctions.label_smoothing_loss(predictions, targets, smoothing=0.1),
        AdvancedLossFunctions.contrastive_loss(rows[0], torch.arange(8) % 2, temperature=0.07, margin=1.0),
        AdvancedLossFunctions.triplet_loss(*rows, margin=1.0),
    ]
    assert all(loss.shape == () and loss.item() > 0 for loss in losses)


def test_the_complete_training_example() -> None:
    config = ModelConfig(
        vocab_size=100, d_model=32, n_layers=2, n_heads=2, max_seq_len=64, warmup_steps=2, learning_rate=0.01
    )
    model = AdvancedTransformerModel(config)
    tokenizer = AdvancedTokenizer(model_name="byte", max_length=48, padding="max_length", truncation=True)
    with pytest.warns(UserWarning, match="258 tokens, the model's embedding 100 rows"):
        pipeline = AdvancedTrainingPipeline(model, config, tokenizer)
    coded = tokenizer.tokenize_text(["The quick brown fox jumps over the lazy dog.", "Machine learning"])
    batch = {**coded, "labels": coded["input_ids"].clone()}
    before = pipeline.evaluate_step(batch)
    for _ in range(12):
        metrics = pipeline.train_step(batch)
    assert set(metrics) >= {"loss", "learning_rate"}
    after = pipeline.evaluate_step(batch)
    assert set(after) == {"loss", "perplexity"}
    assert 1.0 <= after["perplexity"] < 0.5 * before["perplexity"]
    text = pipeline.generate_text("The", max_length=20, temperature=0.8, top_k=50, top_p=0.9)
    assert text.startswith("The")


def test_optimizer_and_schedule() -> None:
    config = ModelConfig(vocab_size=50, d_model=16, n_layers=1, n_heads=2)
    optimizer = AdvancedOptimizers.create_optimizer(AdvancedTransformerModel(config), config)
    scheduler = AdvancedOptimizers.create_scheduler(optimizer, config, num_training_steps=10000)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01, 0.0}
    assert scheduler.get_last_lr()[0] == pytest.approx(1e-7)
