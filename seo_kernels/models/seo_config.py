"""What the classifiers of document 000 are configured with."""

from __future__ import annotations

from dataclasses import dataclass

from seo_kernels.nn.initialization import INITIALIZATIONS
from seo_kernels.nn.pooling import POOLINGS
from seo_kernels.nn.sizes import check_choice, check_flag, check_heads, check_probability, check_size
from seo_kernels.ops.checks import activation_name, kind


@dataclass(frozen=True)
class CustomModelConfig:
    """Configuration of ``CustomSEOModel`` and ``CustomMultiTaskSEOModel``; made once, not changed.

    Args:
        model_name: a name of the user's, saved with the model.
        num_classes: of ``CustomSEOModel``; the tasks of ``CustomMultiTaskSEOModel`` have their own.
        hidden_size, num_layers, num_heads: of the encoder; the feed-forward networks are four times as wide.
        dropout_rate: everywhere, in [0, 1).
        max_length: the longest sequence.
        use_layer_norm: False leaves all layer normalisation out.
        use_residual_connections: False takes what attention and feed-forward network give in place of the
            sums with their inputs.
        activation_function: a name that ``sk.linear`` knows, such as "gelu", "relu" or "swish".
        initialization_method: "xavier", "kaiming" or "normal", as ``initialize`` has them.
        gradient_checkpointing: while training, keep the inputs of the layers only and compute the rest again
            in backward.
        vocab_size: ids are below it.
        pooling_strategy: from the sequence to one vector: "mean", "max", "attention" (learned weights), or
            "cls", the first token that is no padding: put a token of its own there, as BERT's tokenizers do.

    Raises:
        TypeError, ValueError: a value that is none of these.

    >>> CustomModelConfig(hidden_size=256, num_heads=8, num_classes=5).dropout_rate
    0.1
    """

    model_name: str = "custom_seo_model"
    num_classes: int = 3
    hidden_size: int = 768
    num_layers: int = 6
    num_heads: int = 12
    dropout_rate: float = 0.1
    max_length: int = 512
    use_layer_norm: bool = True
    use_residual_connections: bool = True
    activation_function: str = "gelu"
    initialization_method: str = "xavier"
    gradient_checkpointing: bool = False
    vocab_size: int = 50257
    pooling_strategy: str = "mean"

    def __post_init__(self) -> None:
        if not isinstance(self.model_name, str):
            raise TypeError(f"model_name is {kind(self.model_name)}, expected a str")
        check_heads("hidden_size", self.hidden_size, "num_heads", self.num_heads)
        for size in ("num_classes", "num_layers", "max_length", "vocab_size"):
            check_size(size, getattr(self, size))
        check_probability("dropout_rate", self.dropout_rate)
        for flag in ("use_layer_norm", "use_residual_connections", "gradient_checkpointing"):
            check_flag(flag, getattr(self, flag))
        activation_name(self.activation_function, "activation_function")
        check_choice("initialization_method", self.initialization_method, INITIALIZATIONS)
        check_choice("pooling_strategy", self.pooling_strategy, POOLINGS)
