"""Everything here is tiny: threads would only wait for each other."""

import pytest


@pytest.fixture(autouse=True)
def _tiny(one_thread: None) -> None:
    """Every test of this folder runs on one thread."""
