"""An optimizer that does the whole step: forward, backward, clipping, update."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from seo_kernels.diagnostics.curvature import hessian_vector_product
from seo_kernels.diagnostics.fisher import fisher_information
from seo_kernels.nn.sizes import check_flag, check_not_negative, check_positive
from seo_kernels.ops.checks import kind
from seo_kernels.training.engine import TrainingEngine
from seo_kernels.training.engine_settings import Clipping, EngineSettings
from seo_kernels.training.engine_updates import trainable_parameters
from seo_kernels.training.pair_loss import PairLoss


class AutogradOptimizer:
    """Steps of a ``TrainingEngine`` on an input and its target; and tools of the second order.

    A loss or a gradient that is not finite updates nothing, with a ``RuntimeWarning``.

    Args:
        model: has a parameter that requires a gradient; it stays on its device.
        optimizer_class: called with the trainable parameters, ``lr`` and ``weight_decay``.
        lr: above 0.
        weight_decay: at least 0.
        settings: of the engine: precision, accumulation, average; None: the defaults. ``step`` clips as it is
            told itself.

    Attributes:
        engine: the ``TrainingEngine``; model and optimizer are its.

    Raises:
        TypeError, ValueError: an argument of another kind, out of range, or a model with nothing to train.
        MissingExtraError: accelerate is not installed.

    >>> optimizer = AutogradOptimizer(nn.Linear(2, 1), torch.optim.SGD, lr=0.1, weight_decay=0.0)
    >>> sorted(optimizer.step(nn.MSELoss(), torch.ones(4, 2), torch.ones(4, 1)))
    ['grad_norm', 'loss', 'lr', 'skipped', 'time', 'updated']
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

    def step(
        self,
        loss_function: Callable[[Any, Any], Tensor],
        input_data: Any,
        target_data: Any,
        clip_gradients: bool = True,
        max_grad_norm: float = 1.0,
    ) -> dict[str, float]:
        """Forward, backward, clipping, update; the gradients stay until the next step.

        Args:
            loss_function: of the model's output and the target gives a scalar.
            input_data: what the model is called with: a tensor, a tuple of arguments, a mapping of keywords.
            target_data: what the loss function takes; both are moved to the model's device.
            clip_gradients: to a norm of ``max_grad_norm``, over all of them.
            max_grad_norm: above 0.

        Returns:
            "loss", "grad_norm" before clipping (NaN where the loss is not finite), "lr" of this update,
            "time" in seconds, "updated" and "skipped", 1.0 or 0.0.

        Raises:
            TypeError, ValueError: an argument that does not fit, a loss that is not scalar.
            NonFiniteError: as the settings have it.
        """
        self.engine.clipping = clipping_of(clip_gradients, max_grad_norm)
        self.engine.loss_of_batch = PairLoss(loss_function)
        result = self.engine.step((input_data, target_data))
        return {
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "lr": result.learning_rate,
            "time": result.seconds,
            "updated": float(result.updated),
            "skipped": float(result.skipped),
        }

    @staticmethod
    def compute_hessian_vector_product(
        model: nn.Module, loss: Tensor, vector: Tensor | list[Tensor]
    ) -> Tensor | list[Tensor]:
        """The Hessian of the loss times a vector, exact: see ``diagnostics.curvature``.

        Args:
            model: of its trainable parameters.
            loss: a scalar; its graph is consumed.
            vector: flat, or a list shaped as the parameters; the product has the same form.
        """
        return hessian_vector_product(model, loss, vector)

    @staticmethod
    def compute_fisher_information(
        model: nn.Module, loss_fn: Callable[[Any, Any], Tensor], data_loader: Iterable[Any], **options: Any
    ) -> dict[str, Tensor]:
        """The diagonal of the Fisher information, by name: see ``diagnostics.fisher.fisher_information``.

        Args:
            model: of its trainable parameters.
            loss_fn: of output and target, the mean over the rows.
            data_loader: of (input, target).
            options: of ``fisher_information``, ``monte_carlo`` for example.
        """
        return fisher_information(model, loss_fn, data_loader, **options)


def engine_of(
    model: nn.Module,
    optimizer_class: Callable[..., Optimizer],
    lr: float,
    weight_decay: float,
    settings: EngineSettings | None,
) -> TrainingEngine:
    """An engine with an optimizer of its own over the parameters that require a gradient."""
    trained = trainable_parameters(model)
    if not callable(optimizer_class):
        raise TypeError(f"optimizer_class is {kind(optimizer_class)}, expected a class of torch.optim")
    check_positive("lr", lr)
    check_not_negative("weight_decay", weight_decay)
    optimizer = optimizer_class(trained, lr=lr, weight_decay=weight_decay)
    return TrainingEngine(model, optimizer, _unset, settings=settings)


def clipping_of(clip_gradients: bool, max_grad_norm: float) -> Clipping | None:
    """Of the norm, or none."""
    check_positive("max_grad_norm", max_grad_norm)
    return Clipping("norm", max_grad_norm) if check_flag("clip_gradients", clip_gradients) else None


def _unset(model: nn.Module, batch: Any) -> Tensor:
    raise RuntimeError("no loss function is set, expected one with each step")
