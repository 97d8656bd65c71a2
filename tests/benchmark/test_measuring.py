"""The clock takes turns and counts what it should; memory is that of the step. No time is asserted."""

import gc
import time
from dataclasses import replace

import pytest
import torch

import seo_kernels as sk
from seo_kernels.benchmark import measuring
from seo_kernels.benchmark.measuring import Timing, Turns, in_turn
from seo_kernels.benchmark.memory import CLEAR_REFS, peak_memory
from seo_kernels.benchmark.problems import Problem, tensor_bytes


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
    assert Turns({"a": lambda: None}).rounds_within(60.0) == measuring.MOST_ROUNDS


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


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("backward", [False, True])
def test_peak_memory_holds_the_tensors(backward: bool) -> None:
    problem = Problem(1, 2, 20000, 20000, 64, pattern=sk.Local(8), backward=backward)
    memory = peak_memory(problem)
    assert memory is not None
    assert memory.tensors == tensor_bytes(problem)
    assert 0.95 < memory.ratio < 3


@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="needs Linux's /proc")
def test_a_failing_child_is_reported() -> None:
    problem = replace(Problem(1, 2, 8, 8, 300), pattern=sk.Dense())  # no kernel has that head dim
    with pytest.raises(RuntimeError, match=r"(?s)measures memory failed.*300"):
        peak_memory(problem)
