"""Every op once more in plain torch, written independently of the kernels: oracle, fallback, double
backward."""

from seo_kernels.reference.activation import bias_act, gated_act
from seo_kernels.reference.attention import attention
from seo_kernels.reference.dropout import dropout
from seo_kernels.reference.linear import linear, lora_linear
from seo_kernels.reference.losses import cross_entropy, focal_loss, huber_loss, linear_cross_entropy

__all__ = [
    "attention",
    "bias_act",
    "cross_entropy",
    "dropout",
    "focal_loss",
    "gated_act",
    "huber_loss",
    "linear",
    "linear_cross_entropy",
    "lora_linear",
]
