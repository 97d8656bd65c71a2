"""The documented language model and its parts, by their documented import name. The work is in
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

__all__ = [
    "AdvancedMultiHeadAttention",
    "AdvancedPositionalEncoding",
    "AdvancedTransformerModel",
    "LoRALayer",
    "LoRALinear",
    "ModelConfig",
    "P_TuningLayer",
    "apply_lora",
]
