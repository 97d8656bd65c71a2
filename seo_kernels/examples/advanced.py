"""``AdvancedAutogradExamples``: gradient flow, ways through autograd, and the documented models."""

from __future__ import annotations

from dataclasses import dataclass

from seo_kernels.examples.advanced_examples import (
    AutogradAdvancedExamples,
    CheckpointingReport,
    SecondOrderReport,
)
from seo_kernels.examples.approaches import ApproachReport, compare_approaches
from seo_kernels.examples.gradient_flow import GradientFlowReport, gradient_flow
from seo_kernels.examples.model_examples import ModelReport, gradients_of_models


@dataclass(frozen=True)
class AdvancedExamplesReport:
    """What ``run_all_advanced_examples`` measured."""

    gradient_flow: GradientFlowReport
    approaches: list[ApproachReport]
    models: list[ModelReport]
    second_order: SecondOrderReport
    checkpointing: CheckpointingReport


class AdvancedAutogradExamples:
    """Each prints what it measures, and returns it."""

    @staticmethod
    def demonstrate_gradient_flow_analysis() -> GradientFlowReport:
        """A deep network with and without residual connections; see ``gradient_flow``."""
        return gradient_flow()

    @staticmethod
    def demonstrate_performance_optimization(backend: str = "aot_eager") -> list[ApproachReport]:
        """Ways through autograd; see ``compare_approaches``."""
        return compare_approaches(backend=backend)

    @staticmethod
    def demonstrate_autograd_with_custom_models() -> list[ModelReport]:
        """The documented models; see ``gradients_of_models``."""
        return gradients_of_models()

    @classmethod
    def run_all_advanced_examples(cls) -> AdvancedExamplesReport:
        """All of them, and those of ``AutogradAdvancedExamples``."""
        return AdvancedExamplesReport(
            cls.demonstrate_gradient_flow_analysis(),
            cls.demonstrate_performance_optimization(),
            cls.demonstrate_autograd_with_custom_models(),
            *AutogradAdvancedExamples.run_all(),
        )
