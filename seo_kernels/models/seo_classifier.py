"""Text in, the logits of one classification out."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from seo_kernels.models.seo_config import CustomModelConfig
from seo_kernels.models.seo_model import PooledHead, SEOModel
from seo_kernels.models.task_losses import task_loss

BATCH_KEYS = ("input_ids", "attention_mask", "labels")


class CustomSEOModel(SEOModel):
    """A transformer encoder, pooling, and a linear classifier.

    Args:
        config: sizes, dropout, pooling, initialisation.

    Raises:
        TypeError: config is another object.

    >>> import torch
    >>> config = CustomModelConfig(hidden_size=16, num_layers=1, num_heads=2, vocab_size=100)
    >>> model = CustomSEOModel(config)
    >>> ids, mask = torch.randint(100, (8, 12)), torch.ones(8, 12)
    >>> model(ids, mask).shape
    torch.Size([8, 3])
    >>> loss = model({"input_ids": ids, "attention_mask": mask, "labels": torch.randint(3, (8,))})
    >>> gradients = model.compute_gradients(loss)
    >>> model.apply_gradients(gradients, torch.optim.AdamW(model.parameters()))
    """

    def __init__(self, config: CustomModelConfig) -> None:
        super().__init__(config)
        self.head = PooledHead(
            config.hidden_size, config.num_classes, config.pooling_strategy, False, config.dropout_rate
        )
        self._start()

    def forward(
        self, input_ids: Tensor | Mapping[str, Tensor], attention_mask: Tensor | None = None
    ) -> Tensor:
        """Ids (B, S) -> logits (B, num_classes); a batch with labels -> the mean loss, a scalar.

        Args:
            input_ids: (B, S), or embeddings (B, S, hidden_size) in their place. Or a whole batch: a mapping
                of ``input_ids`` and, where there are any, ``attention_mask`` and ``labels``: class ids (B,),
                -100 for none, whose cross entropy is the loss; for num_classes=1 numbers from 0 to 1, and
                the loss is binary cross entropy.
            attention_mask: (B, S) for padding or (B, S, S) for pairs of query and key, of any dtype, 1
                attends, 0 hides. A row of padding only gives finite logits.

        Raises:
            TypeError: an argument of another kind or dtype.
            ValueError: a wrong shape, key or value: see ``encode``.
        """
        if not isinstance(input_ids, Mapping):
            return self._logits(input_ids, attention_mask)
        if attention_mask is not None:
            raise ValueError("attention_mask is given beside a batch, expected it in the batch")
        unknown = [str(key) for key in input_ids if key not in BATCH_KEYS]
        if unknown or "input_ids" not in input_ids:
            raise ValueError(
                f"the batch has the keys {', '.join(map(str, input_ids))}, expected input_ids and, where "
                "there are any, attention_mask and labels"
            )
        logits = self._logits(input_ids["input_ids"], input_ids.get("attention_mask"))
        labels = input_ids.get("labels")
        if labels is None:
            return logits
        loss_type = "cross_entropy" if self.config.num_classes > 1 else "binary_cross_entropy"
        return task_loss(loss_type, logits, labels, "labels")

    def _logits(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        return self.head(*self.encode(input_ids, attention_mask))


def create_custom_model(config: CustomModelConfig) -> CustomSEOModel:
    """``CustomSEOModel(config)``."""
    return CustomSEOModel(config)
