"""The demo of the documented language model: from its command line, its report and its errors."""

import json
import random
from pathlib import Path

import pytest
import torch

from seo_kernels.cli.app import main
from seo_kernels.demo.lm import LMSettings, draw_batch, make_pipeline
from seo_kernels.models import AdvancedTransformerModel

pytest.importorskip("matplotlib")
pytest.importorskip("safetensors")
TINY = ["--batch", "4", "--length", "32", "--width", "32", "--layers", "1", "--heads", "2", "--window", "8"]
TINY += ["--precision", "float32"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    draw = random.Random(0)
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"the number {draw.randrange(10**6)} is a number" for _ in range(400)))
    return path


def test_from_text_to_report(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main(["demo", str(text), "--task", "lm", "--output", str(output), "--steps", "200", *TINY]) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["held_out_bits_per_byte"] < metrics["unigram_bits_per_byte"]
    assert metrics["zlib_bits_per_byte"] > 0
    assert metrics["beats_unigram"]
    assert len(metrics["history"]) == 200
    assert metrics["history"][0] == pytest.approx(8.0, abs=0.3)
    assert metrics["text"].startswith(metrics["prompt"])
    assert len(metrics["text"]) > 400
    assert (output / "loss.png").stat().st_size > 1000
    report = capsys.readouterr().out
    for words in ("zlib", "unigram", f"{metrics['held_out_bits_per_byte']:.3f}", metrics["text"][100:120]):
        assert words in report
    model = AdvancedTransformerModel.from_pretrained(output / "model")
    assert sum(p.numel() for p in model.parameters()) == metrics["parameters"]


def test_a_model_that_learned_too_little_fails(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["demo", str(text), "--task", "lm", "--output", str(output), "--steps", "1", *TINY]) == 1
    assert not json.loads((output / "metrics.json").read_text())["beats_unigram"]
    assert "failed: held-out bits per byte" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "came", "expected"),
    [
        (["--task", "translate"], "--task is 'translate'", "expected one of bytes, classify, lm"),
        (["--task", "lm", "--restart"], "--restart is given with --task", "no meaning"),
        (["--task", "lm", "--lora"], "--lora is given with --task", "no meaning"),
        (["--task", "lm", "--heads", "3"], "d_model is 256 for n_heads=3", "a multiple of it"),
        (["--task", "lm", "--steps", "0"], "steps is 0", "a positive number"),
        (["--task", "lm", "--length", "1"], "length is 1", "at least 2"),
        (["--task", "lm", "--precision", "int8"], "'int8'", "expected one of auto, float32, bfloat16"),
    ],
)
def test_bad_usage(
    arguments: list[str], came: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--output", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert came in error
    assert expected in error


def test_the_same_seed_gives_the_same_run() -> None:
    settings = LMSettings(steps=3, batch=2, length=16, width=16, layers=1, heads=2, precision="float32")
    tokens = torch.arange(256).repeat(3)

    def losses() -> list[float]:
        pipeline, places = make_pipeline(settings), torch.Generator().manual_seed(settings.seed)
        return [pipeline.train_step(draw_batch(tokens, settings, places))["loss"] for _ in range(3)]

    assert losses() == losses()
