"""Who attends to whom: attention patterns as values, composed with ``&`` and ``|``."""

from seo_kernels.patterns.base import Intersection, Pattern, Union
from seo_kernels.patterns.blocks import BlockSparse
from seo_kernels.patterns.positions import Causal, Dense, Dilated, GlobalTokens, Local, Strided
from seo_kernels.patterns.recipes import bigbird, longformer
from seo_kernels.patterns.text import decode

__all__ = [
    "BlockSparse",
    "Causal",
    "Dense",
    "Dilated",
    "GlobalTokens",
    "Intersection",
    "Local",
    "Pattern",
    "Strided",
    "Union",
    "bigbird",
    "decode",
    "longformer",
]
