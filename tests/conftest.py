"""What every test starts from: the same seeds, and as many threads as the continuous integration has."""

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# read when transformers and peft are imported: no test fetches anything
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# no clock: machines differ, and the first call of an op loads it; the same examples in every run
SETTINGS = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}
settings.register_profile("seo_kernels", **SETTINGS, derandomize=True)
settings.register_profile("exploring", **SETTINGS)  # new ones: pytest --hypothesis-profile exploring
settings.load_profile("seo_kernels")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", choices=("cpu", "cuda"), help="where tests make their tensors"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is imported: modules of tests hold tensors too."""
    device = config.getoption("--device")
    if device != "cpu":
        torch.set_default_device(device)


# both register ops: an import for doctests would do so where nobody asked
collect_ignore = ["ops/toy_ops.py", "cuda/on_host.py"]


def pytest_collectstart(collector: pytest.Collector) -> None:
    """What a module draws while it is imported does not depend on those that came before."""
    _seed_everything()


@pytest.fixture(autouse=True)
def _seed() -> None:
    _seed_everything()


def _seed_everything() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    """What other tests compiled would count towards the limit of recompilations."""
    torch.compiler.reset()


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(2)


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Tensors that torch allocates uninitialised, for the kernels too, hold NaN, or the largest integer.

    For a whole module: ``pytestmark = pytest.mark.usefixtures("poisoned_memory")``. The kernels' own working
    memory comes from malloc: the Makefile has glibc fill it.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One torch thread, in subprocesses too."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
