"""Peak memory is that of the step, whichever it is, in a process of its own."""

from dataclasses import replace

import pytest
import torch

import seo_kernels as sk
from seo_kernels._extras import MissingExtraError
from seo_kernels.benchmark import attention_engines, loss_engines, memory
from seo_kernels.benchmark.attention_problem import AttentionProblem
from seo_kernels.benchmark.case import Case, MemoryFloor, Peer, faster
from seo_kernels.benchmark.loss_problem import LossProblem
from seo_kernels.benchmark.memory import (
    CLEAR_REFS,
    MemoryFigures,
    PeakMemory,
    measure_memory,
    peak_memory,
)
from seo_kernels.benchmark.problem import Engine, Forward

pytestmark = pytest.mark.skipif(not CLEAR_REFS.exists(), reason="needs Linux's /proc")


@pytest.mark.parametrize("backward", [False, True])
def test_peak_memory_holds_the_tensors(backward: bool) -> None:
    problem = AttentionProblem(1, 2, 20000, 20000, 64, pattern=sk.Local(8), backward=backward)
    found = peak_memory(problem, attention_engines.fused)
    # query, key, value, out, and with backward a gradient of each
    assert found.tensors == 4 * (2 * 20000 * 64) * 4 * (2 if backward else 1)
    assert 0.95 < found.peak / found.tensors < 3


def test_a_failing_child_is_reported() -> None:
    problem = replace(AttentionProblem(1, 2, 8, 8, 300), pattern=sk.Dense())  # no kernel has that head dim
    with pytest.raises(RuntimeError, match=r"(?s)measures memory failed.*300"):
        peak_memory(problem, attention_engines.fused)


def test_a_peer_is_measured_too() -> None:
    problem = LossProblem(tokens=3000, dim=16, vocabulary=4000)
    peer = Peer("torch", loss_engines.separate, faster(1))
    case = Case("loss", "loss", problem, loss_engines.separate, (peer,))
    assert measure_memory(case) is None
    case = replace(case, memory_floor=MemoryFloor(1, peer="torch"))
    found = measure_memory(case)
    assert found is not None
    assert found.peer is not None
    logits = 3000 * 4000 * 4
    assert found.ours.tensors == found.peer.tensors == 2 * (3000 + 4000) * 16 * 4 + 3000 * 8 + 4 + 4
    assert found.ours.extra > logits
    assert 0.5 < found.ratio < 2  # the same step twice


def test_memory_of_a_gpu_is_the_allocators(monkeypatch: pytest.MonkeyPatch) -> None:
    """The allocator is a stand-in: it held 1000 bytes before the inputs, and 31000 at most in the step."""
    calls = []
    answers = {
        "synchronize": None,
        "memory_allocated": 1000,
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 31000,
    }
    for name, answer in answers.items():
        monkeypatch.setattr(
            torch.cuda, name, lambda name=name, answer=answer: (calls.append(name), answer)[1]
        )
    problem = LossProblem(tokens=30, dim=16, vocabulary=40)
    found = memory._gpu_memory(problem, loss_engines.separate, device="cpu")
    assert found == PeakMemory(tensors=2 * (30 + 40) * 16 * 4 + 30 * 8 + 4 + 4, peak=30000)
    assert [name for name in calls if name != "synchronize"] == [*answers][1:]


def test_beside_a_peer_that_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(problem: LossProblem) -> Forward:
        raise MissingExtraError("not installed")

    def measured(problem: LossProblem, engine: Engine, device: str) -> PeakMemory:
        engine(problem)
        return PeakMemory(1, 2)

    monkeypatch.setattr(memory, "_gpu_memory", measured)
    problem = LossProblem(tokens=30, dim=16, vocabulary=40)
    case = Case(
        *("loss", "loss", problem, loss_engines.separate, (Peer("Liger", absent, faster(1)),)),
        memory_floor=MemoryFloor(1, peer="Liger"),
        device="cuda",
    )
    assert measure_memory(case) is None


def test_ratios() -> None:
    ours, peer = PeakMemory(tensors=100, peak=120), PeakMemory(tensors=100, peak=180)
    assert MemoryFigures(ours, None).ratio == 1.2
    assert MemoryFigures(ours, peer).ratio == 0.25
