"""``demo --lora``: a LoRA fine-tune beside the same run under PEFT, and what came of both."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from seo_kernels.cli.console import progress_bar, report_console
from seo_kernels.cli.errors import expect_folder, told_in_a_line

if TYPE_CHECKING:
    from seo_kernels.demo.lora import Comparison, LoRASettings

SAME_CURVE = 0.02  # bits per byte that rounding may move a held-out loss by, over a whole run
ADAPTER, METRICS = "lora_adapter", "lora_metrics.json"


def demo_lora(paths: list[Path], output: Path, given: dict[str, Any]) -> None:
    """Pre-train a small GPT-2 on half of the text, tune it on the other with both libraries, report.

    Args:
        given: the settings that differ from the defaults of ``LoRASettings``.

    Raises:
        typer.Exit: status 1 unless the held-out losses fell and are the same; 2 for bad usage.
    """
    from seo_kernels.demo.corpus import load_corpus
    from seo_kernels.demo.lora import LoRASettings, make_model, prepare, require_peft

    begun = time.perf_counter()
    expect_folder("--output", output)
    with told_in_a_line():
        require_peft()
        settings = LoRASettings(**given)
        corpus = load_corpus(paths, least_bytes=40 * settings.length)
    output.mkdir(parents=True, exist_ok=True)
    first, second, held_out = prepare(corpus)
    model = make_model(settings)
    console = report_console()
    console.print(
        f"text: {corpus.source}; {len(first):,} bytes to pre-train on, {len(second):,} to tune on, "
        f"{len(held_out):,} held out"
    )
    comparison = _train(model, first, second, held_out, settings, output)
    total_seconds = time.perf_counter() - begun
    metrics = {
        "source": corpus.source,
        "settings": vars(settings),
        "trained_parameters": comparison.trained,
        "parameters": comparison.parameters,
        "held_out_bits_per_byte": comparison.ours.held_out,
        "held_out_bits_per_byte_peft": comparison.peft.held_out,
        "largest_difference": comparison.largest_difference,
        "seconds": comparison.ours.seconds,
        "seconds_peft": comparison.peft.seconds,
        "ratio": comparison.peft.seconds / comparison.ours.seconds,
        "total_seconds": total_seconds,
    }
    (output / METRICS).write_text(json.dumps(metrics, indent=1) + "\n")
    _print_report(console, comparison, settings, output, total_seconds)
    if not comparison.fell or not comparison.largest_difference <= SAME_CURVE:
        raise typer.Exit(1)


def _train(
    model: Any, first: Any, second: Any, held_out: Any, settings: "LoRASettings", output: Path
) -> "Comparison":
    """Pre-train and tune behind a progress bar; writes our adapter."""
    import seo_kernels as sk
    from seo_kernels.demo.lora import pretrain, tune

    with progress_bar() as progress:
        task = progress.add_task("pre-training", total=2 * settings.steps)
        pretrain(model, first, settings, lambda: progress.update(task, advance=1))
        progress.update(task, description="tuning, seo_kernels and PEFT in turn")
        comparison, tuned = tune(model, second, held_out, settings, lambda: progress.update(task, advance=1))
    sk.lora.save(tuned, output / ADAPTER)
    return comparison


def _print_report(
    console: Console, comparison: "Comparison", settings: "LoRASettings", output: Path, seconds: float
) -> None:
    console.print(
        f"LoRA of rank {settings.rank} on all linear layers: {comparison.trained:,} of "
        f"{comparison.parameters:,} parameters are trained"
    )
    ours, peft = comparison.ours, comparison.peft
    curve = Table(title="held-out text, bits per byte", title_justify="left")
    for column in ("updates", "[bold]seo_kernels[/]", "PEFT", "difference"):
        curve.add_column(column, justify="right")
    for step, value in ours.held_out.items():
        theirs = peft.held_out[step]
        curve.add_row(str(step), f"{value:.4f}", f"{theirs:.4f}", f"{value - theirs:+.4f}")
    speed = Table(title="tuning, all updates", title_justify="left")
    for column in ("library", "seconds", "ratio"):
        speed.add_column(column)
    speed.add_row("PEFT", f"{peft.seconds:.1f}", "1")
    speed.add_row(
        "[bold]seo_kernels[/]", f"{ours.seconds:.1f}", f"[bold]{peft.seconds / ours.seconds:.2f}[/]"
    )
    console.print(curve, speed)
    console.print(f"{seconds:.0f} s; {ADAPTER}/ (PEFT reads it too), {METRICS}: {output}")
    if not comparison.fell:
        console.print("failed: the held-out loss has to end below its start", style="bold red")
    if not comparison.largest_difference <= SAME_CURVE:
        console.print(
            f"failed: the curves differ by {comparison.largest_difference:.4f} bits per byte, expected at "
            f"most {SAME_CURVE}",
            style="bold red",
        )
