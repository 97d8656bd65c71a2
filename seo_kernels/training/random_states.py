"""The states of all generators that training draws from, to be kept and set again."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

INNER = ("sampler", "batch_sampler")  # where a loader keeps what draws its order


def random_states() -> dict[str, Any]:
    """Of python, numpy, torch and each CUDA device, as tensors and plain numbers."""
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    version, state, gauss = random.getstate()
    return {
        "python": [version, list(state), gauss],
        "numpy": [torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Set what ``random_states`` gave.

    Raises:
        ValueError: it is of another number of CUDA devices.
    """
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if len(states["cuda"]) not in (0, devices):
        raise ValueError(
            f"the random states are of {len(states['cuda'])} CUDA devices, expected those of {devices}"
        )
    version, state, gauss = states["python"]
    random.setstate((version, tuple(state), gauss))
    keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


@contextlib.contextmanager
def undisturbed_random_states() -> Iterator[None]:
    """What is drawn within does not change what is drawn afterwards."""
    states = random_states()
    try:
        yield
    finally:
        set_random_states(states)


def loader_generators(loader: Any) -> list[torch.Generator]:
    """The generators of its own that a loader and its samplers draw from, each once."""
    found: list[torch.Generator] = []
    for _ in range(4):  # a loader, its batch sampler, that one's sampler, and one that shares them out
        generator = getattr(loader, "generator", None)
        if isinstance(generator, torch.Generator) and all(generator is not other for other in found):
            found.append(generator)
        inner = [getattr(loader, name, None) for name in INNER]
        for sampler in inner:
            other = getattr(sampler, "generator", None)
            if isinstance(other, torch.Generator) and all(other is not each for each in found):
                found.append(other)
        loader = next((sampler for sampler in reversed(inner) if sampler is not None), None)
    return found
