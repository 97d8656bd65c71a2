"""Hooks that stay with the model they were registered on: its copies get ones that do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Hook:
    """Calls a function; copied or pickled along with a model it becomes one that does nothing.

    Otherwise the copy of a model, for averaged weights say, would report to the watcher of the original.

    >>> import copy
    >>> copy.deepcopy(Hook(print))("a module", "its output")
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Callable[[], Callable[..., None]], tuple[()]]:
        return _inert, ()


def _inert() -> Callable[..., None]:
    return _do_nothing


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    """What is left of a hook in a copy."""
