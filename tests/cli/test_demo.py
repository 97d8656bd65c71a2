"""The demo from its command line, with a model small enough for a few seconds."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from seo_kernels.cli.app import main
from seo_kernels.demo import throughput

pytest.importorskip("matplotlib")

TINY = ["--batch", "2", "--length", "32", "--width", "16", "--layers", "1", "--heads", "2", "--window", "8"]
TINY += ["--precision", "float32"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Every letter has two successors: one bit per byte, which neither zlib nor unigrams reach."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    successors = {letter: random.Random(letter).sample(letters, 2) for letter in letters}
    draw = random.Random(0)
    letter, written = "a", []
    for position in range(40_000):
        letter = draw.choice(successors[letter])
        written.append(letter if position % 50 else letter + "\n\n")
    path = tmp_path / "chain.txt"
    path.write_text("".join(written))
    return path


def test_from_text_to_report(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    command = ["demo", str(text), "--output", str(output), "--steps", "250", *TINY]
    assert main(command) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["beats_unigram_and_zlib"]
    assert (
        metrics["held_out_bits_per_byte"] < metrics["zlib_bits_per_byte"] < metrics["unigram_bits_per_byte"]
    )
    assert metrics["tokens_per_second"] > 0 < metrics["tokens_per_second_sdpa"]
    assert len(metrics["history"]) == 250
    assert len(metrics["sample"]) == 500
    for name in ("loss.png", "attention.png", "checkpoint.pt"):
        assert (output / name).stat().st_size > 1000
    report = capsys.readouterr().out
    for words in ("zlib", "unigram", "PyTorch SDPA", "tokens per second", metrics["sample"][:20]):
        assert words in report

    assert main(command) == 0  # nothing left to train: the report once more
    assert "resuming at step 250" in capsys.readouterr().out


def test_a_peer_that_computes_something_else_is_not_timed(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(throughput, "masked_sdpa", lambda query, key, value, relative, window: value)
    assert main(["demo", str(text), "--output", str(tmp_path / "out"), "--steps", "5", *TINY]) == 1
    assert "gradients of both engines differ" in capsys.readouterr().err


def test_a_model_that_learned_too_little_fails(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["demo", str(text), "--output", str(output), "--steps", "1", *TINY]) == 1
    assert not json.loads((output / "metrics.json").read_text())["beats_unigram_and_zlib"]
    assert "failed: held-out bits per byte" in capsys.readouterr().out


def test_other_settings_need_restart(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "out")]
    main(["demo", str(text), *output, "--steps", "1", *TINY])
    capsys.readouterr()
    assert main(["demo", str(text), *output, "--steps", "2", *TINY]) == 2
    error = capsys.readouterr().err
    assert "steps=1, expected 2" in error
    assert "--restart" in error
    assert main(["demo", str(text), *output, "--steps", "2", "--restart", *TINY]) == 1


def test_without_matplotlib_the_extra_is_named_before_training(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["demo", str(text), "--output", str(tmp_path / "out"), *TINY]) == 1
    error = capsys.readouterr().err
    assert "seo_kernels[plots]" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# the command with a Ctrl-C in its 130th step: the first checkpoint is written after 100
INTERRUPTED = """
import os, signal, sys
from seo_kernels.cli.app import main
from seo_kernels.demo.train import Trainer

def interrupted(trainer):
    if trainer.step == 129:
        os.kill(os.getpid(), signal.SIGINT)
    return step(trainer)

step, Trainer.train_step = Trainer.train_step, interrupted
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.timeout(900)  # three processes, on a machine that has other things to do
def test_ctrl_c_keeps_the_checkpoint_and_a_rerun_goes_on(text: Path, tmp_path: Path) -> None:
    def run(output: Path, *program: str) -> subprocess.CompletedProcess[str]:
        command = ["demo", str(text), "--output", str(output), "--steps", "250", *TINY]
        return subprocess.run([sys.executable, *program, *command], capture_output=True, text=True)

    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"
    first = run(interrupted, "-c", INTERRUPTED)
    assert first.returncode == 130, first.stderr
    assert "Traceback" not in first.stderr
    assert "interrupted at step 130" in first.stdout
    assert len(torch.load(interrupted / "checkpoint.pt")["history"]) == 130
    again = run(interrupted, "-m", "seo_kernels")
    assert "resuming at step 130" in again.stdout
    assert again.returncode == 0, again.stderr
    assert run(whole, "-m", "seo_kernels").returncode == 0
    states = [torch.load(folder / "checkpoint.pt") for folder in (interrupted, whole)]
    assert states[0]["history"] == states[1]["history"]
    assert all(torch.equal(states[0]["model"][name], value) for name, value in states[1]["model"].items())
