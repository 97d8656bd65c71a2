"""Every trainable model overfits 32 real samples: the loss falls below a tenth of its start."""

from __future__ import annotations

from collections.abc import Callable
from pydoc_data.topics import topics

import numpy
import pytest
import torch
import torch.nn.functional as F
from models.small_models import TASKS, transformer
from torch import Tensor, nn

from seo_kernels.models import (
    AdvancedTransformerModel,
    CNNFeatureExtractor,
    CNNLSTMHybrid,
    CustomCNNModel,
    CustomModelConfig,
    CustomMultiTaskSEOModel,
    CustomRNNModel,
    CustomSEOModel,
    CustomTransformer,
    CustomTransformerModel,
    DeepResidualCNN,
    HierarchicalAttentionNetwork,
    LSTMWithAttention,
    ModelConfig,
    MultiTaskModel,
    TransformerCNN,
)
from seo_kernels.nn.pooling import POOLINGS

SAMPLES, CLASSES, LENGTH, VOCABULARY, WIDTH = 32, 4, 24, 300, 32
pytestmark = pytest.mark.usefixtures("one_thread")  # for models this small a second one costs time
STEPS = 40


def paragraphs() -> tuple[Tensor, Tensor, Tensor]:
    """Word ids (32, 24), the lengths, and the topics (32,): paragraphs of CPython's language reference."""
    names = [name for name in sorted(topics) if topics[name].count("\n\n") > 12][:CLASSES]
    texts = [
        (topic, text.split())
        for topic, name in enumerate(names)
        for text in [t for t in topics[name].split("\n\n") if len(t) > 80][: SAMPLES // CLASSES]
    ]
    words = sorted({word for _, text in texts for word in text[:LENGTH]})
    number = {word: 1 + i % (VOCABULARY - 1) for i, word in enumerate(words)}
    ids = torch.zeros(SAMPLES, LENGTH, dtype=torch.int64)
    lengths = torch.tensor([min(len(text), LENGTH) for _, text in texts])
    for row, (_, text) in enumerate(texts):
        ids[row, : lengths[row]] = torch.tensor([number[word] for word in text[:LENGTH]])
    return ids, lengths, torch.tensor([topic for topic, _ in texts])


IDS, LENGTHS, TOPICS = paragraphs()
MASK = (torch.arange(LENGTH) < LENGTHS[:, None]).float()


def embedded() -> Tensor:
    """The paragraphs, each word as a fixed vector: (32, 24, 32)."""
    table = torch.randn(VOCABULARY, WIDTH, generator=torch.Generator().manual_seed(3))
    return table[IDS]


def glyphs() -> Tensor:
    """32 letters, drawn: (32, 1, 20, 16)."""
    drawing = pytest.importorskip("PIL.ImageDraw")
    image = pytest.importorskip("PIL.Image")
    pictures = []
    for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345":
        picture = image.new("L", (16, 20))
        drawing.Draw(picture).text((4, 4), letter, fill=255)
        pictures.append(torch.from_numpy(numpy.array(picture, dtype="float32"))[None] / 255)
    return torch.stack(pictures)


def falls(model: nn.Module, loss: Callable[[], Tensor], lr: float = 3e-3, steps: int = STEPS) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    model.train()
    first = last = loss().item()
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        last = value.item()
    model.eval()
    with torch.no_grad():
        assert max(last, loss().item()) < 0.1 * first, (first, last, loss().item())


def test_these_are_paragraphs() -> None:
    assert len(TOPICS) == SAMPLES
    assert TOPICS.bincount().tolist() == [SAMPLES // CLASSES] * CLASSES
    assert LENGTHS.min() >= 5
    assert len({tuple(row.tolist()) for row in IDS}) == SAMPLES


OPTIONS = transformer(vocab_size=VOCABULARY, d_model=WIDTH, d_ff=64, dropout=0.0)


@pytest.mark.parametrize("attention_type", ["standard", "relative", "local", "sparse"])
def test_transformer_with_a_head(attention_type: str) -> None:
    encoder = CustomTransformer(**OPTIONS, attention_type=attention_type, max_relative_position=4)
    head = nn.Linear(WIDTH, CLASSES)
    falls(
        nn.ModuleList([encoder, head]),
        lambda: F.cross_entropy(head(encoder(IDS, MASK).mean(1)), TOPICS),
    )


def test_language_model() -> None:
    model = CustomTransformerModel(VOCABULARY, WIDTH, n_layers=1, n_heads=2, dropout=0.0)
    targets = IDS[:, 1:].masked_fill(MASK[:, 1:] == 0, -100)
    falls(
        model,
        lambda: F.cross_entropy(model(IDS, MASK)[:, :-1].flatten(0, 1), targets.flatten(), ignore_index=-100),
        lr=1e-2,
        steps=80,
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rope": True, "gradient_checkpointing": True},
        {"attention_type": "local", "max_relative_position": 4, "position_encoding": "learnable"},
        {"attention_type": "sparse", "max_relative_position": 4, "focal_loss_gamma": 2.0},
    ],
    ids=["relative", "rope", "local", "sparse"],
)
def test_advanced_language_model(options: dict[str, object]) -> None:
    config = ModelConfig(
        vocab_size=VOCABULARY,
        d_model=WIDTH,
        n_layers=1,
        n_heads=2,
        dropout=0.0,
        label_smoothing=0.0,
        **options,
    )
    model = AdvancedTransformerModel(config)
    falls(model, lambda: model(IDS, MASK, labels=IDS)["loss"], lr=1e-2, steps=80)


def test_transformer_with_convolutions() -> None:
    model = TransformerCNN(**OPTIONS, cnn_hidden_dims=[8], cnn_kernel_sizes=[3, 4], num_classes=CLASSES)
    falls(model, lambda: F.cross_entropy(model(IDS, MASK), TOPICS))


def test_convolutions_with_an_lstm() -> None:
    model = CNNLSTMHybrid(VOCABULARY, WIDTH, [8], [3, 4], 16, CLASSES, dropout=0.0)
    falls(model, lambda: F.cross_entropy(model(IDS, LENGTHS), TOPICS), lr=1e-2)


def test_tasks_together() -> None:
    """The topic, how long the paragraph is, and which of its words are capitalised, from one encoder."""
    model = MultiTaskModel(**OPTIONS, task_configs=TASKS)
    long = LENGTHS.float() / LENGTH
    tags = (IDS % 7).masked_fill(MASK == 0, -100)

    def loss() -> Tensor:
        return (
            F.cross_entropy(model(IDS, "topic", MASK), TOPICS)
            + F.mse_loss(model(IDS, "quality", MASK).squeeze(1), long)
            + F.cross_entropy(model(IDS, "tags", MASK).flatten(0, 1), tags.flatten(), ignore_index=-100)
        )

    falls(model, loss, lr=1e-2)


SEO_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
}


@pytest.mark.parametrize("pooling", POOLINGS)
def test_seo_classifier(pooling: str) -> None:
    model = CustomSEOModel(CustomModelConfig(num_classes=CLASSES, pooling_strategy=pooling, **SEO_SIZES))
    falls(model, lambda: model({"input_ids": IDS, "attention_mask": MASK, "labels": TOPICS}))


def test_seo_tasks_together() -> None:
    """The topic, whether the paragraph is one of the longer ones, and how long it is."""
    tasks = {
        "topic": {"num_classes": CLASSES, "loss_type": "cross_entropy", "use_attention_pooling": True},
        "long": {"num_classes": 1, "loss_type": "binary_cross_entropy", "pooling_strategy": "attention"},
        "length": {"num_classes": 1, "loss_type": "huber", "pooling_strategy": "max"},
    }
    model = CustomMultiTaskSEOModel(CustomModelConfig(**SEO_SIZES), tasks)
    length = LENGTHS.float() / LENGTH
    targets = {"topic": TOPICS, "long": length > length.median(), "length": length}
    falls(model, lambda: model.compute_multi_task_loss(model(IDS, MASK), targets), steps=80)


def test_hierarchical_attention() -> None:
    model = HierarchicalAttentionNetwork(VOCABULARY, WIDTH, 8, CLASSES, num_sentences=3, dropout=0.0)
    x, mask = IDS.view(SAMPLES, 3, -1), MASK.view(SAMPLES, 3, -1)
    falls(model, lambda: F.cross_entropy(model(x, mask), TOPICS), lr=1e-2)


def test_residual_network() -> None:
    model = DeepResidualCNN(WIDTH, [8, 16], CLASSES, num_residual_blocks=1, dropout=0.0)
    x = embedded()
    falls(model, lambda: F.cross_entropy(model(x, MASK), TOPICS), lr=1e-2)


def test_recurrent_network() -> None:
    model, head = CustomRNNModel(WIDTH, 24), nn.Linear(24, CLASSES)
    x = embedded()
    falls(nn.ModuleList([model, head]), lambda: F.cross_entropy(head(model(x).mean(1)), TOPICS), lr=1e-2)


@pytest.mark.parametrize("attention_type", ["dot", "general", "concat"])
def test_lstm_with_attention(attention_type: str) -> None:
    model = LSTMWithAttention(WIDTH, 12, num_layers=1, dropout=0.0, attention_type=attention_type)
    head = nn.Linear(24, CLASSES)
    x = embedded()
    falls(
        nn.ModuleList([model, head]),
        lambda: F.cross_entropy(head(model(x, LENGTHS).mean(1)), TOPICS),
        lr=1e-2,
    )


def test_feature_extractor() -> None:
    model, x = CNNFeatureExtractor(WIDTH, [8], [3, 4], dropout=0.0, pool_type="avg"), embedded()
    head = nn.Linear(model.output_dim, CLASSES)
    falls(nn.ModuleList([model, head]), lambda: F.cross_entropy(head(model(x, MASK)), TOPICS), lr=1e-2)


def test_glyphs() -> None:
    pictures = glyphs()
    assert pictures.flatten(1).unique(dim=0).shape[0] == SAMPLES
    model = CustomCNNModel(1, SAMPLES, [8, 16], dropout=0.0)
    falls(model, lambda: F.cross_entropy(model(pictures), torch.arange(SAMPLES)), lr=2e-2, steps=80)
