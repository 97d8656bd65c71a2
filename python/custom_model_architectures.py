"""Documented model architectures, by their documented import name. The work is in ``seo_kernels``."""

from seo_kernels.models import (
    MODEL_CONFIGS,
    CNNFeatureExtractor,
    CNNLSTMHybrid,
    CustomCNNModel,
    CustomRNNModel,
    CustomTransformer,
    CustomTransformerModel,
    DeepResidualCNN,
    HierarchicalAttentionNetwork,
    LSTMWithAttention,
    ModelFactory,
    MultiHeadAttentionWithRelativePosition,
    MultiTaskModel,
    TransformerBlock,
    TransformerCNN,
)
from seo_kernels.nn.convolution import Conv1DBlock, ResidualBlock
from seo_kernels.nn.positional_encoding import PositionalEncoding
from seo_kernels.nn.sequence_attention import ConcatAttention, DotProductAttention, GeneralAttention

__all__ = [
    "MODEL_CONFIGS",
    "CNNFeatureExtractor",
    "CNNLSTMHybrid",
    "ConcatAttention",
    "Conv1DBlock",
    "CustomCNNModel",
    "CustomRNNModel",
    "CustomTransformer",
    "CustomTransformerModel",
    "DeepResidualCNN",
    "DotProductAttention",
    "GeneralAttention",
    "HierarchicalAttentionNetwork",
    "LSTMWithAttention",
    "ModelFactory",
    "MultiHeadAttentionWithRelativePosition",
    "MultiTaskModel",
    "PositionalEncoding",
    "ResidualBlock",
    "TransformerBlock",
    "TransformerCNN",
]
