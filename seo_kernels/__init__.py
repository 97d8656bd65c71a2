"""Fused attention, linear layers with LoRA, activations and losses for PyTorch, differentiable to any order.

>>> import torch, seo_kernels as sk
>>> query = key = value = torch.randn(1, 2, 100, 16)
>>> sk.attention(query, key, value, pattern=sk.Local(8) & sk.Causal()).shape
torch.Size([1, 2, 100, 16])
"""

__version__ = "0.1.0"

import importlib
from typing import Any

from seo_kernels import lora, nn, reference
from seo_kernels._library import info
from seo_kernels.ops.activation import bias_act, gated_act
from seo_kernels.ops.attention import attention
from seo_kernels.ops.dropout import dropout
from seo_kernels.ops.explain import explain
from seo_kernels.ops.linear import linear
from seo_kernels.ops.linear_cross_entropy import linear_cross_entropy
from seo_kernels.ops.lora_linear import lora_linear
from seo_kernels.ops.losses import cross_entropy, focal_loss, huber_loss
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
    "bias_act",
    "bigbird",
    "cross_entropy",
    "dropout",
    "explain",
    "focal_loss",
    "gated_act",
    "huber_loss",
    "info",
    "linear",
    "linear_cross_entropy",
    "longformer",
    "lora",
    "lora_linear",
    "nn",
    "reference",
]

# what stands above the ops: imported when it is first asked for
_LATER = ("diagnostics", "examples", "models", "training")


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
