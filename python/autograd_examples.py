"""Examples of custom functions, training and second order, by the documented import name. The work is in
``seo_kernels``."""

from seo_kernels.examples import AutogradAdvancedExamples, AutogradTrainingExamples, CustomAutogradExample

__all__ = ["AutogradAdvancedExamples", "AutogradTrainingExamples", "CustomAutogradExample"]
