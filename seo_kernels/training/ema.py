"""An exponential moving average of a model's parameters, and the model with it in their place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from seo_kernels.diagnostics.gradient_norms import named_parameters, unwrapped
from seo_kernels.training.engine_settings import check_decay


class ExponentialMovingAverage:
    """average = decay average + (1 - decay) parameter, after each update of the parameters.

    The first update copies: the average begins at the parameters as they are then. Buffers, running
    statistics for example, are not averaged: each update copies them as they are.

    Args:
        model: its parameters are followed; the average is a copy of its own, on the same devices.
        decay: in (0, 1).

    Raises:
        TypeError, ValueError: no module, one without parameters, or another decay.

    Source: Polyak & Juditsky 1992; kept by ``torch.optim.swa_utils.AveragedModel``.

    >>> model = nn.Linear(1, 1, bias=False)
    >>> ema = ExponentialMovingAverage(model, decay=0.75)
    >>> for value in (1.0, 5.0):
    ...     _ = nn.init.constant_(model.weight, value)
    ...     ema.update()
    >>> with ema.applied():
    ...     model.weight.item()
    2.0
    >>> model.weight.item()
    5.0
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        named_parameters(model)
        self.model = unwrapped(model)
        self.decay = check_decay("decay", decay)
        self.averaged = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(decay))
        self.averaged.requires_grad_(False)
        self._applied = False

    @property
    def updates(self) -> int:
        """How many there were."""
        return int(self.averaged.n_averaged)

    def update(self) -> None:
        """Take the parameters that the model has now into the average.

        Raises:
            RuntimeError: within ``applied``, where the model has the average itself.
        """
        if self._applied:
            raise RuntimeError("update within applied(), expected outside: the model has the average itself")
        self.averaged.update_parameters(self.model)

    @contextlib.contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The model with the average for parameters and buffers; afterwards, after an error too, its own.

        Raises:
            RuntimeError: it is applied already.
        """
        if self._applied:
            raise RuntimeError("applied() within applied(), expected once")
        pairs = list(zip(_tensors(self.model), _tensors(self.averaged.module), strict=True))
        own = [mine.detach().clone() for mine, _ in pairs]
        self._applied = True
        try:
            with torch.no_grad():
                for mine, average in pairs:
                    mine.copy_(average)
            yield self.model
        finally:
            with torch.no_grad():
                for (mine, _), before in zip(pairs, own, strict=True):
                    mine.copy_(before)
            self._applied = False

    def state_dict(self) -> dict[str, Any]:
        """Decay, number of updates, and the average by the model's own names."""
        return {"decay": self.decay, "updates": self.updates, "average": self.averaged.module.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """What ``state_dict`` gave; the decay stays that of this object.

        Raises:
            ValueError: it is of another decay.
            RuntimeError: it is of another model.
        """
        if state["decay"] != self.decay:
            raise ValueError(f"state is of decay={state['decay']}, expected {self.decay}")
        self.averaged.module.load_state_dict(state["average"])
        self.averaged.n_averaged.fill_(state["updates"])


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
