"""What a product with the Hessian costs."""

from __future__ import annotations

from dataclasses import dataclass

from seo_kernels.benchmark.case import Case, Peer, within
from seo_kernels.benchmark.curvature_engines import gradient, hessian_product
from seo_kernels.benchmark.curvature_problem import CurvatureProblem


@dataclass(frozen=True)
class CurvatureSizes:
    layers: int = 6
    dim: int = 512
    heads: int = 8
    vocabulary: int = 8192
    length: int = 256
    batch: int = 4


def curvature_cases(sizes: CurvatureSizes) -> list[Case]:
    """The product of the Hessian and a vector beside one gradient of the same model."""
    problem = CurvatureProblem(
        sizes.layers, sizes.dim, sizes.heads, sizes.length, sizes.batch, sizes.vocabulary
    )
    return [
        Case(
            "hessian-vector-fp32",
            f"Hessian times a vector, {problem.sizes}, fp32",
            problem,
            hessian_product,
            (Peer("one gradient", gradient, within(4)),),
        )
    ]
