"""``diagnose``: status, summary and report; the planted faults; bad usage."""

import json
import sys
from pathlib import Path

import pytest

from seo_kernels.cli.app import main
from seo_kernels.diagnostics import planted_faults
from seo_kernels.diagnostics.planted_faults import FaultResult

MODULE = """
import torch
from torch import nn

class Long(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input):
        return input.clone()
    @staticmethod
    def backward(ctx, gradient):
        return 1.01 * gradient

class Wrong(nn.Linear):
    def forward(self, input):
        return Long.apply(super().forward(input))

class Infinite(nn.Linear):
    def forward(self, input):
        return super().forward(input) / 0.0

def made(model):
    torch.manual_seed(0)
    return model(3, 2), torch.randn(8, 3), torch.randn(8, 2), nn.MSELoss()

def right():
    return made(nn.Linear)

def wrong():
    return made(Wrong)

def infinite():
    return made(Infinite)

def exploding():
    model, input, target, loss = made(nn.Linear)
    return model, 100.0 * input, target, loss
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, of a name that no other test imports."""
    for package in ("matplotlib", "plotly", "scipy"):
        pytest.importorskip(package)
    name = f"diagnosed_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    return name


def test_a_right_module(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", f"{module}:right", "--steps", "3", "--learning-rate", "0.01"]) == 0
    output = capsys.readouterr().out
    for words in ("Linear, 2 trainable parameters with 8 entries", "3 of 3 steps of AdamW", "0 failed", "ok"):
        assert words in output
    assert "report: diagnosis/report.html" in output
    report = json.loads(Path("diagnosis/report.json").read_text())
    assert report["passed"] is True
    assert report["training"]["learning_rate"] == 0.01
    assert Path("diagnosis/report.html").read_text().startswith("<!DOCTYPE html>")


def test_a_wrong_backward(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", f"{module}:wrong", "--steps", "1", "--output", "other/folder"]) == 1
    output = capsys.readouterr().out
    assert "finite differences: weight: " in output
    assert "failed" in output
    report = json.loads(Path("other/folder/report.json").read_text())
    assert report["passed"] is False
    assert "Something is wrong" in Path("other/folder/report.html").read_text()


def test_a_gradient_that_is_not_finite(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", f"{module}:infinite", "--steps", "3"]) == 1
    output = capsys.readouterr().out
    assert "1 of 3 steps" in output
    assert "at step 0" in output


def test_an_explosion_is_told_but_no_failure(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", f"{module}:exploding", "--steps", "1"]) == 0
    output = capsys.readouterr().out
    assert "the gradient explodes with a norm of" in output
    assert "0 of them NaN or Inf" in output


@pytest.mark.parametrize(("passed", "status"), [(True, 0), (False, 1)])
def test_the_planted_faults(
    passed: bool, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [FaultResult("a [NaN]", "layer 2", "layer 2: NaN", True), FaultResult("b", "c", "d", passed)]
    monkeypatch.setattr(planted_faults, "run_selftest", lambda: results)
    assert main(["diagnose", "--selftest"]) == status
    output = capsys.readouterr().out
    for word in ("a [NaN]", "layer 2: NaN", "2 tests of the watchers"):
        assert word in output
    assert ("failed" in output) is not passed


def test_the_help_states_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diagnose", "--help"]) == 0
    words = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Exit status 1" in words
    assert "--selftest" in words
    assert "by default 20" in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "factory is missing, expected package.module:factory or --selftest"),
        (["MODULE:right", "--selftest"], "expected it without --selftest"),
        (["--selftest", "--steps", "3"], "--steps is '3', expected it without --selftest"),
        (["MODULE:nowhere"], "has no 'nowhere'"),
        (["no_such_module:right"], "no module 'no_such_module'"),
        (["MODULE:right", "--steps", "0"], "steps is 0, expected an int >= 1"),
        (["MODULE:right", "--learning-rate", "-1"], "learning_rate is -1.0, expected a"),
        (["MODULE:right", "--output", "MODULE.py"], "which is a file, expected a folder"),
        (["MODULE:right", "--output", "MODULE.py/folder"], "expected a folder that can be made"),
        (["MODULE:right", "--nonsense"], "expected one of --output"),
    ],
)
def test_bad_usage(
    module: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diagnose", *(word.replace("MODULE", module) for word in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    assert message in captured.err
