"""The training system around autograd, its parts and examples, by the documented import name. The work is in
``seo_kernels``."""

from seo_kernels.diagnostics.autograd_tools import AutogradUtils
from seo_kernels.diagnostics.gradient_monitor import GradientMonitor
from seo_kernels.examples import AdvancedAutogradExamples, AutogradExamples
from seo_kernels.nn.combined_loss import CustomLossFunction
from seo_kernels.nn.functions import CustomAutogradFunction
from seo_kernels.training import AutogradTrainingSystem, load_config

__all__ = [
    "AdvancedAutogradExamples",
    "AutogradExamples",
    "AutogradTrainingSystem",
    "AutogradUtils",
    "CustomAutogradFunction",
    "CustomLossFunction",
    "GradientMonitor",
    "load_config",
]
