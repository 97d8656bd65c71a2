"""Training of the documented classifiers on labelled texts, a word being a token."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import OneCycleLR

from seo_kernels._extras import require
from seo_kernels.demo.labelled import Labelled, Sample, readability
from seo_kernels.models import CustomModelConfig, CustomMultiTaskSEOModel, CustomSEOModel
from seo_kernels.nn.sizes import check_size

PADDING, UNKNOWN = 0, 1
LEAST_COUNT = 2  # a word that stands there less often is unknown
HIDDEN_WORDS = 0.1  # the share of words that training takes for unknown ones
PURPOSE = "compare with TF-IDF and logistic regression"


@dataclass(frozen=True)
class ClassifySettings:
    """Sizes of both models, and how long they are trained."""

    width: int = 64
    layers: int = 2
    heads: int = 4
    steps: int = 240
    batch: int = 32
    length: int = 64
    learning_rate: float = 5e-3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "steps", "batch", "length"):
            check_size(name, getattr(self, name))

    def config(self, num_classes: int, vocab_size: int) -> CustomModelConfig:
        """Of both models."""
        return CustomModelConfig(
            num_classes=num_classes,
            hidden_size=self.width,
            num_layers=self.layers,
            num_heads=self.heads,
            max_length=self.length,
            vocab_size=vocab_size,
        )


@dataclass(frozen=True)
class Encoded:
    """Texts as ids (N, length), with 0 for padding, their classes (N,), and which are hard to read (N,)."""

    ids: Tensor
    labels: Tensor
    hard: Tensor


@dataclass
class Outcome:
    """What both models and the baseline make of the held-out texts."""

    predicted: list[int]  # by CustomSEOModel
    accuracy: float
    multi_task_accuracy: float
    hard_accuracy: float
    hard_majority: float
    tfidf_accuracy: float
    majority: float
    history: list[float]  # the loss of CustomSEOModel at each update
    seconds: float  # of training, both models

    @property
    def learned(self) -> bool:
        """Whether both models beat the most frequent class by 20 points."""
        return min(self.accuracy, self.multi_task_accuracy) >= self.majority + 0.2


def words_of(text: str) -> list[str]:
    """Tokens: words in lower case.

    >>> words_of("The `str` type's 2 faces")
    ['the', 'str', 'type', 's', '2', 'faces']
    """
    return re.findall(r"\w+", text.lower())


def make_vocabulary(samples: Sequence[Sample]) -> dict[str, int]:
    """The number of each word that these samples hold more than once."""
    counts = Counter(word for sample in samples for word in words_of(sample.text))
    known = [word for word, count in counts.items() if count >= LEAST_COUNT]
    return {word: number for number, word in enumerate(known, start=UNKNOWN + 1)}


def encode(samples: Sequence[Sample], vocabulary: dict[str, int], length: int, hard: float) -> Encoded:
    """The samples as tensors, their first ``length`` words; those with more ``readability`` are hard."""
    ids = torch.full((len(samples), length), PADDING)
    for row, sample in enumerate(samples):
        numbers = [vocabulary.get(word, UNKNOWN) for word in words_of(sample.text)[:length]]
        ids[row, : len(numbers)] = torch.tensor(numbers, dtype=torch.int64)
    labels = torch.tensor([sample.label for sample in samples])
    return Encoded(ids, labels, torch.tensor([readability(sample.text) > hard for sample in samples]))


def run(
    data: Labelled, settings: ClassifySettings, on_step: Callable[[], None]
) -> tuple[CustomSEOModel, CustomMultiTaskSEOModel, Outcome]:
    """Train both models, and hold them and the baseline against the held-out texts.

    Args:
        on_step: called after each update; there are ``2 * settings.steps``.
    """
    begun = time.perf_counter()
    vocabulary = make_vocabulary(data.train)
    difficulties = torch.tensor([readability(sample.text) for sample in data.train])
    median = difficulties.median().item()
    train = encode(data.train, vocabulary, settings.length, median)
    held_out = encode(data.held_out, vocabulary, settings.length, median)
    config = settings.config(len(data.classes), len(vocabulary) + UNKNOWN + 1)
    torch.manual_seed(settings.seed)

    model = CustomSEOModel(config)

    def loss(ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        return model({"input_ids": ids, "attention_mask": mask, "labels": train.labels[rows]})

    history = fit(model, loss, train, settings, on_step)

    tasks = {
        "class": {"num_classes": len(data.classes), "loss_type": "cross_entropy"},
        "hard": {"num_classes": 1, "loss_type": "binary_cross_entropy", "pooling_strategy": "attention"},
    }
    several = CustomMultiTaskSEOModel(config, tasks)

    def joint_loss(ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        targets = {"class": train.labels[rows], "hard": train.hard[rows]}
        return several.compute_multi_task_loss(several(ids, mask), targets)

    fit(several, joint_loss, train, settings, on_step)
    seconds = time.perf_counter() - begun

    with torch.no_grad():
        mask = held_out.ids != PADDING
        predicted = model.eval()(held_out.ids, mask).argmax(1)
        outputs = several.eval()(held_out.ids, mask)
    return (
        model,
        several,
        Outcome(
            predicted=predicted.tolist(),
            accuracy=_share(predicted == held_out.labels),
            multi_task_accuracy=_share(outputs["class"].argmax(1) == held_out.labels),
            hard_accuracy=_share((outputs["hard"].squeeze(1) > 0) == held_out.hard),
            hard_majority=max(_share(held_out.hard), _share(~held_out.hard)),
            tfidf_accuracy=tfidf_accuracy(data),
            majority=data.majority,
            history=history,
            seconds=seconds,
        ),
    )


def fit(
    model: nn.Module,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    data: Encoded,
    settings: ClassifySettings,
    on_step: Callable[[], None],
) -> list[float]:
    """Train with AdamW over shuffled batches; the loss of each.

    Args:
        loss: of ids (B, S), their mask, and the rows of the data (B,) that they are.
    """
    optimizer = AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=0.01)
    schedule = OneCycleLR(
        optimizer, settings.learning_rate, settings.steps + 1, pct_start=0.1, cycle_momentum=False
    )
    model.train()
    history: list[float] = []
    rows = torch.empty(0, dtype=torch.int64)
    for _ in range(settings.steps):
        if len(rows) < settings.batch:
            rows = torch.cat([rows, torch.randperm(len(data.ids))])
        drawn, rows = rows[: settings.batch], rows[settings.batch :]
        ids = data.ids[drawn]
        mask = ids != PADDING
        ids = ids.masked_fill(mask & (torch.rand(ids.shape) < HIDDEN_WORDS), UNKNOWN)
        longest = max(1, int(mask.sum(1).max()))
        value = loss(ids[:, :longest], mask[:, :longest], drawn)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        history.append(value.item())
        on_step()
    return history


def require_sklearn() -> None:
    """Raise where scikit-learn is not installed.

    Raises:
        MissingExtraError: it is not.
    """
    require("sklearn", extra="classify", purpose=PURPOSE)


def tfidf_accuracy(data: Labelled) -> float:
    """Held-out accuracy of logistic regression on TF-IDF of the words."""
    text = require("sklearn.feature_extraction.text", extra="classify", purpose=PURPOSE)
    linear = require("sklearn.linear_model", extra="classify", purpose=PURPOSE)
    threads = require("threadpoolctl", extra="classify", purpose=PURPOSE)
    vectorizer = text.TfidfVectorizer()
    train = vectorizer.fit_transform([sample.text for sample in data.train])
    held_out = vectorizer.transform([sample.text for sample in data.held_out])
    with threads.threadpool_limits(1):  # more only wait for each other, beside torch's
        model = linear.LogisticRegression(C=10.0, max_iter=1000)
        model.fit(train, [sample.label for sample in data.train])
    return float(model.score(held_out, [sample.label for sample in data.held_out]))


def _share(right: Tensor) -> float:
    return right.float().mean().item()
