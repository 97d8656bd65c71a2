"""The LoRA demo: both engines on the same batches, its report and its errors."""

import json
from pathlib import Path

import pytest
import torch

import seo_kernels as sk
from seo_kernels.cli.app import main
from seo_kernels.demo import lora

pytest.importorskip("peft")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

SETTINGS = lora.LoRASettings(
    width=16, layers=1, heads=2, steps=10, batch=2, length=16, pretraining_rate=5e-3, tuning_rate=1e-2
)
TEXT = lora.to_tokens(b"to be, or not to be: that is the question. " * 20)
TINY = ["--steps", "12", "--batch", "2", "--length", "16", "--width", "16", "--layers", "1", "--heads", "2"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "verse.txt"
    lines = [
        f"{number} times to be, or {number} times not to be: that is the question" for number in range(99)
    ]
    path.write_text("\n\n".join(lines))
    return path


def test_both_engines_take_the_same_way() -> None:
    model = lora.make_model(SETTINGS)
    steps = []
    lora.pretrain(model, TEXT, SETTINGS, lambda: steps.append(1))
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    comparison, tuned = lora.tune(model, TEXT, TEXT, SETTINGS, lambda: steps.append(1))
    assert len(steps) == 2 * SETTINGS.steps
    assert comparison.fell
    assert comparison.largest_difference < 1e-4
    assert list(comparison.ours.held_out) == [0, 1, 2, 4, 5, 6, 8, 9, 10]
    assert comparison.ours.seconds > 0 < comparison.peft.seconds
    assert 0 < comparison.trained < comparison.parameters
    state = tuned.state_dict()
    assert all(
        torch.equal(state[name], value) for name, value in weights.items()
    )  # frozen, and under its name
    assert all(
        module.adapters["default"].lora_b.any() for module in tuned.modules() if hasattr(module, "adapters")
    )


def test_it_notices_another_curve() -> None:
    runs = [lora.Run({0: 5.0, 4: 4.0}), lora.Run({0: 5.0, 4: 4.5})]
    assert lora.Comparison(*runs, trained=1, parameters=2).largest_difference == pytest.approx(0.5)
    assert lora.Comparison(*runs, trained=1, parameters=2).fell
    assert not lora.Comparison(runs[0], lora.Run({0: 4.0, 4: 4.0}), trained=1, parameters=2).fell


def test_held_out_bits_are_those_of_the_whole_text() -> None:
    model = lora.make_model(SETTINGS)
    piece = TEXT[: SETTINGS.length]
    expected = model(input_ids=piece[None], labels=piece[None]).loss.item() / torch.tensor(2.0).log().item()
    assert lora.held_out_bits(model, piece, SETTINGS.length) == pytest.approx(expected)
    assert model.training


def test_batches_repeat_and_cover_the_text() -> None:
    first, second = (lora.Batches(TEXT[:18], SETTINGS) for _ in range(2))
    assert all(torch.equal(first.draw(), second.draw()) for _ in range(3))
    starts = {tuple(row.tolist()) for _ in range(50) for row in first.draw()}
    assert len(starts) == 3


def test_halves_are_cut_between_paragraphs() -> None:
    paragraphs = [b"%d words stand here" % number for number in range(60)]
    first, second = lora.halves(b"\n\n".join(paragraphs))
    assert bytes(first.tolist()).endswith(b"\n\n")
    assert bytes(first.tolist() + second.tolist()) == b"\n\n".join(paragraphs)
    assert [len(half) for half in lora.halves(b"x" * 100)] == [50, 50]


def test_command(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main(["demo", str(text), "--lora", "--output", str(output), *TINY]) == 0
    report = capsys.readouterr().out
    for words in ("held-out text, bits per byte", "PEFT", "seo_kernels", "ratio", "are trained"):
        assert words in report
    metrics = json.loads((output / "lora_metrics.json").read_text())
    assert metrics["largest_difference"] < 1e-3
    assert metrics["settings"]["steps"] == 12
    curve = list(metrics["held_out_bits_per_byte"].values())
    assert curve[-1] < curve[0]
    assert f"{curve[-1]:.4f}" in report
    model = lora.make_model(lora.LoRASettings(**metrics["settings"]))
    assert len(sk.lora.load(model, output / "lora_adapter")) == 4


def test_a_run_that_goes_another_way_fails(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = sk.nn.LoRALinear.forward
    monkeypatch.setattr(sk.nn.LoRALinear, "forward", lambda self, input: real(self, input) * 1.5)
    assert main(["demo", str(text), "--lora", "--output", str(tmp_path / "out"), *TINY]) == 1
    assert "failed: the curves differ by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "4"], "--window is given with --lora"),
        (["--precision", "float32"], "--precision is given with --lora"),
        (["--restart"], "--restart is given with --lora"),
        (["--heads", "3"], "heads is 3, expected a divisor of width=16"),
        (["--steps", "0"], "steps is 0, expected a positive number"),
        (["--width", "8"], "width is 8, expected 16 or more, the rank of the adapters"),
        (["--length", "1000"], "expected 40000 or more"),
    ],
)
def test_bad_usage(
    options: list[str], message: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(text), "--lora", "--output", str(tmp_path / "out"), *TINY, *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["peft", "transformers"])
def test_without_peft_the_extra_is_named(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, missing, None)
    assert main(["demo", "--lora", "--output", str(tmp_path / "out")]) == 1
    assert f"{missing} is needed to tune a GPT-2 beside PEFT" in (error := capsys.readouterr().err)
    assert "pip install 'seo_kernels[peft]'" in error
