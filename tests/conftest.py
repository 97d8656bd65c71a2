"""What every test starts from: the same seed, and as many threads as the continuous integration has."""

import pytest
import torch
from hypothesis import settings

settings.register_profile(
    "seo_kernels", deadline=None, print_blob=True
)  # the first call of a kernel loads it
settings.load_profile("seo_kernels")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _threads() -> None:
    torch.set_num_threads(2)
