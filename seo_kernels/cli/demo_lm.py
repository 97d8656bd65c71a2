"""``demo --task lm``: the documented language model learns a text, and what came of it."""

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
    from seo_kernels.demo.corpus import Corpus
    from seo_kernels.demo.lm import LMSettings, Outcome
    from seo_kernels.training import AdvancedTrainingPipeline

MODEL, METRICS, PICTURE = "model", "metrics.json", "loss.png"


def demo_lm(paths: list[Path], output: Path, given: dict[str, Any]) -> None:
    """Train ``AdvancedTransformerModel`` on the text with the documented pipeline, report.

    Args:
        given: the settings that differ from the defaults of ``LMSettings``.

    Raises:
        typer.Exit: status 1 unless the model predicts held-out text better than the frequencies of its bytes
            do; 2 for bad usage.
    """
    from seo_kernels._extras import require
    from seo_kernels.demo.corpus import load_corpus
    from seo_kernels.demo.lm import LMSettings, make_pipeline
    from seo_kernels.demo.pictures import draw_loss, require_matplotlib
    from seo_kernels.models import AdvancedTransformerModel

    begun = time.perf_counter()
    expect_folder("--output", output)
    with told_in_a_line():
        require_matplotlib()
        require("safetensors", extra="models", purpose="save the trained model")
        settings = LMSettings(**given)
        corpus = load_corpus(paths, least_bytes=20 * (settings.length + 1))
        pipeline = make_pipeline(settings)
    output.mkdir(parents=True, exist_ok=True)
    console = report_console()
    parameters = sum(parameter.numel() for parameter in pipeline.model.parameters())
    console.print(
        f"text: {corpus.source}, {len(corpus.train):,} bytes to learn, {len(corpus.held_out):,} held out"
    )
    console.print(
        f"model: AdvancedTransformerModel, {parameters:,} parameters, {settings.precision}, "
        f"rotary positions, local attention of {settings.window}, length {settings.length}"
    )
    outcome = _train(pipeline, corpus, settings)
    draw_loss(output / PICTURE, outcome.history, outcome.held_out, outcome.unigram, outcome.zlib)
    assert isinstance(pipeline.model, AdvancedTransformerModel)
    pipeline.model.save_pretrained(output / MODEL)
    seconds = time.perf_counter() - begun
    metrics = {
        "source": corpus.source,
        "settings": asdict(settings),
        "parameters": parameters,
        "bytes_trained_on": len(corpus.train),
        "bytes_held_out": len(corpus.held_out),
        "held_out_bits_per_byte": outcome.held_out,
        "unigram_bits_per_byte": outcome.unigram,
        "zlib_bits_per_byte": outcome.zlib,
        "beats_unigram": outcome.learned,
        "training_seconds": outcome.seconds,
        "total_seconds": seconds,
        "history": outcome.history,
        "prompt": outcome.prompt,
        "text": outcome.text,
    }
    (output / METRICS).write_text(json.dumps(metrics, indent=1) + "\n")
    _print_report(console, outcome, output, seconds)
    if not outcome.learned:
        raise typer.Exit(1)


def _train(pipeline: "AdvancedTrainingPipeline", corpus: "Corpus", settings: "LMSettings") -> "Outcome":
    """Train behind a progress bar."""
    from seo_kernels.demo.lm import train

    with progress_bar() as progress:
        task = progress.add_task("training", total=settings.steps)

        def show(history: list[float]) -> None:
            recent = history[-20:]
            text = f"training, {sum(recent) / len(recent):.2f} bits per byte"
            progress.update(task, advance=1, description=text)

        return train(pipeline, corpus, settings, show)


def _print_report(console: Console, outcome: "Outcome", output: Path, seconds: float) -> None:
    console.rule("what it writes")
    console.print(outcome.prompt, style="dim", end="", markup=False, highlight=False)
    console.print(outcome.text.removeprefix(outcome.prompt), markup=False, highlight=False)
    console.rule()
    table = Table(title="held-out text", title_justify="left")
    for column in ("", "bits per byte"):
        table.add_column(column)
    table.add_row("unigram entropy", f"{outcome.unigram:.3f}")
    table.add_row("zlib -9", f"{outcome.zlib:.3f}")
    table.add_row("[bold]this model[/]", f"[bold]{outcome.held_out:.3f}[/]")
    console.print(table)
    console.print(f"{seconds:.0f} s; {PICTURE}, {METRICS}, {MODEL}/ (from_pretrained reads it): {output}")
    if not outcome.learned:
        console.print("failed: held-out bits per byte have to be below unigram entropy", style="bold red")
