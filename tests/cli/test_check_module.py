"""``check package.module:factory``: status and report for right modules, wrong ones and wrong names."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from seo_kernels.cli.app import main

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

def right():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh()), torch.randn(5, 4)

def wrong():
    torch.manual_seed(0)
    return Wrong(4, 3), torch.randn(5, 4), torch.randint(3, (5,)), nn.CrossEntropyLoss()

def once():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, input):
            return input.clone()
        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, gradient):
            return gradient
    class Model(nn.Linear):
        def forward(self, input):
            return Once.apply(super().forward(input)).sin()
    return Model(4, 3), torch.randn(5, 4)

def nothing():
    return nn.ReLU(), torch.randn(5, 4)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder, of a name that no other test imports."""
    name = f"mine_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in sys.path if path])
    return name


def run(*arguments: str) -> tuple[int, dict[str, Any]]:
    status = main(["check", "--json", "report.json", *arguments])
    return status, json.loads(Path("report.json").read_text())


def test_a_right_module(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(f"{module}:right")
    assert status == 0
    assert report["passed"] is True
    assert report["module"] == f"{module}:right"
    assert report["info"]["version"]
    assert {result["what"] for result in report["results"]} == {
        "gradient",
        "repeated backward",
        "finite differences",
        "float64 copy",
        "second derivative",
    }
    output = capsys.readouterr().out
    assert "none failed" in output
    assert "2/2" in output


def test_a_wrong_module(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(f"{module}:wrong")
    assert status == 1
    assert report["passed"] is False
    wrong = {(r["what"], r["about"]) for r in report["results"] if r["passed"] is False}
    assert ("finite differences", "weight") in wrong
    (error,) = (
        r["error"] for r in report["results"] if (r["what"], r["about"]) == ("finite differences", "bias")
    )
    assert error == pytest.approx(0.01, rel=0.01)
    output = capsys.readouterr().out
    assert "failed" in output
    assert "float64 gradient disagrees" in output
    assert main(["check", f"{module}:wrong"]) == 1  # without --json too


def test_what_can_not_be_told(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, report = run(f"{module}:once")
    assert status == 0
    assert [result["what"] for result in report["results"] if result["passed"] is None] == [
        "second derivative"
    ]
    output = capsys.readouterr().out
    assert "can't tell" in output
    assert "second derivative: it is not differentiable twice" in output


def test_samples(module: str) -> None:
    counts = []
    for samples in ("0", "5"):
        _, report = run(f"{module}:right", "--samples", samples)
        details = [r["detail"] for r in report["results"] if r["about"] == "0.weight" and r["detail"]]
        counts.append(details[0].split("(")[-1])
    assert counts == ["2 derivatives of 12 entries)", "7 derivatives of 12 entries)"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODULE:nowhere"], "has no 'nowhere', expected one of Long, Wrong, right"),
        (["no_such_module:right"], "no module 'no_such_module'"),
        (["MODULE"], "expected 'package.module:factory'"),
        (["MODULE:nothing"], "a ReLU without trainable parameters"),
        (["MODULE:right", "--samples", "-1"], "samples is -1, expected an int >= 0"),
        (["MODULE:right", "--op", "attention"], "--op is 'attention', expected it without a factory"),
        (["MODULE:right", "--dtype", "float64"], "--dtype is 'float64', expected it without a factory"),
        (["MODULE:right", "--device", "cpu"], "--device is 'cpu', expected it without a factory"),
        (["MODULE:right", "--all-capabilities"], "--all-capabilities is given, expected it without"),
        (["--samples", "3"], "--samples is 3, expected it with a factory"),
        (["MODULE:right", "--json", "no/such/report.json"], "expected a file in an existing folder"),
    ],
)
def test_bad_usage(
    module: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *(word.replace("MODULE", module) for word in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert message in captured.err
