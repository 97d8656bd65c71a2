"""The documented language model, its parts and its training, by their documented import name. The work is in
``seo_kernels``."""

from seo_kernels.lora import apply_lora
from seo_kernels.models import (
    AdvancedMultiHeadAttention,
    AdvancedPositionalEncoding,
    AdvancedTransformerModel,
    ModelConfig,
)
from seo_kernels.nn import LoRALinear
from seo_kernels.nn.lora_layer import LoRALayer
from seo_kernels.nn.prompts import PromptTuning as P_TuningLayer
from seo_kernels.training import (
    AdvancedLossFunctions,
    AdvancedOptimizers,
    AdvancedTokenizer,
    AdvancedTrainingPipeline,
)

__all__ = [
    "AdvancedLossFunctions",
    "AdvancedMultiHeadAttention",
    "AdvancedOptimizers",
    "AdvancedPositionalEncoding",
    "AdvancedTokenizer",
    "AdvancedTrainingPipeline",
    "AdvancedTransformerModel",
    "LoRALayer",
    "LoRALinear",
    "ModelConfig",
    "P_TuningLayer",
    "apply_lora",
]
