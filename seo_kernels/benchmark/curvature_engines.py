"""A product with the Hessian, and a gradient."""

from __future__ import annotations

from seo_kernels.benchmark.curvature_problem import CurvatureProblem, GradientTaker, HessianProduct
from seo_kernels.benchmark.training_engines import language


def hessian_product(problem: CurvatureProblem) -> HessianProduct:
    """``hessian_vector_product``."""
    own = language(problem)
    return HessianProduct(own.model, own.loss, own.dtype)


def gradient(problem: CurvatureProblem) -> GradientTaker:
    """Forward and backward of the same model."""
    own = language(problem)
    return GradientTaker(own.model, own.loss, own.dtype)
