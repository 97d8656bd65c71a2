"""What every test starts from: the same seed, and as many threads as the continuous integration has."""

import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# read when transformers and peft are imported: no test fetches anything
os.environ["HF_HUB_OFFLINE"] = os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# no deadline: machines differ, and the first call of an op loads it
settings.register_profile("seo_kernels", deadline=None, print_blob=True)
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


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


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
