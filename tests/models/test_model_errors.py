"""Bad input to the models: what came and what was expected, in the user's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from models.small_models import BATCH, LENGTH, MASK, SMALL, TASKS, WIDTH, embeddings, ids, transformer

from seo_kernels.models import (
    CNNFeatureExtractor,
    CNNLSTMHybrid,
    CustomTransformer,
    DeepResidualCNN,
    HierarchicalAttentionNetwork,
    LSTMWithAttention,
    MultiTaskModel,
)

pytestmark = pytest.mark.usefixtures("one_thread")
TEXT = ("CustomTransformer", "CNNLSTMHybrid", "TransformerCNN", "CustomTransformerModel", "MultiTaskModel")


def call(name: str, x: Any, *more: Any) -> None:
    small = SMALL[name]
    _, *rest = small.inputs()
    small.make()(x, *rest, *more)


@pytest.mark.parametrize("name", TEXT)
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (ids() + 50, ValueError, r"x holds token ids from \d+ to \d+, expected 0 to 49 \(vocab_size=50\)"),
        (ids() - 60, ValueError, "x holds token ids from -"),
        (ids()[0], ValueError, r"x has shape \(9\), expected \(batch, length\)"),
        (
            ids()[:, :0],
            ValueError,
            r"x has shape \(3, 0\), expected \(batch, length\) with at least one token",
        ),
        (ids().bool(), TypeError, "x has dtype torch.bool, expected token ids"),
        (
            ids().tolist(),
            TypeError,
            "x is a list, expected a tensor of token ids",
        ),
    ],
)
def test_token_ids(name: str, x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(name, x)


@pytest.mark.parametrize(
    "name", ["CustomTransformer", "TransformerCNN", "MultiTaskModel", "CustomTransformerModel"]
)
@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            MASK[:, 1:],
            ValueError,
            r"mask has shape \(3, 8\), expected \(batch=3, length=9\) or \(batch=3, 9, 9\)",
        ),
        (MASK[None], ValueError, r"mask has shape \(1, 3, 9\)"),
        (MASK * 2, ValueError, r"mask holds 2\.0, expected 1 \(attend\) and 0 \(hide\) only"),
        (MASK - 1, ValueError, r"mask holds -1\.0"),
        (MASK.masked_fill(MASK == 0, float("-inf")), ValueError, "mask holds -inf"),
        (MASK.masked_fill(MASK == 0, float("nan")), ValueError, "mask holds nan"),
        (MASK.tolist(), TypeError, "mask is a list"),
    ],
)
def test_masks(name: str, mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(name, ids(), mask)


@pytest.mark.parametrize("name", ["LSTMWithAttention", "CNNLSTMHybrid"])
@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        (torch.tensor([5, 10, 2]), ValueError, "lengths holds 10, expected 0 to 9"),
        (torch.tensor([5, -1, 2]), ValueError, "lengths holds -1"),
        (torch.tensor([5, 2]), ValueError, r"lengths has shape \(2\), expected \(batch=3,\)"),
        (torch.tensor([5.0, 2.0, 1.0]), TypeError, "lengths has dtype torch.float32, expected int64"),
        ([5, 2, 1], TypeError, "lengths is a list"),
    ],
)
def test_lengths(name: str, lengths: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(name, SMALL[name].inputs()[0], lengths)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (
            lambda: call("HierarchicalAttentionNetwork", ids(1, 3, 4)),
            ValueError,
            "x has 3 sentences, expected at most num_sentences=2",
        ),
        (
            lambda: call("HierarchicalAttentionNetwork", ids()),
            ValueError,
            r"x has shape \(3, 9\), expected \(batch, sentences, words\)",
        ),
        (
            lambda: call("HierarchicalAttentionNetwork", ids(3, 2, 9), MASK),
            ValueError,
            r"mask has shape \(3, 9\), expected \[3, 2, 9\]",
        ),
        (
            lambda: call("DeepResidualCNN", embeddings()[..., 1:]),
            ValueError,
            r"x has shape \(3, 9, 15\), expected \(batch, length, input_dim=16\)",
        ),
        (
            lambda: call("DeepResidualCNN", ids(3, 9, 16)),
            TypeError,
            "x has dtype torch.int64, expected floating",
        ),
        (lambda: call("CNNFeatureExtractor", embeddings()[:, :0]), ValueError, r"x has shape \(3, 0, 16\)"),
        (
            lambda: call("CustomCNNModel", torch.randn(3, 4, 5)),
            ValueError,
            r"x has shape \(3, 4, 5\), expected",
        ),
        (lambda: call("CustomCNNModel", ids(3, 3, 4, 4)), TypeError, "x has dtype torch.int64"),
        (lambda: call("CustomRNNModel", torch.randn(WIDTH)), ValueError, "or unbatched"),
        (
            lambda: CustomTransformer(**transformer(max_len=LENGTH - 1))(ids()),
            ValueError,
            "x is 9 positions long, expected at most max_len=8",
        ),
        (
            lambda: SMALL["MultiTaskModel"].make()(ids(), "topics"),
            ValueError,
            "task_name is 'topics', expected one of topic",
        ),
        (
            lambda: CustomTransformer(**transformer(activation="gelo")),
            ValueError,
            r"activation is a str \('gelo'\), expected one of gelu",
        ),
        (
            lambda: CustomTransformer(**transformer(attention_type="global")),
            ValueError,
            "attention_type is 'global', expected one of standard, relative, local, sparse",
        ),
        (
            lambda: LSTMWithAttention(4, 4, attention_type="cosine"),
            ValueError,
            "attention_type is 'cosine', expected one of dot, general, concat",
        ),
        (
            lambda: CNNFeatureExtractor(4, pool_type="sum"),
            ValueError,
            "pool_type is 'sum', expected one of max, avg",
        ),
        (lambda: CNNFeatureExtractor(4, hidden_dims=[]), ValueError, "hidden_dims is empty"),
        (lambda: CNNFeatureExtractor(4, kernel_sizes=3), TypeError, "kernel_sizes is an int"),
        (lambda: DeepResidualCNN(4, hidden_dims=[4, 0]), ValueError, r"hidden_dims\[1\] is 0"),
        (lambda: CustomTransformer(0), ValueError, "vocab_size is 0, expected an int >= 1"),
        (lambda: CustomTransformer(5.0), TypeError, r"vocab_size is a float \(5.0\)"),
        (
            lambda: CustomTransformer(5, 16, dropout=1.0),
            ValueError,
            r"dropout is 1.0, expected a number in \[0, 1\)",
        ),
        (lambda: HierarchicalAttentionNetwork(5, dropout=-0.1), ValueError, "dropout is -0.1"),
        (lambda: CNNLSTMHybrid(5, num_classes=0), ValueError, "num_classes is 0"),
        (lambda: tasks({}), ValueError, "task_configs is {}"),
        (lambda: tasks({"a": {"type": "regression"}}), ValueError, "expected the keys num_classes, type"),
        (
            lambda: tasks({"a": TASKS["topic"] | {"loss_type": "x"}}),
            ValueError,
            r"task_configs\['a'\] has \['num_classes', 'type', 'loss_type'\]",
        ),
        (
            lambda: tasks({"a": {"num_classes": 2, "type": "ranking"}}),
            ValueError,
            "is 'ranking', expected one of classification, regression, sequence",
        ),
        (lambda: tasks({"a.b": TASKS["topic"]}), ValueError, "expected a name without dots"),
    ],
)
def test_the_rest(wrong: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()


def tasks(configs: dict[str, Any]) -> MultiTaskModel:
    return MultiTaskModel(**transformer(task_configs=configs))


def test_embeddings_in_place_of_ids() -> None:
    """And then the gradient reaches the input."""
    model = SMALL["CustomTransformer"].make().eval()
    x = ids()
    vectors = model.embedding(x).detach().requires_grad_()
    out = model(vectors)
    assert torch.equal(out, model(x))
    out.sum().backward()
    assert vectors.grad.shape == (BATCH, LENGTH, WIDTH)


def test_the_language_model_sees_no_later_token() -> None:
    model = SMALL["CustomTransformerModel"].make().eval()
    x = ids()
    other = x.clone()
    other[:, 5:] = (x[:, 5:] + 1) % 50
    assert torch.equal(model(x)[:, :5], model(other)[:, :5])
    assert not torch.allclose(model(x)[:, 5:], model(other)[:, 5:])


def test_images_of_any_size_and_sequences_without_a_batch() -> None:
    images = SMALL["CustomCNNModel"].make().eval()
    for height, width in ((1, 1), (2, 40), (33, 7)):
        assert images(torch.randn(2, 3, height, width)).shape == (2, 4)
    rnn, x = SMALL["CustomRNNModel"].make(), embeddings()
    torch.testing.assert_close(rnn(x[0]), rnn(x)[0])
