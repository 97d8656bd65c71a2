"""Second-order gradients of functions whose derivatives are known, and what checkpointing costs and saves."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seo_kernels.diagnostics.curvature import hessian_vector_product
from seo_kernels.examples.showing import (
    bytes_kept,
    gradients,
    headline,
    largest_difference,
    median_seconds,
    table,
)
from seo_kernels.nn.sizes import check_size


@dataclass(frozen=True)
class SecondOrderReport:
    """Second derivatives, and how far they are from the known ones.

    Args:
        points: where x^3 is differentiated.
        cube: its second derivatives there, 6 x.
        cube_error: the largest difference from it.
        hessian_error: of 1/2 w^T A w, whose Hessian is A; the largest difference of ``torch.func.hessian``.
        product_error: of ``hessian_vector_product`` from A v.
        newton_error: how far one Newton step on 1/2 w^T A w - b^T w lands from its minimum A^-1 b.
    """

    points: list[float]
    cube: list[float]
    cube_error: float
    hessian_error: float
    product_error: float
    newton_error: float


@dataclass(frozen=True)
class CheckpointingReport:
    """A stack of layers, forward and backward, with and without checkpoints.

    Args:
        kept_bytes, kept_bytes_checkpointed: of the forward pass, for the backward pass.
        seconds, seconds_checkpointed: of forward and backward, medians.
        gradient_difference: the largest between both; 0 where the recomputation is exact.
    """

    kept_bytes: int
    kept_bytes_checkpointed: int
    seconds: float
    seconds_checkpointed: float
    gradient_difference: float


class AutogradAdvancedExamples:
    """Second-order gradients and gradient checkpointing, each measured against what is known."""

    @staticmethod
    def second_order_gradients() -> SecondOrderReport:
        """Second derivatives of a cube and of a quadratic form, and a Newton step with them."""
        headline("Second-order gradients")
        x = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(x.pow(3).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), x)

        matrix, offset, direction = _quadratic(6)
        weights = nn.Linear(6, 1, bias=False, dtype=torch.float64)
        hessian = torch.func.hessian(lambda w: 0.5 * w @ matrix @ w)(weights.weight.detach()[0])
        product = hessian_vector_product(weights, _form(weights.weight[0], matrix, offset), direction)
        slope = torch.autograd.grad(_form(weights.weight[0], matrix, offset), weights.weight)[0][0]
        newton = weights.weight.detach()[0] - torch.linalg.solve(hessian, slope)

        report = SecondOrderReport(
            points=x.tolist(),
            cube=second.tolist(),
            cube_error=largest_difference([second], [6 * x.detach()]),
            hessian_error=largest_difference([hessian], [matrix]),
            product_error=largest_difference([_flat(product)], [matrix @ direction]),
            newton_error=largest_difference([newton], [torch.linalg.solve(matrix, offset)]),
        )
        table(
            ("x", "(x^3)''", "6 x"), [(p, s, 6 * p) for p, s in zip(report.points, report.cube, strict=True)]
        )
        print(f"Hessian of a quadratic form: differs from its matrix by {report.hessian_error:.1e}")
        print(f"Hessian-vector product: differs from matrix times vector by {report.product_error:.1e}")
        print(f"One Newton step: {report.newton_error:.1e} from the minimum")
        return report

    @staticmethod
    def gradient_checkpointing(layers: int = 8, width: int = 128, rows: int = 256) -> CheckpointingReport:
        """Memory and time of a stack of layers, with and without a checkpoint for each.

        Without, the input of each product and that of each GELU are kept; with, the input of each layer only.

        Args:
            layers: of ``nn.Linear`` and GELU each, at least 2.
            width: of each.
            rows: of the batch.
        """
        check_size("layers", layers, least=2)
        check_size("width", width)
        check_size("rows", rows)
        headline(f"Gradient checkpointing: {layers} layers of width {width}, {rows} rows")
        model = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.GELU()) for _ in range(layers)))
        batch = torch.randn(rows, width)

        def plain() -> Tensor:
            output: Tensor = model(batch)
            return output.square().mean()

        def checkpointed() -> Tensor:
            hidden = batch
            for layer in model:
                hidden = checkpoint(layer, hidden, use_reentrant=False)
            return hidden.square().mean()

        found = {}
        for name, forward in (("plain", plain), ("checkpointed", checkpointed)):
            model.zero_grad()
            forward().backward()
            found[name] = gradients(model)
        report = CheckpointingReport(
            kept_bytes=bytes_kept(plain),
            kept_bytes_checkpointed=bytes_kept(checkpointed),
            seconds=median_seconds(lambda: plain().backward()),
            seconds_checkpointed=median_seconds(lambda: checkpointed().backward()),
            gradient_difference=largest_difference(found["plain"], found["checkpointed"]),
        )
        table(
            ("", "kept for backward, MiB", "forward and backward, ms"),
            [
                ("plain", report.kept_bytes / 2**20, report.seconds * 1e3),
                ("checkpointed", report.kept_bytes_checkpointed / 2**20, report.seconds_checkpointed * 1e3),
            ],
        )
        print(f"gradients differ by {report.gradient_difference:.1e}")
        return report

    @classmethod
    def run_all(cls) -> tuple[SecondOrderReport, CheckpointingReport]:
        """Both."""
        return cls.second_order_gradients(), cls.gradient_checkpointing()


def _quadratic(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """A symmetric positive matrix (size, size), and two vectors."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    vectors = torch.randn(2, size, generator=generator, dtype=torch.float64)
    return root @ root.T + torch.eye(size, dtype=torch.float64), vectors[0], vectors[1]


def _form(w: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    return 0.5 * w @ matrix @ w - offset @ w


def _flat(product: Tensor | list[Tensor]) -> Tensor:
    return product if isinstance(product, Tensor) else torch.cat([part.flatten() for part in product])
