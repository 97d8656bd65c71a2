"""The cases are those of the published table, their contenders compute the same, work is counted."""

from dataclasses import replace

import pytest
import torch

import seo_kernels as sk
from seo_kernels.benchmark import cases, comparison, problems
from seo_kernels.benchmark.cases import OURS, Case, Floor
from seo_kernels.benchmark.engines import fused
from seo_kernels.benchmark.measuring import Timing
from seo_kernels.benchmark.problems import Problem

NAMES = [case.name for case in cases.cases()]
PROBLEM = Problem(batch=2, heads=3, query_length=8, key_length=8, dim=4)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", NAMES)
def test_every_contender_passes_verification(name: str, small_cases: list[Case]) -> None:
    (case,) = (case for case in small_cases if case.name == name)
    contenders = comparison.prepare(case)
    assert [contender.name for contender in contenders] == [OURS, *(peer.name for peer in case.peers)]
    assert all(contender.missing is None for contender in contenders)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local-fp32-fwd", "local-bias-fp32-fwd"])
def test_compiled_flex_attention_passes_verification(name: str, small_cases: list[Case]) -> None:
    (case,) = (case for case in small_cases if case.name == name)
    assert all(contender.missing is None for contender in comparison.prepare(case))


def test_the_sizes_are_those_of_the_table() -> None:
    full = {case.name: case.problem for case in cases.cases()}
    assert len(full) == len(NAMES)
    others = {"local-long-fp32-fwd-bwd", "decode-fp32-fwd", "short-fp32-fwd-bwd"}
    assert {problem.sizes for name, problem in full.items() if name not in others} == {"B1 H8 T4096 D64"}
    assert full["local-long-fp32-fwd-bwd"].query_length == 65536
    assert full["decode-fp32-fwd"].sizes == "B1 H8 Tq1 Tk8192 D64"
    assert full["short-fp32-fwd-bwd"].sizes == "B32 H12 T128 D64"
    for name, problem in full.items():
        assert problem.backward == name.endswith("bwd")
        assert problem.dtype == (torch.bfloat16 if "bf16" in name else torch.float32)
    layout = full["block-sparse-fp32-fwd"].pattern.dense_mask(4096, 4096)
    assert layout.float().mean() == 1 / 8


def test_floors() -> None:
    faster, slower = cases.faster(2.5), Floor("at most 1.9 x time", 1.9, of_time=True)
    assert (faster.speedup, faster.text, faster.describe(2.75)) == (2.5, "at least 2.5 x", "2.75 x")
    assert slower.speedup == pytest.approx(1 / 1.9)
    assert slower.describe(1 / 1.6) == "1.6 x time"


def test_work_is_counted() -> None:
    pairs = PROBLEM.batch * PROBLEM.heads * 64
    assert problems.flops(PROBLEM) == pairs * 4 * 4
    assert problems.flops(replace(PROBLEM, backward=True)) == pairs * 14 * 4
    assert problems.flops(replace(PROBLEM, pattern=sk.Causal())) == 2 * 3 * 36 * 4 * 4
    assert problems.flops(replace(PROBLEM, pattern=sk.Local(1))) == 2 * 3 * (8 + 7 + 7) * 4 * 4
    assert problems.flops(replace(PROBLEM, query_length=1)) is None
    assert problems.flops(replace(PROBLEM, tables=("key",), reach=2)) is None


def test_tensors_are_counted() -> None:
    problem = replace(PROBLEM, key_length=5, tables=("key", "bias"), reach=2, backward=True)
    inputs = problems.make_inputs(problem)
    results = problems.step(problem, fused(problem), inputs.leaves, inputs.grad_out)
    assert inputs.grad_out is not None
    tensors = [*inputs.leaves.values(), inputs.grad_out, *results.values()]
    assert problems.tensor_bytes(problem) == sum(tensor.nbytes for tensor in tensors)
    assert problems.tensor_bytes(replace(problem, backward=False)) * 2 == problems.tensor_bytes(problem)


def test_ratios_and_shares() -> None:
    contenders = [
        comparison.Contender(OURS, PROBLEM, None, dict, 0.0),
        comparison.Contender("peer", PROBLEM, cases.faster(2), dict, 0.0),
        comparison.Contender("absent", PROBLEM, cases.faster(2), None, None, missing="no compiler"),
    ]
    timings = {OURS: Timing.of([0.001, 0.002, 0.003]), "peer": Timing.of([0.005, 0.005, 0.008])}
    ours, peer, absent = comparison.evaluate(contenders, timings)
    operations = problems.flops(PROBLEM)
    assert operations is not None
    assert (ours.speedup, peer.speedup, absent.speedup) == (None, 2.5, None)
    assert ours.gflops == pytest.approx(operations / 0.002 / 1e9)
    assert (absent.timing, absent.gflops, absent.share_of_peak) == (None, None, None)
