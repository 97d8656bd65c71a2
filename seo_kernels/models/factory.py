"""Models by name and configuration."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from seo_kernels.models.convolutional import CNNFeatureExtractor, CustomCNNModel, DeepResidualCNN
from seo_kernels.models.hierarchical import HierarchicalAttentionNetwork
from seo_kernels.models.hybrid import CNNLSTMHybrid, TransformerCNN
from seo_kernels.models.model import Model
from seo_kernels.models.multi_task import MultiTaskModel
from seo_kernels.models.recurrent import CustomRNNModel, LSTMWithAttention
from seo_kernels.models.transformer import CustomTransformer, CustomTransformerModel
from seo_kernels.nn.sizes import check_choice

MODELS: dict[str, type[Model]] = {
    "transformer": CustomTransformer,
    "cnn_feature_extractor": CNNFeatureExtractor,
    "lstm_with_attention": LSTMWithAttention,
    "cnn_lstm_hybrid": CNNLSTMHybrid,
    "transformer_cnn": TransformerCNN,
    "multi_task": MultiTaskModel,
    "hierarchical_attention": HierarchicalAttentionNetwork,
    "deep_residual_cnn": DeepResidualCNN,
    "custom_transformer_model": CustomTransformerModel,
    "custom_cnn_model": CustomCNNModel,
    "custom_rnn_model": CustomRNNModel,
}

# as in the documentation of each
MODEL_CONFIGS: dict[str, dict[str, Any]] = {
    "transformer": {
        "vocab_size": 30000,
        "d_model": 512,
        "n_layers": 6,
        "n_heads": 8,
        "d_ff": 2048,
        "max_len": 5000,
        "dropout": 0.1,
        "activation": "gelu",
        "use_relative_pos": True,
    },
    "cnn_feature_extractor": {
        "input_dim": 300,
        "hidden_dims": [128, 256, 512],
        "kernel_sizes": [3, 4, 5],
        "dropout": 0.1,
        "activation": "relu",
        "pool_type": "max",
    },
    "lstm_with_attention": {
        "input_size": 256,
        "hidden_size": 128,
        "num_layers": 2,
        "bidirectional": True,
        "dropout": 0.1,
        "attention_type": "dot",
    },
    "cnn_lstm_hybrid": {
        "vocab_size": 15000,
        "embed_dim": 300,
        "hidden_dims": [128, 256, 512],
        "kernel_sizes": [3, 4, 5],
        "lstm_hidden_size": 256,
        "num_classes": 3,
        "dropout": 0.2,
        "bidirectional": True,
    },
    "transformer_cnn": {
        "vocab_size": 20000,
        "d_model": 256,
        "n_layers": 4,
        "n_heads": 8,
        "d_ff": 1024,
        "cnn_hidden_dims": [128, 256, 512],
        "cnn_kernel_sizes": [3, 4, 5],
        "num_classes": 10,
        "dropout": 0.15,
    },
    "multi_task": {
        "vocab_size": 12000,
        "d_model": 384,
        "n_layers": 3,
        "n_heads": 6,
        "d_ff": 1536,
        "task_configs": {
            "sentiment": {"num_classes": 3, "type": "classification"},
            "topic": {"num_classes": 5, "type": "classification"},
            "readability": {"num_classes": 1, "type": "regression"},
            "quality": {"num_classes": 1, "type": "regression"},
        },
        "dropout": 0.1,
    },
    "hierarchical_attention": {
        "vocab_size": 8000,
        "embed_dim": 200,
        "hidden_size": 128,
        "num_classes": 4,
        "num_sentences": 25,
        "dropout": 0.2,
    },
    "deep_residual_cnn": {
        "input_dim": 300,
        "hidden_dims": [64, 128, 256, 512],
        "num_classes": 6,
        "num_residual_blocks": 3,
        "dropout": 0.15,
    },
    "custom_transformer_model": {"vocab_size": 1000, "d_model": 128},
    "custom_cnn_model": {"input_channels": 3, "num_classes": 10},
    "custom_rnn_model": {"input_size": 100, "hidden_size": 128},
}


class ModelFactory:
    """Makes the models of ``MODEL_CONFIGS``."""

    @staticmethod
    def create_model(model_type: str, config: Mapping[str, Any]) -> Model:
        """The model of this name, constructed with the keys of config.

        Raises:
            TypeError: config is no mapping.
            ValueError: the name is unknown, config has a key that the model does not know or lacks one
                that it needs, or a value does not fit.

        >>> ModelFactory.create_model("custom_rnn_model", {"input_size": 4, "hidden_size": 8}).arguments
        {'input_size': 4, 'hidden_size': 8}
        """
        model = MODELS[check_choice("model_type", model_type, tuple(MODELS))]
        if not isinstance(config, Mapping):
            raise TypeError(f"config is a {type(config).__name__}, expected a dict such as MODEL_CONFIGS has")
        parameters = inspect.signature(model).parameters
        expected = f"expected keys out of {', '.join(parameters)}"
        unknown = [str(key) for key in config if key not in parameters]
        if unknown:
            raise ValueError(f"config of {model_type!r} has {', '.join(unknown)}, {expected}")
        needed = [name for name, p in parameters.items() if p.default is p.empty and name not in config]
        if needed:
            raise ValueError(f"config of {model_type!r} lacks {', '.join(needed)}, {expected}")
        return model(**config)
