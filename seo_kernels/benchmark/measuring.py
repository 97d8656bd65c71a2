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
GPU_CALLS = 10  # that follow each other in one measurement: the GPU is never waiting for the next
GPU_PRODUCT = 8192  # rows, columns and inner dimension of the product that tells a GPU's peak


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

    def __init__(self, calls: Mapping[str, Call], device: str = "cpu") -> None:
        self.calls = dict(calls)
        self.seconds: dict[str, list[float]] = {name: [] for name in calls}
        self._clock = _seconds_of_gpu if device == "cuda" else _seconds_of

    def run(self, name: str) -> None:
        self.seconds[name].append(self._clock(self.calls[name]))

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
            self._clock(call)
        return min(max(int(seconds / (time.perf_counter() - begun)), LEAST_ROUNDS), MOST_ROUNDS)

    def timings(self) -> dict[str, Timing]:
        return {name: Timing.of(seconds) for name, seconds in self.seconds.items()}


def _seconds_of(call: Call) -> float:
    begun = time.perf_counter()
    result = call()
    taken = time.perf_counter() - begun
    del result  # kept until here: giving memory back is not timed
    return taken


def _seconds_of_gpu(call: Call) -> float:
    """Of one of several calls in a row, by events on the GPU's own clock."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    for _ in range(GPU_CALLS):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / GPU_CALLS


def in_turn(calls: Mapping[str, Call], seconds: float = SECONDS, device: str = "cpu") -> dict[str, Timing]:
    """Warm up, then rounds of one call each for about ``seconds``; on a GPU of a few calls each."""
    turns = Turns(calls, device)
    turns.warm_up()
    rounds = turns.rounds_within(seconds)
    with _no_garbage_collection():
        for _ in range(rounds):
            for name in calls:
                turns.run(name)
    return turns.timings()


def peak_rate(dtype: torch.dtype, device: str) -> float | None:
    """GFLOP/s that the device can reach at this dtype; None where that is not known.

    On the CPU those of ``fma_peak``; on a GPU those of torch's product of two large matrices.
    """
    return _measured_product(dtype) if device == "cuda" else fma_peak(dtype)


@functools.lru_cache
def _measured_product(dtype: torch.dtype) -> float:
    a, b = torch.randn(2, GPU_PRODUCT, GPU_PRODUCT, dtype=dtype, device="cuda")
    turns = Turns({"product": lambda: a @ b}, "cuda")
    turns.warm_up()
    for _ in range(PEAK_RUNS):
        turns.run("product")
    return 2 * GPU_PRODUCT**3 / min(turns.seconds["product"]) / 1e9


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


def copy_bandwidth(size: int, tensors: int, device: str = "cpu") -> float:
    """GB/s, read and written, of torch's copies of tensors of ``size`` bytes, measured once per process.

    They go round ``tensors`` of them: the caches keep no more of it than of a step that touches as many.
    """
    return _measured_copy(size, max(tensors, 2), torch.get_num_threads(), device)


@functools.lru_cache
def _measured_copy(size: int, tensors: int, threads: int, device: str) -> float:
    """The best of many rounds, as of the peak."""
    ring = [torch.ones(size, dtype=torch.uint8, device=device) for _ in range(tensors)]

    def copy_round() -> None:
        for source, target in zip(ring, ring[1:] + ring[:1], strict=True):
            target.copy_(source)

    turns = Turns({"copy": copy_round}, device)
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
