"""Told at the end of every backward pass into a model's gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from seo_kernels.diagnostics.gradient_norms import named_parameters
from seo_kernels.diagnostics.inert_hooks import Hook

NO_PASS = -1


class BackwardPasses:
    """Calls a function when a backward pass is over and its gradients are in ``.grad``.

    A pass inside another (of a checkpoint that is reentrant) belongs to the outer one, as long as the model
    itself was called, not only its parts. ``torch.autograd.grad`` leaves ``.grad`` alone and is no pass.
    In DistributedDataParallel the pass is over when the gradients are reduced.

    Args:
        model: its outputs and the parameters that want a gradient now get hooks.
        on_end: called without arguments.

    Attributes:
        order: the parameters of the pass, in the order in which their gradients came.
    """

    def __init__(self, model: nn.Module, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._pass = NO_PASS  # the one whose end is awaited
        self._outermost = False
        self._accumulated = False
        self.order: list[str] = []
        self.handles: list[RemovableHandle] = [
            parameter.register_post_accumulate_grad_hook(Hook(self._noting(name)))
            for name, parameter in named_parameters(model).items()
            if parameter.requires_grad
        ]

    def forget(self) -> None:
        """A new forward pass begins: a backward pass that raised an error never ended."""
        if torch._C._current_graph_task_id() == NO_PASS:
            self._pass, self._outermost, self._accumulated = NO_PASS, False, False
            self.order.clear()

    def expect_from(self, outputs: Any) -> None:
        """The outputs of the model itself: the pass that reaches them first is the outermost."""
        if isinstance(outputs, Tensor):
            if outputs.requires_grad:
                outputs.register_hook(self._from_output)
        elif isinstance(outputs, dict):
            for entry in outputs.values():
                self.expect_from(entry)
        elif isinstance(outputs, (tuple, list)):
            for entry in outputs:
                self.expect_from(entry)

    def _from_output(self, gradient: Tensor) -> None:
        current = torch._C._current_graph_task_id()
        if current != self._pass and not self._outermost:
            self._await(current)
            self._outermost = True

    def _noting(self, name: str) -> Callable[[Tensor], None]:
        def note(parameter: Tensor) -> None:
            if not self._outermost:
                current = torch._C._current_graph_task_id()
                if current != self._pass:
                    self._await(current)
            self._accumulated = True
            self.order.append(name)

        return note

    def _await(self, current: int) -> None:
        self._pass = current
        self.order.clear()
        self._accumulated = False
        _at_the_end(lambda: _at_the_end(lambda: self._end(current)))  # after those of DDP, which come later

    def _end(self, ended: int) -> None:
        if ended != self._pass:
            return
        accumulated, self._accumulated = self._accumulated, False
        self._pass, self._outermost = NO_PASS, False
        if accumulated:
            self._on_end()


def _at_the_end(function: Callable[[], None]) -> None:
    """When the running backward pass is over."""
    torch.autograd.Variable._execution_engine.queue_callback(function)
