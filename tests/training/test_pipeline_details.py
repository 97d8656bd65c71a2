"""What a step depends on and its loss alone does not show: padding in front, modes, devices, who decays."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from seo_kernels.models import AdvancedTransformerModel, ModelConfig
from seo_kernels.models.generation import Sampling
from seo_kernels.training import AdvancedOptimizers, AdvancedTokenizer, AdvancedTrainingPipeline
from seo_kernels.training.batches import checked_batch

CONFIG = ModelConfig(
    vocab_size=258,
    d_model=16,
    n_layers=1,
    n_heads=2,
    max_seq_len=32,
    dropout=0.5,
    warmup_steps=2,
    mixed_precision=False,
    label_smoothing=0.0,
)


@pytest.fixture
def pipeline() -> AdvancedTrainingPipeline:
    return AdvancedTrainingPipeline(
        AdvancedTransformerModel(CONFIG), CONFIG, AdvancedTokenizer("byte", max_length=16)
    )


def padded_in_front() -> dict[str, Tensor]:
    ids = torch.randint(256, (2, 9))
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, :4] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.clone()}


def test_padding_in_front_is_in_neither_loss_nor_perplexity(pipeline: AdvancedTrainingPipeline) -> None:
    """The first token after it has nothing to be guessed from: nothing is asked of padding."""
    batch = padded_in_front()
    found = pipeline.evaluate_step(batch)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]), rel=1e-5)
    with torch.no_grad():
        logits = pipeline.model.eval()(batch["input_ids"], batch["attention_mask"])["logits"]
    rows = [
        nn.functional.cross_entropy(logits[0, 4:-1], batch["labels"][0, 5:], reduction="sum"),
        nn.functional.cross_entropy(logits[1, :-1], batch["labels"][1, 1:], reduction="sum"),
    ]
    assert found["loss"] == pytest.approx(float(sum(rows)) / (4 + 8), rel=1e-5)


def test_a_training_step_trains_in_train_mode(pipeline: AdvancedTrainingPipeline) -> None:
    batch = padded_in_front()
    pipeline.model.eval()
    modes: list[bool] = []
    handle = pipeline.model.register_forward_pre_hook(
        lambda module, inputs: modes.extend(part.training for part in module.modules())
    )
    pipeline.train_step(batch)
    pipeline.evaluate_step(batch)
    handle.remove()
    half = len(modes) // 2
    assert all(modes[:half])
    assert not any(modes[half:])
    assert all(part.training for part in pipeline.model.modules())


def test_every_entry_of_a_batch_is_moved_to_the_models_device() -> None:
    batch = {
        "input_ids": torch.ones(2, 5, dtype=torch.int64),
        "labels": torch.ones(2, dtype=torch.int64),
        "extra": torch.ones(2),
    }
    moved = checked_batch(batch, torch.device("meta"))
    assert {name: value.device.type for name, value in moved.items()} == dict.fromkeys(batch, "meta")


def test_embeddings_decay_and_tables_do_not() -> None:
    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5, 4)
            self.bags = nn.EmbeddingBag(5, 4)
            self.free = nn.Parameter(torch.ones(5, 4))

    model = Tables()
    config = SimpleNamespace(learning_rate=1e-3, weight_decay=0.01)
    optimizer = AdvancedOptimizers.create_optimizer(model, config)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decay[id(model.words.weight)] == decay[id(model.bags.weight)] == 0.01
    assert decay[id(model.free)] == 0.0


def test_a_nucleus_that_is_exactly_as_probable_is_enough() -> None:
    logits = torch.tensor([[0.0, 0.0, -torch.inf, -torch.inf]]).expand(64, 4)
    drawn = Sampling(top_p=0.5).draw(logits, torch.Generator().manual_seed(0))
    assert len(set(drawn.tolist())) == 1
