"""Every documented model, tiny, with inputs; and with padding, where it takes a mask or lengths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seo_kernels.models import (
    AdvancedTransformerModel,
    CNNFeatureExtractor,
    CNNLSTMHybrid,
    CustomCNNModel,
    CustomModelConfig,
    CustomMultiTaskSEOModel,
    CustomRNNModel,
    CustomSEOModel,
    CustomTransformer,
    CustomTransformerModel,
    DeepResidualCNN,
    HierarchicalAttentionNetwork,
    LSTMWithAttention,
    Model,
    ModelConfig,
    MultiTaskModel,
    TransformerCNN,
)

VOCABULARY, WIDTH, BATCH, LENGTH = 50, 16, 3, 9
LENGTHS = torch.tensor([5, LENGTH, 0])
MASK = (torch.arange(LENGTH) < LENGTHS[:, None]).float()
PAIRS = (MASK[:, None] * MASK[:, :, None]).long()
SENTENCES = torch.stack([MASK[:2].flip(1), MASK[:2], MASK[1:]])  # (3, 2, 9): padding in front as well
TASKS = {
    "topic": {"num_classes": 5, "type": "classification"},
    "quality": {"num_classes": 1, "type": "regression"},
    "tags": {"num_classes": 7, "type": "sequence"},
}


def ids(*shape: int) -> Tensor:
    return torch.randint(VOCABULARY, shape or (BATCH, LENGTH))


def embeddings() -> Tensor:
    return torch.randn(BATCH, LENGTH, WIDTH)


class LanguageModel(AdvancedTransformerModel):
    """The logits alone, one tensor."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        return super().forward(input_ids, attention_mask)["logits"]


class JoinedTasks(CustomMultiTaskSEOModel):
    """The tasks' outputs side by side, one tensor."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        return torch.cat(list(super().forward(input_ids, attention_mask).values()), 1)


@dataclass(frozen=True)
class Small:
    make: Callable[..., Model]
    inputs: Callable[[], tuple[Any, ...]]
    shape: tuple[int, ...]
    padding: tuple[Any, ...] = ()  # each can be given behind the inputs
    present: Tensor = MASK  # where, in the first input, there is something by that padding


def transformer(**options: Any) -> dict[str, Any]:
    return {"vocab_size": VOCABULARY, "d_model": WIDTH, "n_layers": 2, "n_heads": 2, "d_ff": 20, **options}


def language_model(**options: Any) -> Model:
    return LanguageModel(ModelConfig(**transformer(max_seq_len=12, max_relative_position=3, **options)))


def seo_config(dropout: float = 0.1, **options: Any) -> CustomModelConfig:
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_layers": 2,
        "num_heads": 2,
        "max_length": 12,
    }
    return CustomModelConfig(dropout_rate=dropout, **{**sizes, **options})


BARE = {"use_layer_norm": False, "use_residual_connections": False, "activation_function": "swish"}
SEO_TASKS = {
    "topic": {"num_classes": 5, "loss_type": "cross_entropy"},
    "rare": {"num_classes": 4, "loss_type": "focal", "pooling_strategy": "max"},
    "tags": {
        "num_classes": 3,
        "loss_type": "binary_cross_entropy",
        "pooling_strategy": "cls",
        "use_attention_pooling": True,
    },
    "relevance": {"num_classes": 1, "loss_type": "binary_cross_entropy", "pooling_strategy": "attention"},
    "quality": {"num_classes": 1, "loss_type": "huber", "use_attention_pooling": False},
}
SMALL = {
    "CustomTransformer": Small(
        lambda **o: CustomTransformer(**transformer(max_relative_position=3, **o)),
        lambda: (ids(),),
        (BATCH, LENGTH, WIDTH),
        (MASK,),
    ),
    "CustomTransformer, local": Small(
        lambda **o: CustomTransformer(**transformer(attention_type="local", max_relative_position=2, **o)),
        lambda: (ids(),),
        (BATCH, LENGTH, WIDTH),
        (MASK.bool(),),
    ),
    "CNNFeatureExtractor": Small(
        lambda **o: CNNFeatureExtractor(WIDTH, [4, 5], [3, 4], **o),
        lambda: (embeddings(),),
        (BATCH, 10),
        (MASK, MASK.bool()),
    ),
    "LSTMWithAttention": Small(
        lambda **o: LSTMWithAttention(WIDTH, 6, **o), lambda: (embeddings(),), (BATCH, LENGTH, 12), (LENGTHS,)
    ),
    "CNNLSTMHybrid": Small(
        lambda **o: CNNLSTMHybrid(VOCABULARY, WIDTH, [4, 5], [3, 4], 6, 3, attention_type="concat", **o),
        lambda: (ids(),),
        (BATCH, 3),
        (LENGTHS,),
    ),
    "TransformerCNN": Small(
        lambda **o: TransformerCNN(
            **transformer(cnn_hidden_dims=[4, 5], cnn_kernel_sizes=[3, 4], num_classes=4, **o)
        ),
        lambda: (ids(),),
        (BATCH, 4),
        (MASK, PAIRS),
    ),
    "MultiTaskModel": Small(
        lambda **o: MultiTaskModel(**transformer(task_configs={"topic": TASKS["topic"]}, **o)),
        lambda: (ids(), "topic"),
        (BATCH, 5),
        (MASK, PAIRS),
    ),
    "MultiTaskModel, sequence": Small(
        lambda **o: MultiTaskModel(**transformer(task_configs={"tags": TASKS["tags"]}, **o)),
        lambda: (ids(), "tags"),
        (BATCH, LENGTH, 7),
        (MASK, PAIRS),
    ),
    "HierarchicalAttentionNetwork": Small(
        lambda **o: HierarchicalAttentionNetwork(VOCABULARY, WIDTH, 6, 4, num_sentences=2, **o),
        lambda: (ids(BATCH, 2, LENGTH),),
        (BATCH, 4),
        (SENTENCES,),
        SENTENCES,
    ),
    "CustomSEOModel": Small(
        lambda **o: CustomSEOModel(seo_config(**o)), lambda: (ids(),), (BATCH, 3), (MASK, MASK.long(), PAIRS)
    ),
    "CustomMultiTaskSEOModel": Small(
        lambda **o: JoinedTasks(seo_config(**BARE, **o), SEO_TASKS),
        lambda: (ids(),),
        (BATCH, 14),
        (MASK, PAIRS),
    ),
    "DeepResidualCNN": Small(
        lambda **o: DeepResidualCNN(WIDTH, [4, 6], 3, num_residual_blocks=1, **o),
        lambda: (embeddings(),),
        (BATCH, 3),
        (MASK.long(),),
    ),
    "CustomTransformerModel": Small(
        lambda **o: CustomTransformerModel(VOCABULARY, WIDTH, n_heads=2, **o),
        lambda: (ids(),),
        (BATCH, LENGTH, VOCABULARY),
        (MASK,),
    ),
    "AdvancedTransformerModel": Small(
        language_model, lambda: (ids(),), (BATCH, LENGTH, VOCABULARY), (MASK, PAIRS)
    ),
    "AdvancedTransformerModel, rope": Small(
        lambda **o: language_model(use_rope=True, attention_type="sparse", activation="relu", **o),
        lambda: (ids(),),
        (BATCH, LENGTH, VOCABULARY),
        (MASK.bool(),),
    ),
    "CustomCNNModel": Small(
        lambda **o: CustomCNNModel(3, 4, [5, 6], **o), lambda: (torch.randn(BATCH, 3, 11, 8),), (BATCH, 4)
    ),
    "CustomRNNModel": Small(
        lambda **o: CustomRNNModel(WIDTH, 6, num_layers=2), lambda: (embeddings(),), (BATCH, LENGTH, 6)
    ),
}
PADDED = [(name, i) for name, small in SMALL.items() for i in range(len(small.padding))]
