"""Documented text classifiers, by their documented import name. The work is in ``seo_kernels``."""

from seo_kernels.models import (
    CustomModelConfig,
    CustomMultiTaskSEOModel,
    CustomSEOModel,
    create_custom_model,
    create_multi_task_model,
)
from seo_kernels.models.seo_layers import MultiHeadAttention, PositionalEncoding, TransformerBlock

__all__ = [
    "CustomModelConfig",
    "CustomMultiTaskSEOModel",
    "CustomSEOModel",
    "MultiHeadAttention",
    "PositionalEncoding",
    "TransformerBlock",
    "create_custom_model",
    "create_multi_task_model",
]
