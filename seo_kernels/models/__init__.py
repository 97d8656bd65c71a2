"""Documented models of text and images, on the layers of ``seo_kernels.nn``."""

from seo_kernels.models.advanced_config import ModelConfig
from seo_kernels.models.advanced_transformer import AdvancedTransformerModel
from seo_kernels.models.convolutional import CNNFeatureExtractor, CustomCNNModel, DeepResidualCNN
from seo_kernels.models.factory import MODEL_CONFIGS, ModelFactory
from seo_kernels.models.hierarchical import HierarchicalAttentionNetwork
from seo_kernels.models.hybrid import CNNLSTMHybrid, TransformerCNN
from seo_kernels.models.model import Model
from seo_kernels.models.multi_task import MultiTaskModel
from seo_kernels.models.recurrent import CustomRNNModel, LSTMWithAttention
from seo_kernels.models.transformer import (
    CustomTransformer,
    CustomTransformerModel,
    MultiHeadAttentionWithRelativePosition,
    TransformerBlock,
)

__all__ = [
    "MODEL_CONFIGS",
    "AdvancedTransformerModel",
    "CNNFeatureExtractor",
    "CNNLSTMHybrid",
    "CustomCNNModel",
    "CustomRNNModel",
    "CustomTransformer",
    "CustomTransformerModel",
    "DeepResidualCNN",
    "HierarchicalAttentionNetwork",
    "LSTMWithAttention",
    "Model",
    "ModelConfig",
    "ModelFactory",
    "MultiHeadAttentionWithRelativePosition",
    "MultiTaskModel",
    "TransformerBlock",
    "TransformerCNN",
]
