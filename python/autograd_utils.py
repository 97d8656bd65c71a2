"""Functions, watchers and training around autograd, by the documented import name. The work is in
``seo_kernels``."""

from seo_kernels.diagnostics.autograd_debugger import AutogradDebugger, enable_autograd_detection
from seo_kernels.diagnostics.autograd_hooks import AutogradHooks
from seo_kernels.diagnostics.autograd_monitor import AutogradMonitor
from seo_kernels.diagnostics.autograd_profiler import AutogradProfiler
from seo_kernels.diagnostics.gradient_computation import GradientComputationUtils
from seo_kernels.diagnostics.instances import autograd_debugger, autograd_monitor, autograd_profiler
from seo_kernels.nn.combined_loss import CustomLossFunction
from seo_kernels.nn.functions import CustomAutogradFunction, CustomGradientFunction
from seo_kernels.training import (
    AutogradOptimizer,
    AutogradTrainingLoop,
    ExponentialMovingAverage,
    GradientAccumulator,
    GradientClipper,
)

__all__ = [
    "AutogradDebugger",
    "AutogradHooks",
    "AutogradMonitor",
    "AutogradOptimizer",
    "AutogradProfiler",
    "AutogradTrainingLoop",
    "CustomAutogradFunction",
    "CustomGradientFunction",
    "CustomLossFunction",
    "ExponentialMovingAverage",
    "GradientAccumulator",
    "GradientClipper",
    "GradientComputationUtils",
    "autograd_debugger",
    "autograd_monitor",
    "autograd_profiler",
    "enable_autograd_detection",
]
