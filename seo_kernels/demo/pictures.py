"""The pictures of the demo: the loss curve, where trained heads look, what classes are mistaken for."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seo_kernels._extras import require
from seo_kernels.demo.model import Attend, ByteModel
from seo_kernels.demo.train import to_tokens
from seo_kernels.relative import RelativePosition

MAP_LENGTH = 192  # bytes; a head dim of the value, so at most 256
SMOOTHED_STEPS = 20


def require_matplotlib() -> Any:
    """pyplot, drawing to files only.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    purpose = "draw the loss curve and the attention patterns"
    require("matplotlib", extra="plots", purpose=purpose).use("Agg")
    return require("matplotlib.pyplot", extra="plots", purpose=purpose)


def draw_loss(path: Path, history: list[float], held_out: float, unigram: float, zlib: float) -> None:
    """Bits per byte over the steps, beside what unigram frequencies and zlib need on the held-out text."""
    plt = require_matplotlib()
    recent = [history[max(0, step - SMOOTHED_STEPS) : step] for step in range(1, len(history) + 1)]
    smooth = [sum(values) / len(values) for values in recent]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    steps = range(1, len(history) + 1)
    axes.plot(steps, history, color="tab:blue", alpha=0.25, linewidth=0.8, label="training batches")
    axes.plot(steps, smooth, color="tab:blue", label="training, smoothed")
    axes.axhline(unigram, color="tab:gray", linestyle=":", label=f"unigram entropy {unigram:.2f}")
    axes.axhline(zlib, color="tab:gray", linestyle="--", label=f"zlib -9 {zlib:.2f}")
    axes.plot([len(history)], [held_out], "o", color="tab:red", label=f"held-out text {held_out:.2f}")
    axes.set(xlabel="step", ylabel="bits per byte", ylim=(0, max(unigram, zlib, held_out) * 1.15))
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_confusion(path: Path, classes: list[str], labels: list[int], predicted: list[int]) -> None:
    """How often each class (row) was taken for each (column): counts, shaded by their share of the row."""
    plt = require_matplotlib()
    size = len(classes)
    pairs = torch.tensor(labels) * size + torch.tensor(predicted)
    counts = pairs.bincount(minlength=size * size).view(size, size)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    figure, axes = plt.subplots(figsize=(2.5 + 0.7 * size, 2 + 0.6 * size), layout="constrained")
    axes.imshow(shares.numpy(), cmap="Blues", vmin=0, vmax=1)
    for row in range(size):
        for column in range(size):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, int(counts[row, column]), ha="center", va="center", color=color)
    axes.set_xticks(range(size), classes, rotation=45, ha="right")
    axes.set_yticks(range(size), classes)
    axes.set(xlabel="predicted", ylabel="class")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_attention(path: Path, model: ByteModel, text: bytes, attend: Attend) -> None:
    """A map per layer and head over the first bytes of ``text``, and their mean attention by distance."""
    plt = require_matplotlib()
    maps = attention_maps(model, text[:MAP_LENGTH], attend)
    layers, heads, length = len(maps), model.config.heads, maps[0].shape[-1]
    figure, axes = plt.subplots(
        layers, heads + 1, figsize=(2.3 * (heads + 1), 2.3 * layers), layout="constrained", squeeze=False
    )
    distances = range(min(model.config.window + 1, length))
    for layer, probabilities in enumerate(maps):
        for head in range(heads):
            panel = axes[layer][head]
            image = probabilities[head].sqrt().numpy()
            panel.imshow(image, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
            panel.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=8)
            panel.tick_params(labelsize=6)
            means = [float(probabilities[head].diagonal(-distance).mean()) for distance in distances]
            axes[layer][heads].plot(distances, means, linewidth=0.8, label=f"head {head + 1}")
        panel = axes[layer][heads]
        panel.set(yscale="log", ylim=(1e-4, 1))
        panel.set_title("attention by bytes back", fontsize=8)
        panel.tick_params(labelsize=6)
    axes[-1][heads].legend(fontsize=5)
    axes[-1][0].set_xlabel("key byte", fontsize=7)
    axes[-1][0].set_ylabel("query byte", fontsize=7)
    figure.suptitle("where the heads look (square root of the attention probability)", fontsize=10)
    figure.savefig(path, dpi=120)
    plt.close(figure)


@torch.no_grad()
def attention_maps(model: ByteModel, text: bytes, attend: Attend) -> list[Tensor]:
    """The attention probabilities of every layer, (H, T, T) each; T = len(text) is at most 256.

    They come out of the kernel itself: with the identity as value, the output is the matrix of probabilities.
    """
    maps: list[Tensor] = []

    def recording(
        query: Tensor, key: Tensor, value: Tensor, relative: RelativePosition, window: int
    ) -> Tensor:
        identity = torch.eye(key.shape[2], dtype=key.dtype).expand(*key.shape[:2], -1, -1)
        maps.append(attend(query, key, identity, relative, window)[0])
        return attend(query, key, value, relative, window)

    model(to_tokens(text)[None], recording)
    return maps
