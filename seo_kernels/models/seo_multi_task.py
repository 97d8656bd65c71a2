"""Text in, the outputs of several tasks out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from seo_kernels.models.seo_config import CustomModelConfig
from seo_kernels.models.seo_model import PooledHead, SEOModel
from seo_kernels.models.task_configs import check_task_configs
from seo_kernels.models.task_losses import LOSS_TYPES, check_loss_type, task_loss
from seo_kernels.nn.pooling import POOLINGS
from seo_kernels.nn.sequences import check_tensor
from seo_kernels.nn.sizes import check_choice, check_flag
from seo_kernels.ops.checks import kind

NEEDED_KEYS = ("num_classes", "loss_type")
OPTIONAL_KEYS = ("pooling_strategy", "use_attention_pooling")


class CustomMultiTaskSEOModel(SEOModel):
    """A transformer encoder that all tasks share, and pooling and a linear layer for each.

    Args:
        config: of the encoder; its num_classes is not used here.
        task_configs: for each task ``num_classes`` (outputs) and ``loss_type`` ("cross_entropy", "focal",
            "binary_cross_entropy" or "huber", see ``compute_multi_task_loss``), and where wanted
            ``pooling_strategy`` (by default that of config) and ``use_attention_pooling`` (True: an
            attention-pooled vector is joined to the other; by default False).

    Raises:
        TypeError, ValueError: config is another object, or a task's configuration is none.

    >>> import torch
    >>> tasks = {
    ...     "topic": {"num_classes": 5, "loss_type": "cross_entropy"},
    ...     "relevance": {"num_classes": 1, "loss_type": "binary_cross_entropy"},
    ... }
    >>> config = CustomModelConfig(hidden_size=16, num_layers=1, num_heads=2, vocab_size=100)
    >>> model = CustomMultiTaskSEOModel(config, tasks)
    >>> outputs = model(torch.randint(100, (8, 12)), torch.ones(8, 12))
    >>> outputs["topic"].shape, outputs["relevance"].shape
    (torch.Size([8, 5]), torch.Size([8, 1]))
    >>> targets = {"topic": torch.randint(5, (8,)), "relevance": torch.randint(2, (8,))}
    >>> model.compute_multi_task_loss(outputs, targets).shape
    torch.Size([])
    """

    def __init__(self, config: CustomModelConfig, task_configs: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(config)
        _check_tasks(task_configs)
        self.tasks = {name: (task["loss_type"], task["num_classes"]) for name, task in task_configs.items()}
        self.heads = nn.ModuleDict(
            {
                name: PooledHead(
                    config.hidden_size,
                    task["num_classes"],
                    task.get("pooling_strategy", config.pooling_strategy),
                    task.get("use_attention_pooling", False),
                    config.dropout_rate,
                )
                for name, task in task_configs.items()
            }
        )
        self._start()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """Ids (B, S) -> for each task (B, its num_classes).

        Args:
            input_ids: (B, S), or embeddings (B, S, hidden_size) in their place.
            attention_mask: (B, S) for padding or (B, S, S) for pairs of query and key, of any dtype, 1
                attends, 0 hides. A row of padding only gives finite outputs.

        Raises:
            TypeError, ValueError: an argument that does not fit: see ``encode``.
        """
        hidden, present = self.encode(input_ids, attention_mask)
        return {name: head(hidden, present) for name, head in self.heads.items()}

    def compute_multi_task_loss(self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor:
        """The sum of the tasks' mean losses, a scalar.

        Args:
            outputs: as the model returns them.
            targets: for each task, by its loss_type. "cross_entropy", "focal" (gamma 2): class ids (B,) or
                (B, 1), -100 where there is no label. "binary_cross_entropy": 0, 1 or between, of any dtype,
                (B, num_classes), or (B,) for one class. "huber": numbers, of the same shapes.

        Raises:
            TypeError: no mapping of tensors, or a target of another kind.
            ValueError: a task that is missing or not configured, a wrong shape, a value out of range.
        """
        for argument, given in (("outputs", outputs), ("targets", targets)):
            _check_names(argument, given, list(self.tasks))
        losses = []
        for name, (loss_type, width) in self.tasks.items():
            output = outputs[name]
            check_tensor(f"outputs[{name!r}]", output, f"(batch, {width})")
            if output.dim() != 2 or output.size(1) != width:
                raise ValueError(
                    f"outputs[{name!r}] has shape {tuple(output.shape)}, expected (batch, {width})"
                )
            losses.append(task_loss(loss_type, output, targets[name], f"targets[{name!r}]"))
        return sum(losses[1:], losses[0])


def create_multi_task_model(
    config: CustomModelConfig, task_configs: Mapping[str, Mapping[str, Any]]
) -> CustomMultiTaskSEOModel:
    """``CustomMultiTaskSEOModel(config, task_configs)``."""
    return CustomMultiTaskSEOModel(config, task_configs)


def _check_tasks(task_configs: Mapping[str, Mapping[str, Any]]) -> None:
    check_task_configs(task_configs, NEEDED_KEYS, OPTIONAL_KEYS)
    for name, task in task_configs.items():
        where = f"task_configs[{name!r}]"
        check_choice(f"{where}['loss_type']", task["loss_type"], LOSS_TYPES)
        check_loss_type(f"{where}['num_classes']", task["loss_type"], task["num_classes"])
        if "pooling_strategy" in task:
            check_choice(f"{where}['pooling_strategy']", task["pooling_strategy"], POOLINGS)
        check_flag(f"{where}['use_attention_pooling']", task.get("use_attention_pooling", False))


def _check_names(argument: str, given: Mapping[str, Tensor], tasks: list[str]) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{argument} is {kind(given)}, expected one tensor for each of {', '.join(tasks)}")
    missing = [name for name in tasks if name not in given]
    unknown = [str(name) for name in given if name not in tasks]
    for names, problem in ((missing, "lacks"), (unknown, "has")):
        if names:
            raise ValueError(
                f"{argument} {problem} {', '.join(names)}, expected the tasks {', '.join(tasks)}"
            )
