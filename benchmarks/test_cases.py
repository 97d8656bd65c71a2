"""``pytest benchmarks/``: the cases of ``python -m seo_kernels bench`` under pytest-benchmark.

A test times one contender; the contenders of a case are one group. Before each round of the one that is timed
the others take their turn, so that all meet the same machine.
"""

import functools

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from seo_kernels._extras import MissingExtraError
from seo_kernels.benchmark import cases, comparison, measuring, memory
from seo_kernels.benchmark.case import OURS, Case
from seo_kernels.benchmark.comparison import Contender

SECONDS = 4.0  # of rounds, per test
PAIRS = [(case, name) for case in cases.cases() for name in (OURS, *(peer.name for peer in case.peers))]


@functools.lru_cache(maxsize=1)  # the tests of a case follow each other
def prepared(case: Case) -> list[Contender]:
    """Verified: raises where a result is wrong."""
    return comparison.prepare(case)


@pytest.mark.parametrize(
    ("case", "name"), PAIRS, ids=[f"{case.name}-{name.replace(' ', '_')}" for case, name in PAIRS]
)
def test_case(case: Case, name: str, benchmark: BenchmarkFixture) -> None:
    try:
        contenders = prepared(case)
    except MissingExtraError as missing:
        pytest.skip(str(missing))
    (contender,) = (c for c in contenders if c.name == name)
    if contender.call is None:
        pytest.skip(f"{name} does not run here: {contender.missing}")
    benchmark.group = case.title
    turns = measuring.Turns(comparison.calls_of(contenders))
    turns.warm_up()
    rounds = turns.rounds_within(SECONDS) if benchmark.enabled else 1
    benchmark.pedantic(turns.run, args=(name,), setup=lambda: turns.run_others(name), rounds=rounds)

    figures = comparison.evaluate(contenders, turns.timings())
    (own,) = (f for f in figures if f.contender is contender)
    benchmark.extra_info["error"] = contender.error
    benchmark.extra_info["share_of_peak"] = own.share_of_peak
    benchmark.extra_info["share_of_copy"] = own.share_of_copy
    benchmark.extra_info["ratio"] = {  # the peer's median time over ours
        f.contender.name: f.speedup
        for f in figures
        if f.speedup is not None and name in (OURS, f.contender.name)
    }
    if name == OURS and case.memory_floor is not None:
        measured = memory.measure_memory(case)
        benchmark.extra_info["memory_ratio"] = None if measured is None else measured.ratio
