"""One case from its inputs to its figures: verify every contender, then time them in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from seo_kernels._extras import MissingExtraError
from seo_kernels.benchmark.case import OURS, Case, Floor
from seo_kernels.benchmark.measuring import SECONDS, Timing, copy_bandwidth, in_turn, peak_rate
from seo_kernels.benchmark.memory import MemoryFigures, measure_memory
from seo_kernels.benchmark.problem import Engine, Inputs, Problem, Results
from seo_kernels.benchmark.verification import WrongResultError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Contender:
    """Ready to run: the step that is timed, the error of its result, the floor of a peer.

    ``call`` is None where a peer does not run here, and ``missing`` says why.
    """

    name: str
    problem: Problem
    floor: Floor | None
    call: Callable[[], Results] | None
    error: float | None
    missing: str | None = None


@dataclass(frozen=True)
class Figures:
    """What is reported about a contender, None where it does not apply or was not measured.

    ``share_of_peak``: of the multiply-adds that ``gflops`` are; on a GPU of a large product.
    ``share_of_copy``: of the measured ``copy_bandwidth``, GB/s. ``speedup``: its median time over ours, or,
    where its floor is of rates, our ``gflops`` over its own.
    """

    contender: Contender
    timing: Timing | None = None
    gflops: float | None = None
    share_of_peak: float | None = None
    copy_bandwidth: float | None = None
    share_of_copy: float | None = None
    speedup: float | None = None


@dataclass(frozen=True)
class Comparison:
    """A measured case, ours first; or one without figures: refused for a wrong result, or skipped."""

    case: Case
    figures: tuple[Figures, ...]
    memory: MemoryFigures | None = None
    refused: str | None = None
    skipped: str | None = None


def prepare(case: Case, say: Say = lambda text: None) -> list[Contender]:
    """Build inputs and engines, ours first, and verify every result.

    Raises:
        WrongResultError: a contender does not compute what the case says.
        MissingExtraError: the case needs a library that is not installed.
    """
    with torch.device(case.device):
        return _prepare_here(case, say)


def _prepare_here(case: Case, say: Say) -> list[Contender]:
    """On torch's default device."""
    entries: list[tuple[str, Engine, Problem, Floor | None]] = [(OURS, case.engine, case.problem, None)]
    entries += [(peer.name, peer.engine, peer.problem or case.problem, peer.floor) for peer in case.peers]
    known: dict[Problem, tuple[Inputs, Any]] = {}
    contenders = []
    for name, engine, problem, floor in entries:
        say(f"verifying {name}")
        if problem not in known:
            inputs = problem.make_inputs()
            known[problem] = inputs, problem.expect(inputs)
        inputs, expected = known[problem]
        try:
            forward = engine(problem)
            error = problem.verify(inputs, forward, expected)
        except WrongResultError as wrong:
            raise WrongResultError(f"{name}: {wrong}") from None
        except (RuntimeError, MissingExtraError) as failure:
            if engine is case.engine:
                raise
            reason = str(failure).strip().partition("\n")[0]  # no C++ compiler for torch.compile, say
            contenders.append(Contender(name, problem, floor, None, None, missing=reason))
            continue
        call = functools.partial(problem.step, forward, inputs)
        contenders.append(Contender(name, problem, floor, call, error))
    return contenders


def compare(case: Case, seconds: float = SECONDS, say: Say = lambda text: None) -> Comparison:
    """Verify one case, time it for about ``seconds``, and measure memory where it has a floor for that.

    ``say`` is told what is going on.
    """
    try:
        contenders = prepare(case, say)
    except WrongResultError as wrong:
        return Comparison(case, (), refused=str(wrong))
    except MissingExtraError as missing:
        return Comparison(case, (), skipped=str(missing))
    say("timing")
    figures = evaluate(contenders, in_turn(calls_of(contenders), seconds, case.device), case.device)
    if case.memory_floor is not None:
        say("measuring memory")
    return Comparison(case, tuple(figures), measure_memory(case))


def calls_of(contenders: list[Contender]) -> dict[str, Callable[[], Results]]:
    """The timed steps of those contenders that run here, by name."""
    return {contender.name: contender.call for contender in contenders if contender.call is not None}


def evaluate(contenders: list[Contender], timings: dict[str, Timing], device: str = "cpu") -> list[Figures]:
    """Rates, shares of the peak or of the copy bandwidth, and ratios of medians."""
    ours = timings[OURS].median_ms / 1e3
    operations = next(contender.problem.flops() for contender in contenders if contender.name == OURS)
    rate = None if operations is None else operations / ours / 1e9
    return [_figures(contender, timings.get(contender.name), ours, rate, device) for contender in contenders]


def _figures(
    contender: Contender, timing: Timing | None, ours: float, our_rate: float | None, device: str
) -> Figures:
    """``ours``: seconds."""
    if timing is None:
        return Figures(contender)
    problem, seconds = contender.problem, timing.median_ms / 1e3
    operations, peak, traffic = problem.flops(), peak_rate(problem.dtype, device), problem.traffic()
    gflops = operations / seconds / 1e9 if operations is not None else None
    bandwidth = copy_bandwidth(traffic.tensor, traffic.tensors, device) if traffic is not None else None
    speedup = None if contender.floor is None else seconds / ours
    if contender.floor is not None and contender.floor.of_rate:
        speedup = our_rate / gflops if our_rate is not None and gflops is not None else None
    return Figures(
        contender,
        timing,
        gflops=gflops,
        share_of_peak=gflops / peak if gflops is not None and peak is not None else None,
        copy_bandwidth=bandwidth,
        share_of_copy=traffic.moved / seconds / 1e9 / bandwidth if traffic and bandwidth else None,
        speedup=speedup,
    )
