"""Cases small enough for a test, on one thread, and FlexAttention without its minute of compilation."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from seo_kernels.benchmark import cases
from seo_kernels.benchmark.activation_cases import ActivationSizes
from seo_kernels.benchmark.attention_cases import AttentionSizes
from seo_kernels.benchmark.case import Case
from seo_kernels.benchmark.cases import Sizes
from seo_kernels.benchmark.curvature_cases import CurvatureSizes
from seo_kernels.benchmark.dropout_cases import DropoutSizes
from seo_kernels.benchmark.linear_cases import LinearSizes
from seo_kernels.benchmark.loss_cases import LossSizes
from seo_kernels.benchmark.model_cases import ModelSizes
from seo_kernels.benchmark.training_cases import TrainingSizes
from seo_kernels.benchmark.watching_cases import WatchingSizes

SMALL = Sizes(
    attention=AttentionSizes(
        heads=2, length=320, dim=16, window=24, block=32, long_factor=2, cache=200, short=(2, 3, 40)
    ),
    linear=LinearSizes(tokens=90, in_features=48, out_features=70, rank=5),
    activation=ActivationSizes(rows=33, columns=50),
    dropout=DropoutSizes(rows=33, columns=50),
    loss=LossSizes(tokens=600, dim=24, vocabulary=130),
    model=ModelSizes(layers=2, dim=32, heads=2, length=12, vocabulary=40, rank=3),
    training=TrainingSizes(
        layers=2,
        dim=32,
        heads=2,
        vocabulary=40,
        length=24,
        batch=2,
        long_length=80,
        window=9,
        relative_length=90,
        prompt=5,
        new_tokens=12,
    ),
    watching=WatchingSizes(layers=2, dim=32, heads=2, vocabulary=40, length=12, batch=2),
    curvature=CurvatureSizes(layers=1, dim=32, heads=2, vocabulary=40, length=24, batch=2),
)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.compile`` does nothing: peers run what they would have compiled."""

    def compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return function

    monkeypatch.setattr(torch, "compile", compile)


@pytest.fixture
def small_cases() -> list[Case]:
    return cases.cases(SMALL)
