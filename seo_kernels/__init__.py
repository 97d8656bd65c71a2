"""Fused attention for PyTorch with local, sparse and relative patterns, differentiable to any order.

>>> import torch, seo_kernels as sk
>>> query = key = value = torch.randn(1, 2, 100, 16)
>>> sk.attention(query, key, value, pattern=sk.Local(8) & sk.Causal()).shape
torch.Size([1, 2, 100, 16])
"""

__version__ = "0.1.0"

from seo_kernels import lora, nn, reference
from seo_kernels._library import info
from seo_kernels.ops.attention import attention
from seo_kernels.ops.explain import explain
from seo_kernels.ops.linear import linear
from seo_kernels.ops.lora_linear import lora_linear
from seo_kernels.patterns import (
    BlockSparse,
    Causal,
    Dense,
    Dilated,
    GlobalTokens,
    Local,
    Pattern,
    Strided,
    bigbird,
    longformer,
)
from seo_kernels.relative import RelativePosition

__all__ = [
    "BlockSparse",
    "Causal",
    "Dense",
    "Dilated",
    "GlobalTokens",
    "Local",
    "Pattern",
    "RelativePosition",
    "Strided",
    "__version__",
    "attention",
    "bigbird",
    "explain",
    "info",
    "linear",
    "longformer",
    "lora",
    "lora_linear",
    "nn",
    "reference",
]
