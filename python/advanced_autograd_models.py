"""The documented language model, by its documented import name. The work is in ``seo_kernels``."""

from seo_kernels.models import AdvancedTransformerModel, ModelConfig

__all__ = [
    "AdvancedTransformerModel",
    "ModelConfig",
]
