"""Section 1.1 of the documented API: each name, by its documented import, with its documented arguments."""

from __future__ import annotations

import custom_models
import pytest
import torch
from custom_models import (
    CustomModelConfig,
    CustomMultiTaskSEOModel,
    CustomSEOModel,
    MultiHeadAttention,
    PositionalEncoding,
    TransformerBlock,
    create_custom_model,
    create_multi_task_model,
)

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = CustomModelConfig(
    model_name="custom_seo_model",
    num_classes=3,
    hidden_size=24,
    num_layers=2,
    num_heads=12,
    dropout_rate=0.1,
    max_length=512,
    use_layer_norm=True,
    use_residual_connections=True,
    activation_function="gelu",
    initialization_method="xavier",
    gradient_checkpointing=False,
    vocab_size=1000,
)
TASKS = {
    "sentiment": {
        "num_classes": 3,
        "pooling_strategy": "mean",
        "use_attention_pooling": True,
        "loss_type": "cross_entropy",
    },
    "topic": {
        "num_classes": 5,
        "pooling_strategy": "attention",
        "use_attention_pooling": False,
        "loss_type": "cross_entropy",
    },
    "relevance": {"num_classes": 1, "loss_type": "binary_cross_entropy"},
}
INPUT_IDS, MASK = torch.randint(0, 1000, (8, 128)), torch.ones(8, 128)


def test_every_documented_name() -> None:
    assert custom_models.__all__ == [
        "CustomModelConfig",
        "CustomMultiTaskSEOModel",
        "CustomSEOModel",
        "MultiHeadAttention",
        "PositionalEncoding",
        "TransformerBlock",
        "create_custom_model",
        "create_multi_task_model",
    ]
    assert all(getattr(custom_models, name).__doc__ for name in custom_models.__all__)


def test_classifier() -> None:
    model = create_custom_model(CONFIG)
    assert type(model) is CustomSEOModel
    assert model(INPUT_IDS, MASK).shape == (8, 3)
    loss = model({"input_ids": INPUT_IDS, "attention_mask": MASK, "labels": torch.randint(3, (8,))})
    gradients = model.compute_gradients(loss)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    before = model.head.output.weight.clone()
    model.apply_gradients(gradients, torch.optim.SGD(model.parameters(), lr=0.1))
    torch.testing.assert_close(model.head.output.weight, before - 0.1 * gradients["head.output.weight"])


@pytest.mark.parametrize("relevance", [torch.ones(8), torch.ones(8, 1), torch.ones(8, dtype=torch.int64)])
def test_tasks(relevance: torch.Tensor) -> None:
    model = create_multi_task_model(CONFIG, TASKS)
    assert type(model) is CustomMultiTaskSEOModel
    outputs = model(INPUT_IDS, MASK)
    assert {name: out.shape[1] for name, out in outputs.items()} == {
        "sentiment": 3,
        "topic": 5,
        "relevance": 1,
    }
    targets = {"sentiment": torch.randint(3, (8,)), "topic": torch.randint(5, (8,)), "relevance": relevance}
    model.compute_multi_task_loss(outputs, targets).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_layers() -> None:
    x = torch.randn(2, 10, 768)
    assert PositionalEncoding(d_model=768, max_len=5000)(x).shape == x.shape
    assert PositionalEncoding(d_model=768)(x[0]).shape == x[0].shape
    attention = MultiHeadAttention(d_model=768, num_heads=12, dropout=0.1)
    assert attention(x).shape == attention(x, key=x, value=x, mask=torch.ones(2, 10)).shape == x.shape
    block = TransformerBlock(d_model=768, num_heads=12, d_ff=3072, dropout=0.1, activation="gelu")
    assert block(x).shape == block(x, torch.ones(2, 10, 10)).shape == x.shape
