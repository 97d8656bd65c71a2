"""Epochs over loaders of inputs and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from seo_kernels.ops.checks import kind
from seo_kernels.training.autograd_optimizer import clipping_of, engine_of
from seo_kernels.training.engine_settings import EngineSettings
from seo_kernels.training.pair_loss import PairLoss


class AutogradTrainingLoop:
    """Trains and validates a model by a ``TrainingEngine``.

    Args:
        model, optimizer_class, lr, weight_decay, settings: as for ``AutogradOptimizer``.

    Attributes:
        engine: the ``TrainingEngine``: its checkpoints and history are the loop's.

    Raises:
        TypeError, ValueError, MissingExtraError: as for ``AutogradOptimizer``.

    >>> loop = AutogradTrainingLoop(nn.Linear(2, 1), torch.optim.SGD, lr=0.1)
    >>> loader = [(torch.randn(4, 2), torch.randn(4, 1)) for _ in range(3)]
    >>> len(loop.train_epoch(loader, nn.MSELoss())["losses"])
    3
    >>> list(loop.validate(loader, nn.MSELoss()))
    ['validation_loss']
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer_class: Callable[..., Optimizer] = torch.optim.AdamW,
        lr: float = 1e-4,
        weight_decay: float = 0.01,
        *,
        settings: EngineSettings | None = None,
    ) -> None:
        self.engine = engine_of(model, optimizer_class, lr, weight_decay, settings)

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        return self.engine.module

    @property
    def optimizer(self) -> Optimizer:
        """An ``optimizer_class``."""
        return self.engine.optimizer

    def train_epoch(
        self,
        dataloader: Iterable[Any],
        loss_function: Callable[[Any, Any], Tensor],
        device: torch.device | str | None = None,
        clip_gradients: bool = True,
        max_grad_norm: float = 1.0,
    ) -> dict[str, Any]:
        """One pass over the loader.

        Args:
            dataloader: yields pairs (input, target); see ``PairLoss``.
            loss_function: of the model's output and the target gives a scalar, the mean over the rows.
            device: where the model is moved first; None: it stays.
            clip_gradients, max_grad_norm: as for ``AutogradOptimizer.step``.

        Returns:
            "losses", one for each batch; "loss", their mean over the rows; "grad_norms", before clipping, one
            for each update; "updates" and "skipped", how many; "lr", of the last update; "time" in seconds.

        Raises:
            TypeError, ValueError: an argument that does not fit, a loader that yields nothing.
            NonFiniteError: as the settings have it.
        """
        self._place(device)
        self.engine.clipping = clipping_of(clip_gradients, max_grad_norm)
        self.engine.loss_of_batch = PairLoss(loss_function)
        epoch = self.engine.train_epoch(dataloader)
        return {
            "losses": epoch.losses,
            "loss": epoch.loss,
            "grad_norms": epoch.grad_norms,
            "updates": epoch.updates,
            "skipped": epoch.skipped,
            "lr": epoch.learning_rate,
            "time": epoch.seconds,
        }

    def validate(
        self,
        dataloader: Iterable[Any],
        loss_function: Callable[[Any, Any], Tensor],
        device: torch.device | str | None = None,
    ) -> dict[str, float]:
        """The mean loss over all rows, in eval mode and without gradients; nothing changes.

        Args:
            dataloader, loss_function, device: as for ``train_epoch``, which also raises what this does.

        Returns:
            "validation_loss".
        """
        self._place(device)
        self.engine.loss_of_batch = PairLoss(loss_function)
        return {"validation_loss": self.engine.evaluate(dataloader)["loss"]}

    def _place(self, device: torch.device | str | None) -> None:
        if device is None:
            return
        if not isinstance(device, (str, torch.device)):
            raise TypeError(f"device is {kind(device)}, expected a torch.device, its name or None")
        self.engine.move_to(torch.device(device))
