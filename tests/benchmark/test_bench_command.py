"""``bench``: the table, the files, the refusal of wrong kernels, and bad usage."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import seo_kernels as sk
from seo_kernels.benchmark import cases, comparison, measuring
from seo_kernels.benchmark.case import Case
from seo_kernels.cli.app import main

pytestmark = pytest.mark.skipif(not sk.info()["native"], reason="bench times compiled kernels")

CASE_COLUMNS = {
    *("case", "title", "share_floor", "copy_floor", "refused", "skipped"),
    *("memory_floor", "memory_beside", "memory_ratio", "memory_peak_bytes", "memory_tensors_bytes"),
    *("memory_peer_peak_bytes", "memory_peer_tensors_bytes"),
}
CONTENDER_COLUMNS = {
    *("contender", "sizes", "dtype", "pattern", "tables", "backward", "rounds", "error", "gflops"),
    *("min_ms", "q10_ms", "q25_ms", "median_ms", "q75_ms", "q90_ms"),
    *(
        "share_of_peak",
        "copy_bandwidth_gbytes",
        "share_of_copy",
        "ratio",
        "ratio_floor",
        "floor",
        "measured",
        "floor_reached",
        "missing",
    ),
}
ENVIRONMENT_COLUMNS = {
    *("device", "cpu_model", "cpu_capability", "threads", "seo_kernels", "torch", "python", "numpy", "date"),
    *("fma_peak_float32_gflops", "fma_peak_bfloat16_gflops"),
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, small_cases: list[Case]) -> None:
    """Small cases and the fewest rounds."""
    monkeypatch.setattr(cases, "cases", lambda: small_cases)
    monkeypatch.setattr(measuring, "MOST_ROUNDS", measuring.LEAST_ROUNDS)


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], list[dict[str, str]]]:
    paths = {"--csv": folder / "figures.csv", "--json": folder / "figures.json"}
    words = [str(word) for item in paths.items() for word in item]
    status = main(["bench", *words, *arguments])
    with paths["--csv"].open(newline="") as file:
        lines = list(csv.DictReader(file))
    return status, json.loads(paths["--json"].read_text()), lines


def test_table_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "ratios.png"
    chosen = ("--case", "dense-fp32-*", "--case", "decode-fp32-fwd")
    status, report, lines = run(tmp_path, *chosen, "--picture", str(picture))
    assert status == 0
    names = ["dense-fp32-fwd", "dense-fp32-fwd-bwd", "decode-fp32-fwd"]
    assert [case["case"] for case in report["cases"]] == names
    assert set(report["environment"]) >= ENVIRONMENT_COLUMNS
    assert report["environment"]["threads"] == torch.get_num_threads()
    for case in report["cases"]:
        assert set(case) >= CASE_COLUMNS
        assert [contender["contender"] for contender in case["contenders"]] == ["seo_kernels", "SDPA"]
        ours, peer = case["contenders"]
        assert set(ours) == set(peer) == CONTENDER_COLUMNS
        assert peer["ratio"] == pytest.approx(peer["median_ms"] / ours["median_ms"])
        assert peer["floor_reached"] == (peer["ratio"] >= peer["ratio_floor"])
        assert ours["min_ms"] <= ours["q10_ms"] <= ours["median_ms"] <= ours["q90_ms"]
        assert ours["rounds"] == measuring.LEAST_ROUNDS
        assert 0 < ours["error"] < 1e-4
    assert [(line["case"], line["contender"]) for line in lines] == [
        (name, contender) for name in names for contender in ("seo_kernels", "SDPA")
    ]
    assert set(lines[0]) >= CASE_COLUMNS | CONTENDER_COLUMNS | ENVIRONMENT_COLUMNS
    assert picture.stat().st_size > 0
    output = capsys.readouterr().out
    assert all(name in output for name in names)
    assert "at least 2.2 x" in output
    assert "at least 70 %" in output


def test_memory_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report, lines = run(tmp_path, "--case", "local-long-*")
    assert status == 0
    (case,) = report["cases"]
    assert case["memory_ratio"] == pytest.approx(case["memory_peak_bytes"] / case["memory_tensors_bytes"])
    assert case["memory_beside"] == "the tensors themselves"
    assert case["memory_peer_peak_bytes"] is None
    assert [contender["contender"] for contender in case["contenders"]] == ["seo_kernels", "ours, T 320"]
    assert "at most 2 x" in capsys.readouterr().out
    assert len(lines) == 2


def test_memory_beside_a_peer_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report, _ = run(tmp_path, "--case", "linear-cross-*")
    assert status == 0
    (case,) = report["cases"]
    extra, theirs = (
        case[f"memory_{side}peak_bytes"] - case[f"memory_{side}tensors_bytes"] for side in ("", "peer_")
    )
    assert case["memory_ratio"] == pytest.approx(extra / theirs)
    assert case["memory_beside"] == "F.linear + F.cross_entropy"
    output = capsys.readouterr().out
    assert "extra memory" in output
    assert "at most 0.25 x" in output


def test_share_of_the_copy_bandwidth_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, report, _ = run(tmp_path, "--case", "bias-gelu-tanh-*", "--case", "linear-fp32-*")
    assert status == 0
    linear, gelu = (case["contenders"][0] for case in report["cases"])
    assert gelu["share_of_copy"] > 0
    assert gelu["share_of_peak"] is linear["share_of_copy"] is None
    assert gelu["activation"] == "gelu_tanh"
    output = capsys.readouterr().out
    assert " % copy" in output
    assert " % peak" in output


def test_a_case_without_its_library_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    status, report, lines = run(tmp_path, "--case", "gpt2-lora-fp32-step")
    assert status == 0
    (case,) = report["cases"]
    assert case["contenders"] == []
    assert case["skipped"].startswith("transformers is needed to")
    assert len(lines) == 1
    assert "gpt2-lora-fp32-step: skipped: transformers is needed to" in capsys.readouterr().out


def test_without_peft_the_model_is_timed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setitem(sys.modules, "peft", None)
    status, report, _ = run(tmp_path, "--case", "gpt2-lora-fp32-step")
    assert status == 0
    ours, peft = report["cases"][0]["contenders"]
    assert ours["median_ms"] > 0
    assert peft["missing"].startswith("peft is needed to run beside PEFT")


def test_a_wrong_kernel_gets_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = sk.attention
    monkeypatch.setattr(sk, "attention", lambda *operands, **options: honest(*operands, **options) * 1.01)
    chosen = ("--case", "dense-fp32-fwd", "--case", "decode-*")
    status, report, lines = run(tmp_path, *chosen, "--picture", str(tmp_path / "ratios.svg"))
    assert status == 1
    for case in report["cases"]:
        assert case["refused"].startswith("seo_kernels: out has a row that is off by")
        assert case["contenders"] == []
    assert len(lines) == 2
    assert all("median_ms" not in line for line in lines)
    output = capsys.readouterr().out
    assert "dense-fp32-fwd: refused, the result is wrong: seo_kernels: out" in output
    assert "at least" not in output  # no row of figures


def test_a_peer_that_does_not_run_here_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def compile(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(torch, "compile", compile)
    status, report, _ = run(tmp_path, "--case", "local-fp32-fwd")
    assert status == 0
    ours, flex, sdpa = report["cases"][0]["contenders"]
    assert flex["missing"] == "no compiler"
    assert flex["median_ms"] is None
    assert flex["ratio"] is None
    assert ours["median_ms"] > 0
    assert sdpa["ratio"] > 0
    assert "FlexAttention does not run here: no compiler" in capsys.readouterr().out


def test_ours_failing_is_no_missing_peer(small_cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    def attention(*operands: Any, **options: Any) -> Any:
        raise RuntimeError("out of order")

    monkeypatch.setattr(sk, "attention", attention)
    with pytest.raises(RuntimeError, match="out of order"):
        comparison.prepare(small_cases[0])


def test_listing(capsys: pytest.CaptureFixture[str], small_cases: list[Case]) -> None:
    assert main(["bench", "--list"]) == 0
    output = capsys.readouterr().out
    assert all(case.name in output for case in small_cases)


@pytest.mark.parametrize(
    ("arguments", "came", "expected"),
    [
        (["--case", "dense-fp64-fwd"], "'dense-fp64-fwd'", "expected one of dense-fp32-fwd, "),
        (["--case", "sparse-*"], "'sparse-*'", "expected one of dense-fp32-fwd, "),
        (["--csv", "no/such/folder/a.csv"], "--csv is 'no/such/folder/a.csv'", "an existing folder"),
        (["--json", "tests"], "--json is 'tests'", "expected a file"),
        (["--picture", "no/such/folder/a.png"], "--picture", "an existing folder"),
        (["--picture", "a.bmp"], "'a.bmp'", "expected one of .png, .svg, .pdf"),
        (["--nonsense"], "--nonsense", "expected one of --case, --device, --list, --csv, --json, --picture"),
    ],
)
def test_bad_usage(
    arguments: list[str], came: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert came in captured.err
    assert expected in captured.err


def test_without_the_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("seo_kernels._library._CPU_REASON", "no compiler was found")
    assert main(["bench"]) == 2
    assert "expected a built library: no compiler was found" in capsys.readouterr().err
