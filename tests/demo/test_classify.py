"""The demo of the documented classifiers: its samples, its report, its errors."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import torch

from seo_kernels.cli.app import main
from seo_kernels.demo.classify import UNKNOWN, encode, make_vocabulary
from seo_kernels.demo.labelled import TOPIC_GROUPS, Sample, load_labelled, readability
from seo_kernels.models import CustomMultiTaskSEOModel, CustomSEOModel

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")
pytest.importorskip("safetensors")
TINY = ["--batch", "16", "--length", "12", "--width", "16", "--layers", "1", "--heads", "2"]


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Pages of fruit and of tools, in between words of both."""
    draw = random.Random(0)
    words = {"fruit": "apple pear plum fig", "tools": "hammer saw file plane"}
    for name, own in words.items():
        (tmp_path / name).mkdir()
        for page in range(30):
            text = draw.choices(own.split(), k=4) + draw.choices(["the", "and", "of", "in", "with"], k=6)
            draw.shuffle(text)
            (tmp_path / name / f"{page}.txt").write_text(" ".join(text) + ".")
    return [tmp_path / name for name in words]


def demo(*arguments: object) -> int:
    return main(["demo", "--task", "classify", *map(str, arguments)])


def test_from_pages_to_report(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert demo(*folders, "--output", output, "--steps", 60, *TINY) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["classes"] == ["fruit", "tools"]
    assert metrics["majority"] == 0.5
    assert metrics["accuracy"] >= 0.9
    assert metrics["multi_task_accuracy"] >= 0.9
    assert metrics["tfidf_accuracy"] >= 0.9
    right = [a == b for a, b in zip(metrics["predicted"], metrics["held_out_labels"], strict=True)]
    assert sum(right) / len(right) == pytest.approx(metrics["accuracy"])
    assert metrics["beats_majority_by_20_points"]
    assert len(metrics["history"]) == 60
    assert (output / "confusion.png").stat().st_size > 1000
    report = " ".join(capsys.readouterr().out.split())
    for words in (
        "most frequent",
        "TF-IDF",
        "CustomSEOModel",
        "CustomMultiTaskSEOModel",
        "48 texts to learn",
    ):
        assert words in report
    model = CustomSEOModel.from_pretrained(output / "model")
    assert model.config.num_classes == 2
    tasks = CustomMultiTaskSEOModel.from_pretrained(output / "multi_task_model")
    assert list(tasks(torch.ones(1, 3, dtype=torch.int64))) == ["class", "hard"]


def test_models_that_learned_too_little_fail(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo(*folders, "--output", tmp_path / "out", "--steps", 1, *TINY) == 1
    report = capsys.readouterr().out
    assert "failed: both models have to beat the most frequent class by 20 points" in report
    assert "lost to TF-IDF and logistic regression by" in report


def test_paragraphs_of_the_reference() -> None:
    data = load_labelled([], seed=0)
    assert data.classes == list(TOPIC_GROUPS)
    assert len(data.train) > 900
    texts = [{" ".join(sample.text.split()) for sample in part} for part in (data.train, data.held_out)]
    assert not texts[0] & texts[1]
    assert {sample.label for sample in data.held_out} == set(range(len(TOPIC_GROUPS)))
    assert 0.15 < data.majority < 0.4
    assert load_labelled([], seed=0) == data
    assert load_labelled([], seed=1).held_out != data.held_out
    names = [name for names in TOPIC_GROUPS.values() for name in names.split()]
    assert len(names) == len(set(names))


def test_a_text_of_two_classes_is_of_none(folders: list[Path]) -> None:
    (folders[0] / "both.txt").write_text("an apple\nand a saw")
    (folders[1] / "both.md").write_text("an apple and a saw")
    (folders[1] / "again.md").write_text((folders[1] / "0.txt").read_text())
    data = load_labelled(folders, seed=0)
    assert len(data.train) + len(data.held_out) == 60
    assert len(data.held_out) == 12


def test_words_as_tokens() -> None:
    samples = [Sample("One fish, two fish", 0), Sample("Red FISH; blue fish two", 1)]
    vocabulary = make_vocabulary(samples)
    assert vocabulary == {"fish": 2, "two": 3}
    encoded = encode(samples, vocabulary, length=4, hard=readability(samples[0].text))
    assert encoded.ids.tolist() == [[UNKNOWN, 2, 3, 2], [UNKNOWN, 2, UNKNOWN, 2]]
    assert encoded.labels.tolist() == [0, 1]
    assert not encoded.hard[0]
    short = encode([Sample("fish", 0), Sample("...", 0)], vocabulary, length=2, hard=0.0)
    assert short.ids.tolist() == [[2, 0], [0, 0]]


def test_readability() -> None:
    text = "Two words. Three more words."
    assert readability(text) == pytest.approx(4.71 * 22 / 5 + 0.5 * 5 / 2 - 21.43)
    assert readability("Considerable internationalisation notwithstanding.") > readability("A cat is a cat.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "translate"], "--task is 'translate', expected one of bytes, classify"),
        (["--lora"], "--lora is given with --task classify, expected it without"),
        (["--restart"], "--restart is given with --task classify"),
        (["--window", "4"], "--window is given with --task classify"),
        (["--precision", "float32"], "--precision is given with --task classify"),
        (["--heads", "3"], "hidden_size is 16 for num_heads=3"),
        (["--steps", "0"], "steps is 0, expected an int >= 1"),
        (["pages"], "the one folder given is "),
        (["pages", "nowhere"], "there is no "),
        (["pages", "few"], "'few' has 1 texts of its own, expected 5 or more a class"),
        (["pages", "page.txt"], "is a file, expected a folder of pages for each class"),
        (["pages", "other/pages"], "two folders are called 'pages'"),
        (["pages", "empty"], "holds no text"),
    ],
)
def test_bad_usage(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("pages/1.txt", "few/1.txt", "page.txt", "other/pages/1.txt", "empty/table.csv"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("some words of " + path)
    for page in range(5):
        Path(f"pages/{page}.txt").write_text(f"page {page}")
    assert demo("--output", "out", *TINY, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not Path("out").exists()


def test_without_sklearn_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert demo("--output", tmp_path / "out") == 1
    assert "pip install 'seo_kernels[classify]'" in capsys.readouterr().err
