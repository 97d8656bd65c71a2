"""Device, memory, precision, layout and compilation, by the documented import name. The work is in
``seo_kernels``."""

from seo_kernels.training.torch_manager import RecommendedSettings, TorchManager, pytorch_manager

__all__ = ["RecommendedSettings", "TorchManager", "pytorch_manager"]
