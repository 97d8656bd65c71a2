"""Analysis and monitoring of gradients, by the documented import name. The work is in ``seo_kernels``."""

from seo_kernels.diagnostics.gradient_analysis import GradientAnalysisConfig, GradientAnalyzer
from seo_kernels.diagnostics.gradient_monitoring import GradientMonitoring

__all__ = ["GradientAnalysisConfig", "GradientAnalyzer", "GradientMonitoring"]
