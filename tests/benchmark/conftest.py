"""Cases small enough for a test, on one thread, and FlexAttention without its minute of compilation."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from seo_kernels.benchmark import cases
from seo_kernels.benchmark.cases import Case, Sizes

SMALL = Sizes(heads=2, length=320, dim=16, window=24, block=32, long_factor=2, cache=200, short=(2, 3, 40))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """``torch.compile`` does nothing: flex_attention runs its plain formula, with the same masks."""

    def compile(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return function

    monkeypatch.setattr(torch, "compile", compile)


@pytest.fixture
def small_cases() -> list[Case]:
    return cases.cases(SMALL)
