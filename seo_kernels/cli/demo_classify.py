"""``demo --task classify``: the documented classifiers learn labelled texts, and what came of it."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from seo_kernels.cli.console import progress_bar, report_console
from seo_kernels.cli.errors import expect_folder, told_in_a_line

if TYPE_CHECKING:
    from seo_kernels.demo.classify import ClassifySettings, Outcome
    from seo_kernels.demo.labelled import Labelled

MODEL, MULTI_TASK_MODEL, METRICS, PICTURE = "model", "multi_task_model", "metrics.json", "confusion.png"


def demo_classify(paths: list[Path], output: Path, given: dict[str, Any]) -> None:
    """Train ``CustomSEOModel`` and ``CustomMultiTaskSEOModel`` on labelled texts, report.

    Args:
        paths: folders of pages, a folder a class; none: paragraphs of the language reference.
        given: the settings that differ from the defaults of ``ClassifySettings``.

    Raises:
        typer.Exit: status 1 unless both models beat the most frequent class by 20 points; 2 for bad usage.
    """
    from seo_kernels._extras import require
    from seo_kernels.demo.classify import ClassifySettings, require_sklearn
    from seo_kernels.demo.labelled import load_labelled
    from seo_kernels.demo.pictures import draw_confusion, require_matplotlib

    begun = time.perf_counter()
    expect_folder("--output", output)
    with told_in_a_line():
        require_matplotlib()
        require_sklearn()
        require("safetensors", extra="classify", purpose="save the trained models")
        settings = ClassifySettings(**given)
        settings.config(num_classes=2, vocab_size=2)  # sizes that do not fit are told before anything is read
        data = load_labelled(paths, settings.seed)
    output.mkdir(parents=True, exist_ok=True)
    console = report_console()
    console.print(
        f"text: {data.source}; {len(data.classes)} classes, {len(data.train):,} texts to learn from, "
        f"{len(data.held_out):,} held out; {settings.length} words of each are read"
    )
    outcome = _train(data, settings, output)
    labels = [sample.label for sample in data.held_out]
    draw_confusion(output / PICTURE, data.classes, labels, outcome.predicted)
    seconds = time.perf_counter() - begun
    metrics = {
        "source": data.source,
        "settings": asdict(settings),
        "classes": data.classes,
        "texts_trained_on": len(data.train),
        "texts_held_out": len(data.held_out),
        "held_out_labels": labels,
        **asdict(outcome),
        "beats_majority_by_20_points": outcome.learned,
        "total_seconds": seconds,
    }
    (output / METRICS).write_text(json.dumps(metrics, indent=1) + "\n")
    _print_report(console, outcome, output, seconds)
    if not outcome.learned:
        raise typer.Exit(1)


def _train(data: "Labelled", settings: "ClassifySettings", output: Path) -> "Outcome":
    """Train behind a progress bar; writes both models."""
    from seo_kernels.demo.classify import run

    with progress_bar() as progress:
        task = progress.add_task("training", total=2 * settings.steps)
        model, several, outcome = run(data, settings, lambda: progress.update(task, advance=1))
    model.save_pretrained(output / MODEL)
    several.save_pretrained(output / MULTI_TASK_MODEL)
    return outcome


def _print_report(console: Console, outcome: "Outcome", output: Path, seconds: float) -> None:
    table = Table(title="held-out accuracy", title_justify="left")
    for column in ("", "class", "hard to read"):
        table.add_column(column)
    table.add_row("most frequent", f"{outcome.majority:.3f}", f"{outcome.hard_majority:.3f}")
    table.add_row("TF-IDF and logistic regression", f"{outcome.tfidf_accuracy:.3f}", "")
    table.add_row("[bold]CustomSEOModel[/]", f"[bold]{outcome.accuracy:.3f}[/]", "")
    table.add_row(
        "[bold]CustomMultiTaskSEOModel[/]",
        f"[bold]{outcome.multi_task_accuracy:.3f}[/]",
        f"[bold]{outcome.hard_accuracy:.3f}[/]",
    )
    console.print(table)
    ours = max(outcome.accuracy, outcome.multi_task_accuracy)
    if ours < outcome.tfidf_accuracy:
        console.print(
            f"lost to TF-IDF and logistic regression by {100 * (outcome.tfidf_accuracy - ours):.1f} points"
        )
    console.print(
        f"{seconds:.0f} s, {outcome.seconds:.0f} of them training; {PICTURE}, {METRICS}, {MODEL}/ and "
        f"{MULTI_TASK_MODEL}/ (from_pretrained reads them): {output}"
    )
    if not outcome.learned:
        console.print(
            "failed: both models have to beat the most frequent class by 20 points", style="bold red"
        )
