"""``python -m seo_kernels.gpu``: what runs, what is left out, what is kept; the parts' commands."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.diagnostics.gradient_cases import ops
from seo_kernels.gpu import __main__ as command
from seo_kernels.gpu import every_kernel, parts
from seo_kernels.gpu.parts import Part


def part(name: str, code: str, missing: str = "", seconds: int = 60) -> Part:
    """It runs a line of Python, and leaves a mark for each run."""
    mark = f"open({name!r}, 'a').write('x'); "
    return Part(name, "a line", lambda _: [sys.executable, "-c", mark + code], lambda: missing, seconds)


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with a GPU, as far as the command can tell, and a library for it."""
    library = tmp_path / "libseo_kernels_cuda.so"
    library.write_bytes(b"one")
    monkeypatch.setattr(_library, "_CUDA_LIBRARY", library)
    monkeypatch.setattr(command, "_unserved", lambda: "")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    return tmp_path


def run(folder: Path, *arguments: str) -> tuple[int, dict]:
    status = command.main(["--output", str(folder / "out"), *arguments])
    return status, json.loads((folder / "out" / "results.json").read_text())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--output", str(tmp_path / "out")]) == 2
    assert "there is no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_parts_are_run_once_until_they_pass(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = gpu / "script.py"
    script.write_text("raise SystemExit('not yet')")
    chosen = (
        part("good", "print('fine')"),
        part("bad", f"exec(open({str(script)!r}).read())"),
        part("absent", "", missing="no such tool"),
    )
    monkeypatch.setattr(command, "parts", lambda: chosen)
    status, results = run(gpu)
    assert status == 1
    assert {name: entry["status"] for name, entry in results["parts"].items()} == {
        "good": "passed",
        "bad": "failed",
        "absent": "left out",
    }
    assert results["parts"]["bad"]["last_lines"] == ["not yet"]
    assert results["info"]["version"] == sk.__version__
    assert (gpu / "out" / "good.log").read_text() == "fine\n"

    script.write_text("print('now')")
    status, results = run(gpu)
    assert (status, results["parts"]["bad"]["status"]) == (0, "passed")
    assert ((gpu / "good").read_text(), (gpu / "bad").read_text()) == ("x", "xx")

    run(gpu, "--part", "good")
    assert ((gpu / "good").read_text(), (gpu / "bad").read_text()) == ("xx", "xx")

    (gpu / "libseo_kernels_cuda.so").write_bytes(b"two")
    run(gpu)
    assert ((gpu / "good").read_text(), (gpu / "bad").read_text()) == ("xxx", "xxx")


def test_a_part_that_hangs_is_ended(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "parts", lambda: (part("slow", "import time; time.sleep(60)", seconds=1),))
    status, results = run(gpu)
    assert status == 1
    assert results["parts"]["slow"]["exit"] == "ended after 1 s"


def test_commands_of_the_parts(tmp_path: Path) -> None:
    commands = {part.name: part.command(tmp_path) for part in parts.parts()}
    tiers = ["tests-sm80", "bench-sm80", "tests-sm90a", "bench-sm90a"]
    assert list(commands) == ["check", "tests", *tiers, "bench", "memcheck", "racecheck"]
    assert commands["bench-sm80"].count("--case") == len(parts.cases_of_tiers())
    assert "gpu-lora-bf16-fwd-bwd" in parts.cases_of_tiers()
    assert "gpu-dense-fp32-fwd" not in parts.cases_of_tiers()
    assert commands["check"][1:5] == ["-m", "seo_kernels", "check", "--device"]
    assert (parts.ROOT / "tests").is_dir()
    assert not parts._lacks_tests()
    assert parts._lacks("json", "nothing_like_it") == "nothing_like_it not installed"
    assert sum(part.seconds for part in parts.parts()) <= 12 * 60


def test_tiers_of_the_parts(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part's process has the tier that it is for; what the GPU cannot run is left out."""
    monkeypatch.delenv(parts.TIER, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    missing = {part.name: part.missing() for part in parts.parts() if part.tier}
    assert missing["tests-sm90a"] == "the GPU has compute capability 8.9, sm90a needs 9.0"
    assert not missing["tests-sm80"]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (10, 0))
    later = {part.name: part.missing() for part in parts.parts() if part.tier}
    assert later["tests-sm90a"] == "the GPU has compute capability 10.0, sm90a needs 9.0"
    assert not later["tests-sm80"]
    tell = f"import os; print(os.environ.get({parts.TIER!r}))"
    chosen = (part("one", tell), replace(part("two", tell), tier="sm80"))
    monkeypatch.setattr(command, "parts", lambda: chosen)
    _, results = run(gpu)
    assert [results["parts"][name]["last_lines"] for name in ("one", "two")] == [["None"], ["sm80"]]


@pytest.mark.parametrize("name", ops())
def test_every_kernel_is_called(name: str) -> None:
    every_kernel.run_feature(ops()[name], ops()[name].features[0], torch.float32, "cpu")
