"""Bad usage: one line on standard error that says what came and what was expected, and exit status 2."""

import subprocess
import sys

import pytest

from seo_kernels.cli.app import main

CASES = [
    (["nonsense"], "nonsense", "expected one of info, check"),
    (["--nonsense"], "--nonsense", "expected one of info, check"),
    (["info", "--nonsense"], "--nonsense", "expected one of --json"),
    (["info", "more"], "more", "expected python -m seo_kernels info [OPTIONS]"),
    (["check", "--op", "attenton"], "attenton", "expected one of attention"),
    (["check", "--dtype", "int8"], "int8", "expected one of float64, float32, bfloat16, float16"),
    (["check", "--device", "tpu"], "tpu", "expected one of cpu"),
    (
        ["check", "--json", "no/such/folder/report.json"],
        "no/such/folder",
        "expected a file in an existing folder",
    ),
    (["check", "--json"], "--json", "requires an argument"),
    (["demo", "--steps", "many"], "--steps", "integer"),
    (["demo", "--steps", "0"], "steps is 0", "expected a positive number"),
    (["demo", "--heads", "3"], "heads is 3", "expected a divisor of width=256"),
    (["demo", "--precision", "int8"], "int8", "expected one of auto, float32, bfloat16"),
    (["demo", "no_such_text"], "no_such_text", "expected a folder or a file that ends in .txt"),
    (["demo", __file__], "'.py'", "expected a folder or a file that ends in .txt"),
    (["demo", "--output", __file__], "which is a file", "expected a folder"),
]


@pytest.mark.parametrize(("arguments", "came", "expected"), CASES, ids=lambda value: str(value)[:40])
def test_one_line_and_status_2(
    arguments: list[str], came: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert len(captured.err.splitlines()) == 1
    assert came in captured.err
    assert expected in captured.err


def test_the_module_runs_as_a_command() -> None:
    command = [sys.executable, "-m", "seo_kernels", "check", "--nonsense"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 2
    assert len(process.stderr.splitlines()) == 1
    assert "Traceback" not in process.stderr


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    output = capsys.readouterr().out
    assert all(command in output for command in ("info", "check", "demo"))
