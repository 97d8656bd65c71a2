"""The configurations of tasks that share an encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from seo_kernels.nn.sizes import check_size


def check_task_configs(
    task_configs: Mapping[str, Mapping[str, Any]], needed: Sequence[str], optional: Sequence[str] = ()
) -> None:
    """Raise unless each task has a name that modules can have, its keys, and a number of classes.

    Args:
        needed: the keys of a task, ``num_classes`` first.
        optional: keys that a task may have.

    Raises:
        TypeError, ValueError: it names the task.
    """
    if not isinstance(task_configs, Mapping) or not task_configs:
        shown = ", ".join(['"num_classes": 3', *(f'"{key}": ...' for key in needed[1:])])
        raise ValueError(f'task_configs is {task_configs!r}, expected {{"task": {{{shown}}}, ...}}')
    for name, task in task_configs.items():
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"task_configs has the task {name!r}, expected a name without dots")
        keys = list(task) if isinstance(task, Mapping) else []
        if not set(needed) <= set(keys) <= {*needed, *optional}:
            wanted = f", and where wanted {', '.join(optional)}" if optional else ""
            raise ValueError(
                f"task_configs[{name!r}] has {keys if isinstance(task, Mapping) else task!r}, "
                f"expected the keys {', '.join(needed)}{wanted}"
            )
        check_size(f"task_configs[{name!r}]['num_classes']", task["num_classes"])
