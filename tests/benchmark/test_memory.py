"""Peak memory is that of the step, whichever it is, in a process of its own."""

from dataclasses import replace

import pytest

import seo_kernels as sk
from seo_kernels.benchmark import attention_engines, loss_engines
from seo_kernels.benchmark.attention_problem import AttentionProblem
from seo_kernels.benchmark.case import Case, MemoryFloor, Peer, faster
from seo_kernels.benchmark.loss_problem import LossProblem
from seo_kernels.benchmark.memory import CLEAR_REFS, MemoryFigures, PeakMemory, measure_memory, peak_memory

pytestmark = pytest.mark.skipif(not CLEAR_REFS.exists(), reason="needs Linux's /proc")


@pytest.mark.parametrize("backward", [False, True])
def test_peak_memory_holds_the_tensors(backward: bool) -> None:
    problem = AttentionProblem(1, 2, 20000, 20000, 64, pattern=sk.Local(8), backward=backward)
    memory = peak_memory(problem, attention_engines.fused)
    # query, key, value, out, and with backward a gradient of each
    assert memory.tensors == 4 * (2 * 20000 * 64) * 4 * (2 if backward else 1)
    assert 0.95 < memory.peak / memory.tensors < 3


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
    memory = measure_memory(case)
    assert memory is not None
    assert memory.peer is not None
    logits = 3000 * 4000 * 4
    assert memory.ours.tensors == memory.peer.tensors == 2 * (3000 + 4000) * 16 * 4 + 3000 * 8 + 4 + 4
    assert memory.ours.extra > logits
    assert 0.5 < memory.ratio < 2  # the same step twice


def test_ratios() -> None:
    ours, peer = PeakMemory(tensors=100, peak=120), PeakMemory(tensors=100, peak=180)
    assert MemoryFigures(ours, None).ratio == 1.2
    assert MemoryFigures(ours, peer).ratio == 0.25
