"""Layers that take the place of torch's: subclasses, with the same arguments, meaning and state_dict keys."""

from seo_kernels.nn.activation import (
    GEGLU,
    GELU,
    LeakyReLU,
    Mish,
    ReGLU,
    ReLU,
    ReLUSquared,
    Sigmoid,
    SiLU,
    SwiGLU,
    Tanh,
)
from seo_kernels.nn.attention import MultiheadAttention
from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.lora import LoRALinear
from seo_kernels.nn.losses import CrossEntropyLoss, FocalLoss, HuberLoss, LinearCrossEntropyLoss
from seo_kernels.nn.relative import RelativePositionTables

__all__ = [
    "GEGLU",
    "GELU",
    "CrossEntropyLoss",
    "Dropout",
    "FocalLoss",
    "HuberLoss",
    "LeakyReLU",
    "Linear",
    "LinearCrossEntropyLoss",
    "LoRALinear",
    "Mish",
    "MultiheadAttention",
    "ReGLU",
    "ReLU",
    "ReLUSquared",
    "RelativePositionTables",
    "SiLU",
    "Sigmoid",
    "SwiGLU",
    "Tanh",
]
