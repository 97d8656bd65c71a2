"""The clock: contenders run in turn, A B A B ..., so that all of them meet the same machine."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from seo_kernels import _library

Call = Callable[[], object]

WARM_UP = 2  # calls before the first that counts
SECONDS = 6.0  # of rounds, per case
LEAST_ROUNDS, MOST_ROUNDS = 7, 500
PEAK_RUNS, PEAK_MILLISECONDS = 10, 50
COPY_ROUNDS = 40


@dataclass(frozen=True)
class Timing:
    """Quantiles in milliseconds over all rounds."""

    rounds: int
    min_ms: float
    q10_ms: float
    q25_ms: float
    median_ms: float
    q75_ms: float
    q90_ms: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        quantiles = np.quantile(seconds, (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)) * 1e3
        return cls(len(seconds), *(float(quantile) for quantile in quantiles))


class Turns:
    """The contenders of a case by name, and the seconds that each call of ``run`` took."""

    def __init__(self, calls: Mapping[str, Call]) -> None:
        self.calls = dict(calls)
        self.seconds: dict[str, list[float]] = {name: [] for name in calls}

    def run(self, name: str) -> None:
        call = self.calls[name]
        begun = time.perf_counter()
        result = call()
        self.seconds[name].append(time.perf_counter() - begun)
        del result  # kept until here: giving memory back is not timed

    def run_others(self, name: str) -> None:
        for other in self.calls:
            if other != name:
                self.run(other)

    def warm_up(self) -> None:
        for _ in range(WARM_UP):
            for call in self.calls.values():
                call()

    def rounds_within(self, seconds: float) -> int:
        """How many rounds fit, judged by one round, within the bounds for a stable median."""
        begun = time.perf_counter()
        for call in self.calls.values():
            call()
        return min(max(int(seconds / (time.perf_counter() - begun)), LEAST_ROUNDS), MOST_ROUNDS)

    def timings(self) -> dict[str, Timing]:
        return {name: Timing.of(seconds) for name, seconds in self.seconds.items()}


def in_turn(calls: Mapping[str, Call], seconds: float = SECONDS) -> dict[str, Timing]:
    """Warm up, then rounds of one call each for about ``seconds``."""
    turns = Turns(calls)
    turns.warm_up()
    rounds = turns.rounds_within(seconds)
    with _no_garbage_collection():
        for _ in range(rounds):
            for name in calls:
                turns.run(name)
    return turns.timings()


def fma_peak(dtype: torch.dtype) -> float | None:
    """GFLOP/s of fused multiply-adds in registers over torch's threads, measured once per process.

    None where this machine has no such instruction, or the library is not built.
    """
    if not _library.available("cpu"):
        return None
    return _measured_peak(str(dtype).removeprefix("torch."), torch.get_num_threads())


@functools.lru_cache
def _measured_peak(kind: str, threads: int) -> float | None:
    """The best of a few runs: a share of it is never too large for want of a quiet moment."""
    return max(torch.ops.seo_kernels.fma_peak(kind, PEAK_MILLISECONDS) for _ in range(PEAK_RUNS)) or None


def copy_bandwidth(size: int, tensors: int) -> float:
    """GB/s, read and written, of torch's copies of tensors of ``size`` bytes, measured once per process.

    They go round ``tensors`` of them: the caches keep no more of it than of a step that touches as many.
    """
    return _measured_copy(size, max(tensors, 2), torch.get_num_threads())


@functools.lru_cache
def _measured_copy(size: int, tensors: int, threads: int) -> float:
    """The best of many rounds, as of the peak."""
    ring = [torch.ones(size, dtype=torch.uint8) for _ in range(tensors)]

    def copy_round() -> None:
        for source, target in zip(ring, ring[1:] + ring[:1], strict=True):
            target.copy_(source)

    turns = Turns({"copy": copy_round})
    for _ in range(COPY_ROUNDS):
        turns.run("copy")
    return tensors * 2 * size / min(turns.seconds["copy"]) / 1e9


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
