"""Layers that take the place of torch's: subclasses, with the same arguments, meaning and state_dict keys."""

from seo_kernels.nn.attention import MultiheadAttention
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.lora import LoRALinear
from seo_kernels.nn.relative import RelativePositionTables

__all__ = ["Linear", "LoRALinear", "MultiheadAttention", "RelativePositionTables"]
