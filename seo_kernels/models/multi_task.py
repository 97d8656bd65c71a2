"""One encoder, a head for each task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from seo_kernels.models.model import Model
from seo_kernels.models.task_configs import check_task_configs
from seo_kernels.models.transformer import CustomTransformer
from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.pooling import MeanPooling
from seo_kernels.nn.sequences import bool_mask, check_tensor, present_positions
from seo_kernels.nn.sizes import check_choice

TASK_TYPES = ("classification", "regression", "sequence")
KEYS = ("num_classes", "type")


class MultiTaskModel(Model):
    """A transformer that all tasks share, and a linear head for each.

    Args:
        vocab_size, d_model, n_layers, n_heads, d_ff, max_len, activation, use_relative_pos, attention_type,
            max_relative_position: as for ``CustomTransformer``.
        task_configs: for each task ``num_classes`` and ``type``: "classification" and "regression" read the
            mean over the sequence, "sequence" every position.
        dropout: everywhere, in [0, 1).

    Raises:
        TypeError, ValueError: a size, probability, name or task that is none.

    >>> import torch
    >>> tasks = {"topic": {"num_classes": 5, "type": "classification"}}
    >>> model = MultiTaskModel(50, 16, n_layers=1, n_heads=2, task_configs=tasks)
    >>> model(torch.randint(50, (4, 9)), "topic").shape
    torch.Size([4, 5])
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 384,
        n_layers: int = 3,
        n_heads: int = 6,
        d_ff: int | None = None,
        *,
        task_configs: Mapping[str, Mapping[str, Any]],
        dropout: float = 0.1,
        max_len: int = 5000,
        activation: str = "gelu",
        use_relative_pos: bool = True,
        attention_type: str | None = None,
        max_relative_position: int = 32,
    ) -> None:
        super().__init__()
        self.task_types = _task_types(task_configs)
        self.encoder = CustomTransformer(
            vocab_size,
            d_model,
            n_layers,
            n_heads,
            d_ff,
            max_len,
            dropout,
            activation,
            use_relative_pos,
            attention_type,
            max_relative_position,
        )
        self.pool = MeanPooling()
        self.dropout = Dropout(dropout)
        self.heads = nn.ModuleDict(
            {name: Linear(d_model, task["num_classes"]) for name, task in task_configs.items()}
        )

    def forward(self, x: Tensor, task_name: str, mask: Tensor | None = None) -> Tensor:
        """Ids (B, S) -> (B, num_classes) of this task, or (B, S, num_classes) where its type is "sequence".

        Args:
            mask: as for ``CustomTransformer``. In one of pairs (B, S, S), what no query sees is padding.

        Raises:
            TypeError, ValueError: an argument that does not fit, or a task that is not configured.
        """
        check_choice("task_name", task_name, tuple(self.task_types))
        check_tensor("x", x, "a tensor of token ids (batch, length)")
        present = None
        if mask is not None:
            mask = bool_mask(mask, x.size(0), x.size(1), x.size(1))
            present = present_positions(mask)
        hidden = self.encoder(x, mask)
        if self.task_types[task_name] != "sequence":
            hidden = self.pool(hidden, present)
        elif present is not None:
            hidden = hidden.masked_fill(present.logical_not()[:, :, None], 0.0)
        return self.heads[task_name](self.dropout(hidden))


def _task_types(task_configs: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The type of each task, all of whose keys are checked."""
    check_task_configs(task_configs, KEYS)
    return {
        name: check_choice(f"task_configs[{name!r}]['type']", task["type"], TASK_TYPES)
        for name, task in task_configs.items()
    }
