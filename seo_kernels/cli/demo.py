"""``demo``: train a byte-level transformer on real text with this library, and show what came of it."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from seo_kernels.cli.console import progress_bar, report_console
from seo_kernels.cli.demo_classify import demo_classify
from seo_kernels.cli.demo_lm import demo_lm
from seo_kernels.cli.demo_lora import demo_lora
from seo_kernels.cli.errors import expect_folder, expect_one_of, told_in_a_line, usage_error

if TYPE_CHECKING:
    from seo_kernels.demo.corpus import Corpus
    from seo_kernels.demo.train import Trainer

PROMPT_BYTES = 200
SAMPLE_BYTES = 500
DEFAULT_TASK = "bytes"
# what each other task runs, and the options that it does not have
TASKS: dict[str, tuple[Callable[[list[Path], Path, dict[str, Any]], None], tuple[str, ...]]] = {
    "classify": (demo_classify, ("lora", "restart", "window", "precision")),
    "lm": (demo_lm, ("lora", "restart")),
}
STEPS = {"bfloat16": 600, "float32": 400}  # about two minutes on two cores


def demo(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[TEXT]...",
            help="Files or folders (.txt, .md, .html), for classify folders of pages, a folder a class; by "
            "default CPython's language reference.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for checkpoint, pictures and metrics.")] = Path(
        "demo_output"
    ),
    task: Annotated[
        str,
        typer.Option(
            help=f"What is trained: {', '.join([DEFAULT_TASK, *TASKS])}; each has its own defaults."
        ),
    ] = DEFAULT_TASK,
    lora: Annotated[
        bool, typer.Option("--lora", help="Tune a GPT-2 by LoRA instead, beside the same run under PEFT.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Train anew, whatever checkpoint is there.")
    ] = False,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Updates.", show_default="600; in float32 400; with --lora 80, twice; with --task its own"
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Sequences per update.", show_default="1; with --lora 8")] = 1,
    length: Annotated[
        int, typer.Option(help="Bytes per sequence.", show_default="2048; with --lora 192")
    ] = 2048,
    width: Annotated[int, typer.Option(help="Width of the model.")] = 256,
    layers: Annotated[int, typer.Option(help="Layers.")] = 4,
    heads: Annotated[int, typer.Option(help="Heads per layer.", show_default="8; with --lora 4")] = 8,
    window: Annotated[int, typer.Option(help="Bytes back that a layer sees.")] = 128,
    precision: Annotated[
        str, typer.Option(help="float32, bfloat16, or auto: bfloat16 where the CPU multiplies it.")
    ] = "auto",
    seed: Annotated[int, typer.Option(help="Of the weights, the batches and the sample.")] = 0,
) -> None:
    """Train a small language model on the CPU; exit status 1 unless it beats unigram entropy and zlib.

    Ctrl-C keeps the checkpoint: the same command goes on from there.

    With --lora: pre-train a small GPT-2 on half of the text and tune it on the other, with this library and
    with PEFT; exit status 1 unless the held-out loss falls, and in the same way.

    With --task lm: train the documented AdvancedTransformerModel, and let it write; exit status 1 unless it
    beats unigram entropy.

    With --task classify: train the documented classifiers on labelled texts, beside TF-IDF; exit status 1
    unless they beat the most frequent class by 20 points.
    """
    if expect_one_of("--task", task, [DEFAULT_TASK, *TASKS]) != DEFAULT_TASK:
        run, meaningless = TASKS[task]
        run(paths or [], output, _given(context, f"--task {task}", meaningless))
        return
    if lora:
        demo_lora(paths or [], output, _given(context, "--lora", ("restart", "window", "precision")))
        return
    from seo_kernels.demo.corpus import load_corpus
    from seo_kernels.demo.engines import fused
    from seo_kernels.demo.model import ModelConfig
    from seo_kernels.demo.pictures import require_matplotlib
    from seo_kernels.demo.throughput import UnequalGradientsError
    from seo_kernels.demo.train import TrainConfig, Trainer, resolve_precision

    begun = time.perf_counter()
    expect_folder("--output", output)
    with told_in_a_line():
        require_matplotlib()
        model_config = ModelConfig(width, layers, heads, window)
        precision = resolve_precision(precision)
        steps = STEPS[precision] if steps is None else steps
        train_config = TrainConfig(steps, batch, length, precision=precision, seed=seed)
        corpus = load_corpus(paths or [], least_bytes=20 * (length + 1))
        output.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(model_config, train_config, corpus, fused)
    checkpoint = output / "checkpoint.pt"
    if checkpoint.exists() and not restart:
        try:
            trainer.resume(checkpoint)
        except ValueError as error:
            usage_error(f"{error}; --restart trains anew, --output names another folder")

    console = report_console()
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    console.print(
        f"text: {corpus.source}, {len(corpus.train):,} bytes to learn, {len(corpus.held_out):,} held out"
    )
    console.print(
        f"model: {parameters:,} parameters, {train_config.precision}, window {window}, length {length}"
    )
    if trainer.step:
        console.print(f"resuming at step {trainer.step}")
    if not _train(trainer, checkpoint):
        console.print(f"interrupted at step {trainer.step}: the same command goes on from {checkpoint}")
        raise typer.Exit(130)
    try:
        metrics = _measure(trainer, corpus, output)
    except UnequalGradientsError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    metrics["total_seconds"] = time.perf_counter() - begun
    (output / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    _print_report(console, metrics, output)
    if not metrics["beats_unigram_and_zlib"]:
        raise typer.Exit(1)


def _given(context: typer.Context, instead: str, meaningless: Sequence[str]) -> dict[str, Any]:
    """The settings that the command line names beside the option ``instead``, which has its own defaults.

    A usage error for those that mean nothing there.
    """
    named = [
        name
        for name in context.params
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    ]
    for name in meaningless:
        if name in named:
            usage_error(f"--{name} is given with {instead}, expected it without: there it has no meaning")
    return {name: context.params[name] for name in named if name not in ("task", "lora", "paths", "output")}


def _train(trainer: "Trainer", checkpoint: Path) -> bool:
    """Train behind a progress bar; False if interrupted."""
    with progress_bar() as progress:
        task = progress.add_task("training", total=trainer.config.steps, completed=trainer.step)

        def show(trainer: "Trainer") -> None:
            recent = trainer.history[-20:]
            text = f"training, {sum(recent) / len(recent):.2f} bits per byte"
            progress.update(task, completed=trainer.step, description=text)

        return trainer.run(checkpoint, show)


def _measure(trainer: "Trainer", corpus: "Corpus", output: Path) -> dict[str, Any]:
    """Everything that is reported about a trained model; writes the pictures."""
    import seo_kernels as sk
    from seo_kernels.demo import evaluate, pictures
    from seo_kernels.demo.generate import generate
    from seo_kernels.demo.throughput import compare

    model, config, attend = trainer.model, trainer.config, trainer.attend
    with progress_bar() as progress:
        task = progress.add_task("held-out text", total=4)
        held_out = evaluate.bits_per_byte(model, corpus.held_out, config.length, attend, config.precision)
        unigram, zlib = (
            evaluate.unigram_bits_per_byte(corpus.held_out),
            evaluate.zlib_bits_per_byte(corpus.held_out),
        )
        progress.update(task, advance=1, description="sample")
        prompt = corpus.held_out[:PROMPT_BYTES]
        sample = generate(model, prompt, SAMPLE_BYTES, attend, seed=config.seed)
        progress.update(task, advance=1, description="speed beside PyTorch")
        throughput = compare(model, trainer.draw_batch(), config.precision)
        progress.update(task, advance=1, description="pictures")
        pictures.draw_loss(output / "loss.png", trainer.history, held_out, unigram, zlib)
        pictures.draw_attention(output / "attention.png", model, corpus.held_out, attend)
        progress.update(task, advance=1)
    return {
        "source": corpus.source,
        **{key: value for key, value in trainer.identity.items() if key != "corpus"},
        "bytes_trained_on": len(corpus.train),
        "bytes_held_out": len(corpus.held_out),
        "held_out_bits_per_byte": held_out,
        "unigram_bits_per_byte": unigram,
        "zlib_bits_per_byte": zlib,
        "beats_unigram_and_zlib": held_out < min(unigram, zlib),
        "tokens_per_second": throughput.fused,
        "tokens_per_second_sdpa": throughput.sdpa,
        "ratio": throughput.ratio,
        "gradient_difference": throughput.gradient_difference,
        "training_seconds": trainer.seconds,
        "info": sk.info(),
        "history": trainer.history,
        "prompt": prompt.decode(errors="replace"),
        "sample": sample.decode(errors="replace"),
    }


def _print_report(console: Console, metrics: dict[str, Any], output: Path) -> None:
    console.rule("sample")
    console.print(metrics["prompt"], style="dim", end="", markup=False, highlight=False)
    console.print(metrics["sample"], markup=False, highlight=False)
    console.rule()
    text = Table(title="held-out text", title_justify="left")
    for column in ("", "bits per byte"):
        text.add_column(column)
    text.add_row("unigram entropy", f"{metrics['unigram_bits_per_byte']:.3f}")
    text.add_row("zlib -9", f"{metrics['zlib_bits_per_byte']:.3f}")
    text.add_row("[bold]this model[/]", f"[bold]{metrics['held_out_bits_per_byte']:.3f}[/]")
    speed = Table(title="training, forward and backward", title_justify="left")
    for column in ("attention", "tokens per second", "ratio"):
        speed.add_column(column)
    speed.add_row("PyTorch SDPA with a mask", f"{metrics['tokens_per_second_sdpa']:,.0f}", "1")
    speed.add_row(
        "[bold]seo_kernels[/]", f"[bold]{metrics['tokens_per_second']:,.0f}[/]", f"{metrics['ratio']:.2f}"
    )
    console.print(text, speed)
    console.print(
        f"{metrics['total_seconds']:.0f} s; loss.png, attention.png, metrics.json, checkpoint.pt: {output}"
    )
    if not metrics["beats_unigram_and_zlib"]:
        console.print(
            "failed: held-out bits per byte have to be below both unigram entropy and zlib", style="bold red"
        )
