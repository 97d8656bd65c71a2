"""Every op once more in plain torch, written independently of the kernels: oracle, fallback, double
backward."""

from seo_kernels.reference.attention import attention
from seo_kernels.reference.linear import linear, lora_linear

__all__ = ["attention", "linear", "lora_linear"]
