"""Document 000's classifier: configuration, batches, gradients; errors in the user's words."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models.small_models import BATCH, LENGTH, MASK, SEO_TASKS, VOCABULARY, WIDTH, ids, seo_config
from torch import Tensor, nn

from seo_kernels.models import CustomModelConfig, CustomMultiTaskSEOModel, CustomSEOModel
from seo_kernels.nn.layer_stack import LayerStack
from seo_kernels.nn.pooling import AttentionPooling, FirstPooling, MaxPooling, MeanPooling

pytestmark = pytest.mark.usefixtures("one_thread")
LABELS = torch.tensor([2, 0, 1])


def classifier(**options: Any) -> CustomSEOModel:
    return CustomSEOModel(seo_config(dropout=0.0, **options))


# Configuration
# -------------


def test_defaults_are_the_documents() -> None:
    assert dataclasses.asdict(CustomModelConfig()) == {
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
        "vocab_size": 50257,
        "pooling_strategy": "mean",
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        CustomModelConfig().num_classes = 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model_name": 3}, TypeError, r"model_name is an int \(3\), expected a str"),
        ({"num_classes": 0}, ValueError, "num_classes is 0"),
        (
            {"hidden_size": 10, "num_heads": 3},
            ValueError,
            "hidden_size is 10 for num_heads=3, expected a multi",
        ),
        ({"hidden_size": 1028, "num_heads": 2}, ValueError, "at most 256 times as large"),
        ({"num_layers": 2.0}, TypeError, "num_layers is a float"),
        ({"dropout_rate": 1.0}, ValueError, "dropout_rate is 1.0"),
        ({"max_length": -1}, ValueError, "max_length is -1"),
        ({"use_layer_norm": 1}, TypeError, r"use_layer_norm is an int \(1\), expected True or False"),
        (
            {"activation_function": "gelo"},
            ValueError,
            r"activation_function is a str \('gelo'\), expected one of",
        ),
        (
            {"initialization_method": "he"},
            ValueError,
            "initialization_method is 'he', expected one of xavier",
        ),
        (
            {"pooling_strategy": "sum"},
            ValueError,
            "pooling_strategy is 'sum', expected one of mean, max, att",
        ),
    ],
)
def test_a_configuration_that_is_none(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CustomModelConfig(**options)


def test_what_the_fields_do() -> None:
    plain = classifier()
    assert len(plain.encoder.layers.layers) == 2
    assert plain.encoder.embedding.weight.shape == (VOCABULARY, WIDTH)
    assert isinstance(plain.head.pools[0], MeanPooling)
    assert not any(m.gradient_checkpointing for m in plain.modules() if isinstance(m, LayerStack))
    bound = max(m.weight.abs().max() / (6 / sum(m.weight.shape)) ** 0.5 for m in linears(plain))
    assert 0.99 < bound <= 1  # Glorot's
    assert 0.8 < plain.encoder.embedding.weight.std() < 1.2  # positions do not drown the words

    other = classifier(
        use_layer_norm=False,
        use_residual_connections=False,
        activation_function="swish",
        initialization_method="normal",
        pooling_strategy="attention",
        gradient_checkpointing=True,
    )
    assert not any(isinstance(module, nn.LayerNorm) for module in other.modules())
    for block in other.encoder.layers.layers:
        assert block.feed_forward.up.activation == "silu"
        assert not block.residual
    assert isinstance(other.head.pools[0], AttentionPooling)
    assert all(m.gradient_checkpointing for m in other.modules() if isinstance(m, LayerStack))
    assert max(m.weight.std() for m in linears(other)) < 0.03
    assert isinstance(classifier(pooling_strategy="max").head.pools[0], MaxPooling)
    assert isinstance(classifier(pooling_strategy="cls").head.pools[0], FirstPooling)
    rates = {m.p for m in CustomSEOModel(seo_config(dropout=0.3)).modules() if isinstance(m, nn.Dropout)}
    assert rates == {0.3}


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def test_the_first_token_that_is_no_padding_is_the_class() -> None:
    model = classifier(pooling_strategy="cls").eval()
    x, mask = ids(), torch.ones(BATCH, LENGTH)
    mask[0, :4] = 0
    hidden = model.encoder(x, mask)
    first = torch.stack([hidden[0, 4], hidden[1, 0], hidden[2, 0]])
    torch.testing.assert_close(model(x, mask), model.head.output(first))


# Batches
# -------


def test_a_batch_with_labels_gives_the_loss() -> None:
    model, x = classifier(), ids()
    logits = model(x, MASK)
    batch = {"input_ids": x, "attention_mask": MASK, "labels": LABELS}
    torch.testing.assert_close(model(batch), F.cross_entropy(logits, LABELS))
    torch.testing.assert_close(
        model({**batch, "labels": LABELS[:, None].int()}), F.cross_entropy(logits, LABELS)
    )
    assert torch.equal(model({"input_ids": x, "attention_mask": MASK}), logits)
    assert torch.equal(model({"input_ids": x}), model(x))
    some = torch.tensor([2, -100, 1])
    torch.testing.assert_close(model({**batch, "labels": some}), F.cross_entropy(logits, some))
    assert model({**batch, "labels": torch.full((BATCH,), -100)}).item() == 0.0

    single = classifier(num_classes=1)
    score, relevant = single(x, MASK).squeeze(1), torch.tensor([0.0, 1.0, 1.0])
    loss = single({**batch, "labels": relevant})
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(score, relevant))


def with_labels(labels: Any, **more: Any) -> Tensor:
    return classifier()({"input_ids": ids(), "labels": labels, **more})


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            lambda: with_labels(LABELS.float()),
            TypeError,
            r"labels has dtype torch.float32, expected class ids \(b",
        ),
        (lambda: with_labels(LABELS > 0), TypeError, "labels has dtype torch.bool"),
        (
            lambda: with_labels(LABELS[:2]),
            ValueError,
            r"labels has shape \(2,\), expected class ids \(batch=3,\)",
        ),
        (lambda: with_labels(LABELS + 1), ValueError, "labels holds 3, expected class ids .* from 0 to 2"),
        (lambda: with_labels(LABELS - 1), ValueError, "labels holds -1"),
        (lambda: with_labels(LABELS.tolist()), TypeError, "labels is a list"),
        (
            lambda: with_labels(LABELS, label=1),
            ValueError,
            "the batch has the keys input_ids, labels, label, exp",
        ),
        (
            lambda: classifier()({"labels": LABELS}),
            ValueError,
            "the batch has the keys labels, expected input_ids",
        ),
        (
            lambda: classifier()({"input_ids": ids()}, MASK),
            ValueError,
            "attention_mask is given beside a batch",
        ),
        (lambda: classifier()(ids() + 50), ValueError, r"input_ids holds token ids .* \(vocab_size=50\)"),
        (lambda: classifier()(ids().tolist()), TypeError, "input_ids is a list"),
        (lambda: classifier()(ids() > 3), TypeError, "input_ids has dtype torch.bool"),
        (lambda: classifier()(ids()[0]), ValueError, r"input_ids has shape \(9\)"),
        (lambda: classifier()(ids()[:, :0]), ValueError, "with at least one token"),
        (
            lambda: classifier()(ids(2, 13)),
            ValueError,
            "input_ids is 13 tokens long, expected at most max_length=12",
        ),
        (lambda: classifier()(torch.randn(2, 3, 5)), ValueError, r"input_ids has shape .* hidden_size=16\)"),
        (lambda: classifier()(ids(), MASK * 2), ValueError, "attention_mask holds 2.0, expected 1"),
        (lambda: classifier()(ids(), MASK[:2]), ValueError, r"attention_mask has shape \(2, 9\)"),
        (
            lambda: CustomSEOModel({"num_classes": 3}),
            TypeError,
            "config is a dict, expected a CustomModelConfig",
        ),
        (lambda: CustomMultiTaskSEOModel(None, SEO_TASKS), TypeError, "config is a NoneType"),
    ],
)
def test_bad_batches(wrong: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()


def test_embeddings_in_place_of_ids() -> None:
    model, x = classifier().eval(), ids()
    vectors = model.encoder.embedding(x).detach().requires_grad_()
    assert torch.equal(model(vectors, MASK), model(x, MASK))


# Gradients
# ---------


def step(model: CustomSEOModel, x: Tensor) -> dict[str, Tensor]:
    return model.compute_gradients(model({"input_ids": x, "labels": LABELS}))


def test_gradients_by_name() -> None:
    model, x = classifier(), ids()
    model.head.output.bias.requires_grad_(False)
    gradients = step(model, x)
    assert all(parameter.grad is None for parameter in model.parameters())
    F.cross_entropy(model(x), LABELS).backward()
    expected = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    assert "head.output.bias" not in gradients
    torch.testing.assert_close(gradients, expected)

    scale = nn.Parameter(torch.ones(()))
    only = model.compute_gradients(model.head.output.weight.square().sum() * scale)
    assert list(only) == ["head.output.weight"]
    assert scale.grad is None


def test_applied_gradients_are_the_optimizers_step() -> None:
    model, x = classifier(), ids()
    twin = classifier()
    twin.load_state_dict(model.state_dict())
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9) for m in (model, twin)]
    kept = torch.full_like(model.head.output.weight, 7.0)
    model.head.output.weight.grad = kept
    for _ in range(2):
        model.apply_gradients(step(model, x), optimizers[0])
        optimizers[1].zero_grad()
        F.cross_entropy(twin(x), LABELS).backward()
        optimizers[1].step()
    torch.testing.assert_close(model.state_dict(), twin.state_dict())
    assert model.head.output.weight.grad is kept
    assert kept.eq(7).all()

    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.apply_gradients({"head.output.bias": torch.ones(3)}, optimizers[0])
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["head.output.bias"]


def apply(gradients: Any, optimizer: Callable[[nn.Module], Any] | None = None) -> None:
    model = classifier()
    make = optimizer or (lambda model: torch.optim.SGD(model.parameters(), lr=0.1))
    model.apply_gradients(gradients, make(model))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            lambda: apply({"head.bias": torch.ones(3)}),
            ValueError,
            "gradients names head.bias, expected names of",
        ),
        (
            lambda: apply({"head.output.bias": torch.ones(4)}),
            ValueError,
            r"gradients\['head.output.bias'\] has shape \(4,\), expected the parameter's \(3,\)",
        ),
        (lambda: apply({"head.output.bias": 1.0}), TypeError, r"gradients\['head.output.bias'\] is a float"),
        (lambda: apply({}), ValueError, "gradients is empty"),
        (lambda: apply([torch.ones(3)]), TypeError, "gradients is a list"),
        (
            lambda: apply({"head.output.bias": torch.ones(3)}, lambda model: None),
            TypeError,
            "optimizer is a None",
        ),
        (
            lambda: apply(
                {"head.output.bias": torch.ones(3)},
                lambda model: torch.optim.SGD(model.encoder.parameters(), lr=0.1),
            ),
            ValueError,
            "gradients names head.output.bias, which the optimizer does not hold",
        ),
        (lambda: classifier().compute_gradients(1.0), TypeError, "loss is a float"),
        (lambda: classifier().compute_gradients(classifier()(ids())), ValueError, r"loss has shape \(3, 3\)"),
        (lambda: classifier().compute_gradients(torch.zeros(())), ValueError, "loss has no gradient"),
        (
            lambda: classifier().compute_gradients(classifier()(ids()).sum()),
            ValueError,
            "loss depends on no parameter of this model",
        ),
    ],
)
def test_bad_gradients(wrong: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()
