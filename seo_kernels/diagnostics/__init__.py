"""What looks at gradients: the verification of every op by dtype and device, and of any user's module."""

from seo_kernels.diagnostics.autograd_debugger import AutogradDebugger, enable_autograd_detection
from seo_kernels.diagnostics.autograd_hooks import AutogradHooks
from seo_kernels.diagnostics.autograd_monitor import AutogradMonitor
from seo_kernels.diagnostics.autograd_profiler import AutogradProfiler
from seo_kernels.diagnostics.autograd_tools import AutogradUtils
from seo_kernels.diagnostics.curvature import SecondDerivativeError, hessian_vector_product
from seo_kernels.diagnostics.findings import Finding, Thresholds, find_issues
from seo_kernels.diagnostics.fisher import fisher_information
from seo_kernels.diagnostics.flow_page import write_flow_page
from seo_kernels.diagnostics.gradient_analysis import GradientAnalysisConfig, GradientAnalyzer
from seo_kernels.diagnostics.gradient_computation import GradientComputationUtils
from seo_kernels.diagnostics.gradient_errors import GradientError, gradient_errors
from seo_kernels.diagnostics.gradient_monitor import GradientMonitor
from seo_kernels.diagnostics.gradient_monitoring import GradientMonitoring
from seo_kernels.diagnostics.gradient_norms import GradientNorms, total_gradient_norm
from seo_kernels.diagnostics.gradient_statistics import GradientStatistics, TensorStatistics
from seo_kernels.diagnostics.higher_order import higher_order_gradients
from seo_kernels.diagnostics.module_check import ModuleCheck, check_module
from seo_kernels.diagnostics.module_diagnosis import ModuleDiagnosis, diagnose_module
from seo_kernels.diagnostics.module_factory import FactoryError, ModuleUnderTest, load_factory
from seo_kernels.diagnostics.module_report import write_module_report
from seo_kernels.diagnostics.tensorboard_writer import TensorBoardGradients

__all__ = [
    "AutogradDebugger",
    "AutogradHooks",
    "AutogradMonitor",
    "AutogradProfiler",
    "AutogradUtils",
    "FactoryError",
    "Finding",
    "GradientAnalysisConfig",
    "GradientAnalyzer",
    "GradientComputationUtils",
    "GradientError",
    "GradientMonitor",
    "GradientMonitoring",
    "GradientNorms",
    "GradientStatistics",
    "ModuleCheck",
    "ModuleDiagnosis",
    "ModuleUnderTest",
    "SecondDerivativeError",
    "TensorBoardGradients",
    "TensorStatistics",
    "Thresholds",
    "check_module",
    "diagnose_module",
    "enable_autograd_detection",
    "find_issues",
    "fisher_information",
    "gradient_errors",
    "hessian_vector_product",
    "higher_order_gradients",
    "load_factory",
    "total_gradient_norm",
    "write_flow_page",
    "write_module_report",
]
