"""Section 1.1: custom_models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
from torch import Tensor, nn

SMALL: dict[str, Any] = {"hidden_size": 24, "num_layers": 2, "num_heads": 4, "vocab_size": 1000}
IDS, MASK = torch.randint(0, 1000, (8, 128)), torch.ones(8, 128)  # int64, and float ones
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


def test_configuration() -> None:
    documented = {
        "model_name": "custom_seo_model",
        "num_classes": 3,
        "hidden_size": 768,
        "num_layers": 6,
        "num_heads": 12,
        "dropout_rate": 0.1,
        "max_length": 512,
        "use_layer_norm": True,
        "use_residual_connections": True,
        "activation_function": "gelu",
        "initialization_method": "xavier",
        "gradient_checkpointing": False,
    }
    given = CustomModelConfig(**documented)  # type: ignore[arg-type]
    assert {name: getattr(given, name) for name in documented} == documented
    short = CustomModelConfig(
        model_name="sentiment_classifier", num_classes=3, hidden_size=256, num_layers=4, num_heads=8
    )
    assert (short.model_name, short.hidden_size, short.num_layers, short.num_heads) == (
        "sentiment_classifier",
        256,
        4,
        8,
    )
    assert short.vocab_size == 50257
    defaults = {
        "dropout_rate": 0.1,
        "max_length": 512,
        "use_layer_norm": True,
        "gradient_checkpointing": False,
    }
    assert {name: getattr(short, name) for name in defaults} == defaults


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_checkpointing": True},
        {"use_layer_norm": False},
        {"use_residual_connections": False},
        {"activation_function": "relu"},
        {"activation_function": "swish", "initialization_method": "kaiming"},
        {"pooling_strategy": "attention"},
        {"pooling_strategy": "max"},
        {"pooling_strategy": "cls"},
    ],
    ids=str,
)
def test_classifier(options: dict[str, Any]) -> None:
    model = CustomSEOModel(CustomModelConfig(**SMALL, **options))
    logits = model(IDS, MASK)
    assert isinstance(logits, Tensor)
    assert logits.shape == (8, 3)
    nn.functional.cross_entropy(logits, torch.randint(3, (8,))).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_classifier_does_without_a_mask() -> None:
    model = CustomSEOModel(CustomModelConfig(**SMALL)).eval()
    torch.testing.assert_close(model(IDS), model(IDS, MASK))


def test_masked_tokens_do_not_reach_the_logits() -> None:
    model = CustomSEOModel(CustomModelConfig(**SMALL)).eval()
    mask = MASK.clone()
    mask[:, 40:] = 0.0
    other = IDS.clone()
    other[:, 40:] = torch.randint(0, 1000, (8, 88))
    torch.testing.assert_close(model(IDS, mask), model(other, mask), rtol=0, atol=0)
    assert not torch.allclose(model(IDS), model(other))


def test_classifier_gives_the_loss_of_a_mapping_with_labels() -> None:
    model = CustomSEOModel(CustomModelConfig(**SMALL)).eval()
    labels = torch.randint(3, (8,))
    batch = {"input_ids": IDS, "attention_mask": MASK}
    loss = model({**batch, "labels": labels})
    torch.testing.assert_close(loss, nn.functional.cross_entropy(model(IDS, MASK), labels))
    torch.testing.assert_close(model(batch), model(IDS, MASK))


def test_checkpointing_changes_no_gradient() -> None:
    found = []
    for on in (False, True):
        torch.manual_seed(1)
        config = CustomModelConfig(**SMALL, gradient_checkpointing=on, dropout_rate=0.1)
        model = CustomSEOModel(config).train()
        torch.manual_seed(2)
        model(IDS, MASK).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1])


def test_gradients_are_computed_and_applied() -> None:
    model = CustomSEOModel(CustomModelConfig(**SMALL))
    loss = nn.functional.cross_entropy(model(IDS, MASK), torch.randint(3, (8,)))
    gradients = model.compute_gradients(loss)
    assert gradients.keys() == dict(model.named_parameters()).keys()
    assert all(parameter.grad is None for parameter in model.parameters())
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model.apply_gradients(gradients, torch.optim.SGD(model.parameters(), lr=0.5))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] - 0.5 * gradients[name])


@pytest.mark.parametrize("relevance", [torch.ones(8), torch.ones(8, 1), torch.ones(8, dtype=torch.int64)])
def test_multi_task(relevance: Tensor) -> None:
    model = CustomMultiTaskSEOModel(CustomModelConfig(**SMALL), TASKS)
    outputs = model(IDS, MASK)
    assert {task: tuple(output.shape) for task, output in outputs.items()} == {
        "sentiment": (8, 3),
        "topic": (8, 5),
        "relevance": (8, 1),
    }
    targets = {"sentiment": torch.randint(3, (8,)), "topic": torch.randint(5, (8,)), "relevance": relevance}
    loss = model.compute_multi_task_loss(outputs, targets)
    expected = (
        nn.functional.cross_entropy(outputs["sentiment"], targets["sentiment"])
        + nn.functional.cross_entropy(outputs["topic"], targets["topic"])
        + nn.functional.binary_cross_entropy_with_logits(outputs["relevance"], torch.ones(8, 1))
    )
    assert loss.shape == ()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_multi_task_pooling() -> None:
    """The strategy pools; ``use_attention_pooling`` joins a vector, and adds none to attention itself."""
    widths = {
        (strategy, joined): CustomMultiTaskSEOModel(
            CustomModelConfig(**SMALL),
            {
                "task": {
                    "num_classes": 2,
                    "loss_type": "cross_entropy",
                    "pooling_strategy": strategy,
                    "use_attention_pooling": joined,
                }
            },
        )
        .heads["task"]
        .output.in_features
        for strategy in ("mean", "attention")
        for joined in (False, True)
    }
    assert widths == {
        ("mean", False): 24,
        ("mean", True): 48,
        ("attention", False): 24,
        ("attention", True): 24,
    }


def test_factories() -> None:
    config = CustomModelConfig(**SMALL)
    assert type(create_custom_model(config)) is CustomSEOModel
    assert type(create_multi_task_model(config, TASKS)) is CustomMultiTaskSEOModel
    assert create_custom_model(config)(IDS, MASK).shape == (8, 3)
    assert create_multi_task_model(config, TASKS)(IDS, MASK)["topic"].shape == (8, 5)


def test_positional_encoding(binds: Callable[..., dict[str, Any]]) -> None:
    binds(PositionalEncoding, ("d_model",), d_model=768, max_len=5000)
    encoding = PositionalEncoding(d_model=768, max_len=5000)
    embeddings = torch.randn(2, 7, 768)
    out = encoding(embeddings)
    assert out.shape == (2, 7, 768)
    torch.testing.assert_close(encoding(embeddings[1]), out[1])
    added = (out - embeddings)[0]
    assert not torch.allclose(added[0], added[1])


def test_multi_head_attention(binds: Callable[..., dict[str, Any]]) -> None:
    binds(MultiHeadAttention, ("d_model",), d_model=768, num_heads=12, dropout=0.1)
    attention = MultiHeadAttention(d_model=24, num_heads=12, dropout=0.1).eval()
    x, other = torch.randn(2, 7, 24), torch.randn(2, 9, 24)
    assert attention(x).shape == (2, 7, 24)
    torch.testing.assert_close(attention(x), attention(x, x, x))
    assert attention(x, other, other).shape == (2, 7, 24)
    mask = torch.ones(2, 9)
    mask[:, 5:] = 0.0
    torch.testing.assert_close(attention(x, other, other, mask), attention(x, other[:, :5], other[:, :5]))


@pytest.mark.parametrize("activation", ["gelu", "relu", "swish"])
def test_transformer_block(activation: str, binds: Callable[..., dict[str, Any]]) -> None:
    binds(
        TransformerBlock,
        ("d_model",),
        d_model=768,
        num_heads=12,
        d_ff=3072,
        dropout=0.1,
        activation="gelu",
    )
    block = TransformerBlock(d_model=24, num_heads=12, d_ff=48, dropout=0.1, activation=activation).eval()
    x, mask = torch.randn(2, 7, 24), torch.ones(2, 7)
    assert block(x).shape == (2, 7, 24)
    torch.testing.assert_close(block(x, mask), block(x))
    mask[:, 4:] = 0.0
    torch.testing.assert_close(block(x, mask)[:, :4], block(x[:, :4]))
