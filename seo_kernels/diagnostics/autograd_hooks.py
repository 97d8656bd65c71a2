"""Watches what chosen modules give, and the gradients that come back to them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from seo_kernels.diagnostics.gradient_norms import unwrapped
from seo_kernels.diagnostics.gradient_statistics import (
    PendingStatistics,
    TensorStatistics,
    pending_statistics,
    settled,
)
from seo_kernels.diagnostics.inert_hooks import Hook
from seo_kernels.nn.sizes import check_size
from seo_kernels.ops.checks import kind

NO_PASS = -1
Rows = dict[str, deque[PendingStatistics]]


class AutogradHooks:
    """Norm, mean, deviation and share of zeros of activations and of their gradients, module by module.

    An activation is the output of a module, its gradient that of the loss by it. Of an output with several
    tensors each has a name of its own: "lstm[0]", "lstm[1]". Statistics stay on the device until asked for.

    Args:
        model: not compiled: modules within ``torch.compile`` are not called one by one.
        modules: names as in ``model.named_modules()``, "" for the model itself; None: all without children.
        history: calls of each module that are kept.

    Raises:
        TypeError, ValueError: an argument of another kind, a name that the model has not, a compiled model.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    >>> with AutogradHooks(model, ["1"]) as hooks:
    ...     model(torch.randn(16, 4)).sum().backward()
    >>> hooks.activations()["1"].min, hooks.gradients()["1"].size
    (0.0, 128)
    """

    def __init__(self, model: nn.Module, modules: Sequence[str] | None = None, *, history: int = 100) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is {kind(model)}, expected a torch.nn.Module")
        self._modules = _chosen(unwrapped(model), modules)
        if any("_orig_mod" in module._modules for module in model.modules()):
            raise ValueError(
                "model is compiled, expected the one that was given to torch.compile, called itself"
            )
        self._history = check_size("history", history)
        self._activations: Rows = {}
        self._gradients: Rows = {}
        self._handles: list[RemovableHandle] = []

    def register(self) -> list[RemovableHandle]:
        """Begin to watch, once; as a context manager it is done on entering.

        Returns:
            handles; ``remove()`` of this object, or of each of them, ends it.
        """
        if not self._handles:
            self._handles = [
                module.register_forward_hook(Hook(self._noting(name)))
                for name, module in self._modules.items()
            ]
        return list(self._handles)

    def remove(self) -> None:
        """End the watch; what was seen stays."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> AutogradHooks:
        self.register()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def activations(self) -> dict[str, TensorStatistics]:
        """Of the last output of each module, by name."""
        return _latest(self._activations)

    def gradients(self) -> dict[str, TensorStatistics]:
        """Of the last gradient that came back to each module, by name."""
        return _latest(self._gradients)

    def activation_history(self, name: str) -> list[TensorStatistics]:
        """Of the outputs of one module, the oldest first.

        Raises:
            KeyError: it was not called, or is not watched.
        """
        return _all_of(self._activations, name)

    def gradient_history(self, name: str) -> list[TensorStatistics]:
        """Of the gradients that came back to one module, the oldest first.

        Raises:
            KeyError: none came.
        """
        return _all_of(self._gradients, name)

    def _noting(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
                return
            for label, tensor in _labelled(name, output):
                # within a backward pass it is a checkpoint's second time
                if torch._C._current_graph_task_id() == NO_PASS:
                    self._keep(self._activations, label, tensor)
                if tensor.requires_grad:
                    tensor.register_hook(lambda grad, label=label: self._keep(self._gradients, label, grad))

        return note

    def _keep(self, rows: Rows, name: str, tensor: Tensor) -> None:
        rows.setdefault(name, deque(maxlen=self._history)).append(pending_statistics(tensor))


def _chosen(model: nn.Module, names: Sequence[str] | None) -> dict[str, nn.Module]:
    known = dict(model.named_modules())
    if names is None:
        return {name: module for name, module in known.items() if not list(module.children())}
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"modules is {kind(names)}, expected a list of names or None")
    if not names:
        raise ValueError("modules is empty, expected at least one name")
    for name in names:
        if name not in known:
            some = ", ".join(repr(other) for other in list(known)[:8])
            raise ValueError(f"modules has {name!r}, expected names of the model's modules: {some}, ...")
    return {name: known[name] for name in names}


def _labelled(name: str, output: Any) -> list[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        return [(name, output)] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        return [pair for key, value in output.items() for pair in _labelled(f"{name}[{key}]", value)]
    if isinstance(output, (tuple, list)):
        return [pair for i, value in enumerate(output) for pair in _labelled(f"{name}[{i}]", value)]
    return []


def _latest(rows: Rows) -> dict[str, TensorStatistics]:
    return dict(zip(rows, settled([entries[-1] for entries in rows.values()]), strict=True))


def _all_of(rows: Rows, name: str) -> list[TensorStatistics]:
    if name not in rows:
        raise KeyError(f"nothing was seen of {name!r}, only of {', '.join(rows) or 'nothing'}")
    return settled(list(rows[name]))
