"""Examples that print what they measure and return it as data; tests hold it against known values."""

from seo_kernels.examples.advanced import AdvancedAutogradExamples
from seo_kernels.examples.advanced_examples import AutogradAdvancedExamples
from seo_kernels.examples.basic_examples import AutogradExamples
from seo_kernels.examples.custom_functions import CustomAutogradExample
from seo_kernels.examples.training_examples import AutogradTrainingExamples

__all__ = [
    "AdvancedAutogradExamples",
    "AutogradAdvancedExamples",
    "AutogradExamples",
    "AutogradTrainingExamples",
    "CustomAutogradExample",
]
