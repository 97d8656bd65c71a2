"""What looks at gradients: the verification of every op by dtype and device, and of any user's module."""

from seo_kernels.diagnostics.autograd_debugger import AutogradDebugger, enable_autograd_detection
from seo_kernels.diagnostics.autograd_profiler import AutogradProfiler
from seo_kernels.diagnostics.gradient_errors import GradientError, gradient_errors
from seo_kernels.diagnostics.module_factory import FactoryError, ModuleUnderTest, load_factory

__all__ = [
    "AutogradDebugger",
    "AutogradProfiler",
    "FactoryError",
    "GradientError",
    "ModuleUnderTest",
    "enable_autograd_detection",
    "gradient_errors",
    "load_factory",
]
