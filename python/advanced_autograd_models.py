"""The documented language model and its training, by their documented import name; thin."""

from seo_kernels.models import AdvancedTransformerModel, ModelConfig
from seo_kernels.training import (
    AdvancedLossFunctions,
    AdvancedOptimizers,
    AdvancedTokenizer,
    AdvancedTrainingPipeline,
)

__all__ = [
    "AdvancedLossFunctions",
    "AdvancedOptimizers",
    "AdvancedTokenizer",
    "AdvancedTrainingPipeline",
    "AdvancedTransformerModel",
    "ModelConfig",
]
