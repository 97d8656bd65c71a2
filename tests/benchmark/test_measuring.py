"""The clock takes turns and counts what it should. No time is asserted."""

import gc
import time

import pytest
import torch

import seo_kernels as sk
from seo_kernels.benchmark import measuring
from seo_kernels.benchmark.measuring import Timing, Turns, in_turn


def test_contenders_take_turns() -> None:
    calls: list[str] = []
    timings = in_turn({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, seconds=0.0)
    rounds = measuring.LEAST_ROUNDS
    assert {name: timing.rounds for name, timing in timings.items()} == {"a": rounds, "b": rounds}
    assert calls == ["a", "b"] * (measuring.WARM_UP + 1 + rounds)
    assert gc.isenabled()


def test_garbage_collection_comes_back_after_an_exception() -> None:
    calls = iter([None] * (measuring.WARM_UP + 2))
    with pytest.raises(StopIteration):
        in_turn({"a": lambda: next(calls)}, seconds=0.0)
    assert gc.isenabled()


def test_rounds_fill_the_time_within_bounds() -> None:
    assert Turns({"a": lambda: time.sleep(0.01)}).rounds_within(0.02) == measuring.LEAST_ROUNDS
    assert Turns({"a": lambda: None}).rounds_within(1e6) == measuring.MOST_ROUNDS


def test_others_run_once_each() -> None:
    turns = Turns(dict.fromkeys("abc", lambda: None))
    turns.run_others("b")
    assert {name: len(seconds) for name, seconds in turns.seconds.items()} == {"a": 1, "b": 0, "c": 1}


def test_quantiles() -> None:
    timing = Timing.of([n / 1000 for n in range(101)])
    assert timing.rounds == 101
    quantiles = (timing.min_ms, timing.q10_ms, timing.q25_ms, timing.median_ms, timing.q75_ms, timing.q90_ms)
    assert quantiles == pytest.approx((0, 10, 25, 50, 75, 90))


@pytest.mark.skipif(not sk.info()["native"], reason="the peak is measured by the compiled library")
def test_fma_peak_is_positive() -> None:
    peak = measuring.fma_peak(torch.float32)
    assert peak is not None
    assert peak > 0


def test_copy_bandwidth_is_positive() -> None:
    assert measuring.copy_bandwidth(1000, 5) > 0
