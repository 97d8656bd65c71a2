"""One case from its inputs to its figures: verify every contender, then time them in turn."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from seo_kernels.benchmark.cases import OURS, Case, Floor
from seo_kernels.benchmark.engines import Engine, fused
from seo_kernels.benchmark.measuring import SECONDS, Timing, fma_peak, in_turn
from seo_kernels.benchmark.memory import PeakMemory, peak_memory
from seo_kernels.benchmark.problems import Inputs, Problem, flops, make_inputs, step
from seo_kernels.benchmark.verification import Expected, WrongResultError, expect, verify

Say = Callable[[str], None]


@dataclass(frozen=True)
class Contender:
    """Ready to run: the step that is timed, the error of its result, the floor of a peer.

    ``call`` is None where a peer does not run here, and ``missing`` says why.
    """

    name: str
    problem: Problem
    floor: Floor | None
    call: Callable[[], dict[str, Tensor]] | None
    error: float | None
    missing: str | None = None


@dataclass(frozen=True)
class Figures:
    """What is reported about a contender. ``speedup``: the peer's median time over ours, for peers."""

    contender: Contender
    timing: Timing | None
    gflops: float | None
    share_of_peak: float | None
    speedup: float | None


@dataclass(frozen=True)
class Comparison:
    """A measured case, ours first; or a refused one, which has no figures but a reason."""

    case: Case
    figures: tuple[Figures, ...]
    memory: PeakMemory | None = None
    refused: str | None = None


def prepare(case: Case, say: Say = lambda text: None) -> list[Contender]:
    """Build inputs and engines, ours first, and verify every result.

    Raises:
        WrongResultError: a contender does not compute what the case says.
    """
    entries: list[tuple[str, Engine, Problem, Floor | None]] = [(OURS, fused, case.problem, None)]
    entries += [(peer.name, peer.engine, peer.problem or case.problem, peer.floor) for peer in case.peers]
    known: dict[Problem, tuple[Inputs, Expected]] = {}
    contenders = []
    for name, engine, problem, floor in entries:
        say(f"verifying {name}")
        if problem not in known:
            inputs = make_inputs(problem)
            known[problem] = inputs, expect(problem, inputs)
        inputs, expected = known[problem]
        try:
            forward = engine(problem)
            error = verify(problem, inputs, forward, expected)
        except WrongResultError as wrong:
            raise WrongResultError(f"{name}: {wrong}") from None
        except RuntimeError as failure:
            if engine is fused:
                raise
            reason = str(failure).strip().partition("\n")[0]  # no C++ compiler for torch.compile, say
            contenders.append(Contender(name, problem, floor, None, None, missing=reason))
            continue
        call = functools.partial(step, problem, forward, inputs.leaves, inputs.grad_out)
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
    say("timing")
    figures = evaluate(contenders, in_turn(calls_of(contenders), seconds))
    memory = None
    if case.memory_floor is not None:
        say("measuring memory")
        memory = peak_memory(case.problem)
    return Comparison(case, tuple(figures), memory)


def calls_of(contenders: list[Contender]) -> dict[str, Callable[[], dict[str, Tensor]]]:
    """The timed steps of those contenders that run here, by name."""
    return {contender.name: contender.call for contender in contenders if contender.call is not None}


def evaluate(contenders: list[Contender], timings: dict[str, Timing]) -> list[Figures]:
    """Rates, shares of the peak and ratios of medians."""
    figures = []
    ours = timings[OURS].median_ms
    for contender in contenders:
        timing = timings.get(contender.name)
        if timing is None:
            figures.append(Figures(contender, None, None, None, None))
            continue
        operations, peak = flops(contender.problem), fma_peak(contender.problem.dtype)
        gflops = operations / timing.median_ms / 1e6 if operations is not None else None
        share = gflops / peak if gflops is not None and peak is not None else None
        speedup = None if contender.floor is None else timing.median_ms / ours
        figures.append(Figures(contender, timing, gflops, share, speedup))
    return figures
