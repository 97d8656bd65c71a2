"""The documented API, row by row. Only documented names are imported here, nothing of ``seo_kernels``.

These tests run on the checkout, and by ``tests/test_installed_wheel.py`` on what a wheel installs.
"""

import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """The same numbers, on one thread: everything here is tiny."""
    threads, anomaly = torch.get_num_threads(), torch.is_anomaly_enabled()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.autograd.set_detect_anomaly(anomaly)


@pytest.fixture
def binds() -> Callable[..., dict[str, Any]]:
    """A callable takes the documented keywords, and leaving out all but the named ones is allowed."""

    def check(function: Callable[..., Any], needed: tuple[str, ...], **documented: Any) -> dict[str, Any]:
        signature = inspect.signature(function)
        signature.bind(**documented)
        signature.bind(**{name: documented[name] for name in needed})
        # in the documented order, so that they can be given by position too
        assert [name for name in signature.parameters if name in documented] == list(documented)
        return {name: parameter.default for name, parameter in signature.parameters.items()}

    return check
