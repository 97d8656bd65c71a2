"""The same gradient by different ways through autograd: eager, functional, checkpointed, compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seo_kernels.examples.showing import bytes_kept, headline, largest_difference, median_seconds, table
from seo_kernels.nn.sizes import check_size


@dataclass(frozen=True)
class ApproachReport:
    """One way to a gradient.

    Args:
        name: "eager", "functional", "checkpointed" or "compiled".
        seconds: of a gradient, median.
        kept_bytes: of the forward pass for the backward pass; None where there is no moment between both.
        difference: of its gradient from the eager one, the largest.
    """

    name: str
    seconds: float
    kept_bytes: int | None
    difference: float


def compare_approaches(
    layers: int = 4, width: int = 128, rows: int = 128, backend: str = "aot_eager"
) -> list[ApproachReport]:
    """Print and return time, memory and gradient of four ways to differentiate a stack of layers.

    Args:
        layers, width, rows: of the stack and its batch.
        backend: of ``torch.compile``: "aot_eager" traces forward and backward in a second; "inductor"
            compiles them too, which takes many and makes them faster.
    """
    for name, size in (("layers", layers), ("width", width), ("rows", rows)):
        check_size(name, size)
    headline(f"Ways through autograd: {layers} layers of width {width}, {rows} rows")
    model = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(layers)))
    inputs, target = torch.randn(rows, width), torch.randn(rows, width)
    compiled = torch.compile(model, backend=backend)
    parameters = dict(model.named_parameters())

    def eager() -> Tensor:
        return F.mse_loss(model(inputs), target)

    def checkpointed() -> Tensor:
        hidden = inputs
        for layer in model:
            hidden = checkpoint(layer, hidden, use_reentrant=False)
        return F.mse_loss(hidden, target)

    def by_graph(loss: Callable[[], Tensor]) -> Callable[[], list[Tensor]]:
        return lambda: list(torch.autograd.grad(loss(), list(parameters.values())))

    def of_values(values: dict[str, Tensor]) -> Tensor:
        return F.mse_loss(torch.func.functional_call(model, values, (inputs,)), target)

    def functional() -> list[Tensor]:
        found = torch.func.grad(of_values)({name: value.detach() for name, value in parameters.items()})
        return [found[name] for name in parameters]

    ways: dict[str, tuple[Callable[[], list[Tensor]], Callable[[], Tensor] | None]] = {
        "eager": (by_graph(eager), eager),
        "functional": (functional, None),
        "checkpointed": (by_graph(checkpointed), checkpointed),
        f"compiled ({backend})": (by_graph(lambda: F.mse_loss(compiled(inputs), target)), None),
    }
    expected = ways["eager"][0]()
    reports = [
        ApproachReport(
            name,
            median_seconds(gradient),
            None if forward is None else bytes_kept(forward),
            largest_difference(gradient(), expected),
        )
        for name, (gradient, forward) in ways.items()
    ]
    table(
        ("way", "ms", "kept, MiB", "gradient differs by"),
        [
            (r.name, r.seconds * 1e3, "" if r.kept_bytes is None else r.kept_bytes / 2**20, r.difference)
            for r in reports
        ],
    )
    return reports
