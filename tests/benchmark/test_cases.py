"""The cases are those of the published table, their contenders compute the same, work is counted."""

from dataclasses import replace

import pytest
import torch

import seo_kernels as sk
from seo_kernels.benchmark import activation_engines, attention_engines, case, cases, comparison
from seo_kernels.benchmark.activation_problem import ActivationProblem
from seo_kernels.benchmark.attention_problem import AttentionProblem
from seo_kernels.benchmark.case import OURS, Case, Floor, MemoryFloor
from seo_kernels.benchmark.linear_problem import LinearProblem
from seo_kernels.benchmark.loss_problem import LossProblem
from seo_kernels.benchmark.measuring import Timing
from seo_kernels.benchmark.memory import tensor_bytes
from seo_kernels.benchmark.model_problem import ModelProblem
from seo_kernels.benchmark.problem import Problem

NAMES = [case.name for case in cases.cases()]
PROBLEM = AttentionProblem(batch=2, heads=3, query_length=8, key_length=8, dim=4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", NAMES)
def test_every_contender_passes_verification(name: str, small_cases: list[Case]) -> None:
    (case,) = (case for case in small_cases if case.name == name)
    if isinstance(case.problem, ModelProblem):
        pytest.importorskip("transformers")
        pytest.importorskip("peft")
    contenders = comparison.prepare(case)
    assert [contender.name for contender in contenders] == [OURS, *(peer.name for peer in case.peers)]
    assert all(contender.missing is None for contender in contenders)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local-fp32-fwd", "local-bias-fp32-fwd", "bias-gelu-bf16-fwd-bwd"])
def test_compiled_peers_pass_verification(name: str, small_cases: list[Case]) -> None:
    (case,) = (case for case in small_cases if case.name == name)
    assert all(contender.missing is None for contender in comparison.prepare(case))


def test_the_sizes_are_those_of_the_table() -> None:
    full = {case.name: case.problem for case in cases.cases()}
    assert len(full) == len(NAMES)
    attention = {name: p for name, p in full.items() if isinstance(p, AttentionProblem)}
    others = {"local-long-fp32-fwd-bwd", "decode-fp32-fwd", "short-fp32-fwd-bwd"}
    assert {problem.sizes for name, problem in attention.items() if name not in others} == {"B1 H8 T4096 D64"}
    assert attention["local-long-fp32-fwd-bwd"].query_length == 65536
    assert full["decode-fp32-fwd"].sizes == "B1 H8 Tq1 Tk8192 D64"
    assert full["short-fp32-fwd-bwd"].sizes == "B32 H12 T128 D64"
    for name, problem in full.items():
        assert problem.backward == name.endswith(("bwd", "step"))
        assert problem.dtype == (torch.bfloat16 if "bf16" in name else torch.float32)
    assert {p.sizes for p in full.values() if isinstance(p, LinearProblem)} == {
        "2048x768 -> 3072",
        "2048x768 -> 3072 r16",
    }
    assert {p.sizes for p in full.values() if isinstance(p, ActivationProblem)} == {"2048x3072"}
    assert {p.sizes for p in full.values() if isinstance(p, LossProblem)} == {"4096 tokens d512 V32768"}
    assert {p.sizes for p in full.values() if isinstance(p, ModelProblem)} == {
        "12 layers d768 V1024 B2 T256 r16"
    }
    layout = attention["block-sparse-fp32-fwd"].pattern.dense_mask(4096, 4096)
    assert layout.float().mean() == 1 / 8


def test_floors() -> None:
    faster, slower = case.faster(2.5), case.within(1.9)
    assert (faster.speedup, faster.text, faster.describe(2.75)) == (2.5, "at least 2.5 x", "2.75 x")
    assert slower == Floor("at most 1.9 x time", 1.9, of_time=True)
    assert slower.speedup == pytest.approx(1 / 1.9)
    assert slower.describe(1 / 1.6) == "1.6 x time"
    rate = case.at_rate(0.6)
    assert (rate.speedup, rate.text, rate.describe(0.75)) == (0.6, "at least 0.6 x rate", "0.75 x rate")
    own, beside = MemoryFloor(2), MemoryFloor(0.25, peer="torch")
    assert (own.text, own.subject, own.beside) == ("at most 2 x", "peak memory", "the tensors themselves")
    assert (beside.text, beside.subject) == ("at most 0.25 x", "memory beyond inputs and results")
    assert beside.beside == "torch"


def test_floors_name_peers_of_their_case() -> None:
    for entry in cases.cases():
        if entry.memory_floor is not None and entry.memory_floor.peer is not None:
            assert entry.peer(entry.memory_floor.peer) in entry.peers


def test_work_of_attention_is_counted() -> None:
    pairs = PROBLEM.batch * PROBLEM.heads * 64
    assert PROBLEM.flops() == pairs * 4 * 4
    assert replace(PROBLEM, backward=True).flops() == pairs * 14 * 4
    assert replace(PROBLEM, pattern=sk.Causal()).flops() == 2 * 3 * 36 * 4 * 4
    assert replace(PROBLEM, pattern=sk.Local(1)).flops() == 2 * 3 * (8 + 7 + 7) * 4 * 4
    assert replace(PROBLEM, query_length=1).flops() is None
    assert replace(PROBLEM, tables=("key",), reach=2).flops() is None
    assert PROBLEM.traffic() is None


def test_work_of_linear_layers_is_counted() -> None:
    problem = LinearProblem(tokens=10, in_features=6, out_features=7)
    product = 2 * 10 * 6 * 7
    assert replace(problem, backward=False).flops() == product
    assert problem.flops() == 3 * product
    frozen = replace(problem, frozen=True)
    assert frozen.flops() == 2 * product
    # input lora_a^T and what lora_b makes of it; as much for the gradient of the input; two for their own
    assert replace(frozen, rank=2).flops() == 2 * product + 3 * (2 * 10 * 6 * 2 + 2 * 10 * 2 * 7)
    assert LossProblem(10, 6, 7).flops() == 3 * product


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_traffic_of_activations_is_that_of_their_tensors(gated: bool, dtype: torch.dtype) -> None:
    problem = ActivationProblem(64, 128, "silu", gated=gated, dtype=dtype)
    inputs = problem.make_inputs()
    results = problem.step(activation_engines.fused(problem), inputs)
    large = [tensor.nbytes for tensor in (*inputs.leaves.values(), *results.values()) if tensor.ndim == 2]
    assert inputs.grad_out is not None
    read_again = [leaf.nbytes for leaf in inputs.leaves.values() if leaf.ndim == 2]
    traffic = problem.traffic()
    assert traffic.moved == sum(large) + sum(read_again) + inputs.grad_out.nbytes
    assert traffic.tensor == inputs.grad_out.nbytes
    assert problem.flops() is None


def test_only_what_is_not_frozen_gets_a_gradient() -> None:
    problem = LinearProblem(5, 6, 7, rank=2, frozen=True)
    results = problem.step(problem.reference, problem.make_inputs())
    assert list(results) == ["out", "d input", "d lora_a", "d lora_b"]
    dense = replace(problem, rank=0, frozen=False)
    assert list(dense.step(dense.reference, dense.make_inputs())) == ["out", "d input", "d weight", "d bias"]


def test_tensors_are_counted() -> None:
    problem = replace(PROBLEM, key_length=5, tables=("key", "bias"), reach=2, backward=True)
    inputs = problem.make_inputs()
    results = problem.step(attention_engines.fused(problem), inputs)
    rows, tables = 2 * 3 * (2 * 8 + 2 * 5) * 4, 5 * 4 + 3 * 5  # query, out; key, value
    assert tensor_bytes(inputs, results) == 2 * 4 * (rows + tables)


def test_small_problems_are_of_the_same_kind() -> None:
    for entry in cases.cases():
        small = entry.problem.small()
        assert type(small) is type(entry.problem)
        assert (small.dtype, small.backward) == (entry.problem.dtype, entry.problem.backward)


def contenders(problem: Problem) -> list[comparison.Contender]:
    return [
        comparison.Contender(OURS, problem, None, dict, 0.0),
        comparison.Contender("peer", problem, case.faster(2), dict, 0.0),
        comparison.Contender("absent", problem, case.faster(2), None, None, missing="no compiler"),
    ]


TIMINGS = {OURS: Timing.of([0.001, 0.002, 0.003]), "peer": Timing.of([0.005, 0.005, 0.008])}


def test_ratios_and_shares() -> None:
    ours, peer, absent = comparison.evaluate(contenders(PROBLEM), TIMINGS)
    operations = PROBLEM.flops()
    assert operations is not None
    assert (ours.speedup, peer.speedup, absent.speedup) == (None, 2.5, None)
    assert ours.gflops == pytest.approx(operations / 0.002 / 1e9)
    assert (ours.copy_bandwidth, ours.share_of_copy) == (None, None)
    assert (absent.timing, absent.gflops, absent.share_of_peak) == (None, None, None)


def test_a_ratio_of_rates() -> None:
    """The peer does four times the work in 2.5 times the time: ours is at 0.625 of its rate."""
    ours, peer, _ = contenders(PROBLEM)
    longer = replace(PROBLEM, query_length=2 * PROBLEM.query_length, key_length=2 * PROBLEM.key_length)
    peer = replace(peer, problem=longer, floor=case.at_rate(0.6))
    assert longer.flops() == 4 * (PROBLEM.flops() or 0)
    assert comparison.evaluate([ours, peer], TIMINGS)[1].speedup == pytest.approx(0.625)


def test_share_of_the_copy_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def bandwidth(size: int, tensors: int, device: str) -> float:
        assert device == "cpu"
        sizes.append((size, tensors))
        return 10.0

    monkeypatch.setattr(comparison, "copy_bandwidth", bandwidth)
    problem = ActivationProblem(1000, 1000, "gelu")
    ours, peer, _ = comparison.evaluate(contenders(problem), TIMINGS)
    assert set(sizes) == {(4_000_000, 4)}
    assert (ours.gflops, ours.share_of_peak, ours.copy_bandwidth) == (None, None, 10.0)
    assert ours.share_of_copy == pytest.approx(5 * 4e6 / 0.002 / 10e9)
    assert peer.share_of_copy == pytest.approx(5 * 4e6 / 0.005 / 10e9)
