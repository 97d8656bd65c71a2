"""How gradients arrive at the first layers of a deep network, with and without residual connections."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.findings import find_issues
from seo_kernels.diagnostics.gradient_norms import gradient_norms
from seo_kernels.examples.showing import headline, table
from seo_kernels.nn.sizes import check_size


@dataclass(frozen=True)
class FlowReport:
    """Gradients of one network.

    Args:
        norms: of each layer's weight gradient, from the first layer to the last.
        ratio: the first of them to the last.
        per_layer: the factor from one layer to the one before it, on average.
        findings: what ``find_issues`` says, in words.
    """

    norms: list[float]
    ratio: float
    per_layer: float
    findings: list[str]


@dataclass(frozen=True)
class GradientFlowReport:
    """Of the same layers, ``plain`` and ``residual``.

    Args:
        expected_per_layer: of the plain network: 1 / sqrt(3), the gain of torch's initialisation.
    """

    plain: FlowReport
    residual: FlowReport
    expected_per_layer: float


class DeepNetwork(nn.Module):
    """x -> tanh(W x + b) so many times, or x -> x + tanh(W x + b), then normalised, and one number of it."""

    def __init__(self, depth: int, width: int, residual: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, 1)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            branch = torch.tanh(layer(x))
            x = x + branch if self.residual else branch
        output: Tensor = self.output(self.norm(x))
        return output


def gradient_flow(depth: int = 40, width: int = 48, rows: int = 64) -> GradientFlowReport:
    """Print and return the gradients of a deep network of tanh layers, with and without residuals.

    torch initialises weights uniformly with variance 1 / (3 width): a gradient shrinks by 1 / sqrt(3) on its
    way through a layer, and through tanh a little more. A residual connection adds the identity to each
    layer's Jacobian.

    Args:
        depth: layers, at least 2.
        width: of each.
        rows: of the batch.
    """
    check_size("depth", depth, least=2)
    check_size("width", width)
    check_size("rows", rows)
    headline(f"Gradient flow: {depth} tanh layers of width {width}")
    batch = torch.randn(rows, width)
    plain, residual = (_flow(depth, width, batch, residual) for residual in (False, True))
    report = GradientFlowReport(plain, residual, expected_per_layer=1 / math.sqrt(3))
    shown = sorted({0, depth // 4, depth // 2, 3 * depth // 4, depth - 1})
    table(
        ("layer", "plain", "with residuals"),
        [(layer + 1, f"{plain.norms[layer]:.1e}", f"{residual.norms[layer]:.1e}") for layer in shown],
    )
    print(f"first layer to last: {plain.ratio:.1e} plain, {residual.ratio:.2f} with residuals")
    print(f"factor of a layer: {plain.per_layer:.3f} plain (1/sqrt(3) is {report.expected_per_layer:.3f})")
    for name, flow in (("plain", plain), ("residuals", residual)):
        first = f", the first: {flow.findings[0]}" if flow.findings else ""
        print(f"{name}: {len(flow.findings)} findings{first}")
    return report


def _flow(depth: int, width: int, batch: Tensor, residual: bool) -> FlowReport:
    model = DeepNetwork(depth, width, residual)
    model(batch).mean().backward()
    by_name = gradient_norms(model).by_name()
    norms = [by_name[f"layers.{layer}.weight"] for layer in range(depth)]
    ratio = norms[0] / norms[-1] if norms[-1] else math.inf
    per_layer = ratio ** (1 / (depth - 1))
    return FlowReport(norms, ratio, per_layer, [str(finding) for finding in find_issues(model)])
