"""Training whose result is known: of a line, and with accumulation, mixed precision and an average."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seo_kernels.examples.showing import headline, largest_difference, table
from seo_kernels.nn.sizes import check_size
from seo_kernels.training.autograd_training_loop import AutogradTrainingLoop
from seo_kernels.training.engine import TrainingEngine
from seo_kernels.training.engine_settings import EngineSettings
from seo_kernels.training.pair_loss import PairLoss

SLOPES, OFFSET = (2.0, -1.0), 0.5  # of the plane that is fitted


@dataclass(frozen=True)
class BasicTrainingReport:
    """A linear model fitted to points of a plane.

    Args:
        losses: the mean of each epoch.
        weights: two slopes and an offset that were found.
        error: the largest difference from those of the plane.
        initial_gradient_error: of the first batch's gradient from 2/n X^T (X w - y), by hand.
    """

    losses: list[float]
    weights: list[float]
    error: float
    initial_gradient_error: float


@dataclass(frozen=True)
class AdvancedTrainingReport:
    """Accumulation, an exponential moving average and mixed precision, each beside its definition.

    Args:
        accumulation_difference: the largest, between the parameters after an update on four small batches and
            on the one large batch.
        average_difference: the largest, between the engine's average a and decay a + (1 - decay) w taken by
            hand after each update but the first, where a is w.
        final_loss, final_loss_mixed: after the same updates, in float32 and in bfloat16 autocast.
        initial_loss: before them.
    """

    accumulation_difference: float
    average_difference: float
    initial_loss: float
    final_loss: float
    final_loss_mixed: float


class AutogradTrainingExamples:
    """Basic and advanced training, held against what is known."""

    @staticmethod
    def basic_training(epochs: int = 30) -> BasicTrainingReport:
        """Fit a line to exact points by gradient descent; the plane that they are on is found again.

        Args:
            epochs: of eight batches each.
        """
        check_size("epochs", epochs)
        headline(f"Basic training: y = {SLOPES[0]:g} x1 {SLOPES[1]:+g} x2 {OFFSET:+g}")
        inputs, targets = _plane(128)
        loader = list(zip(inputs.split(16), targets.split(16), strict=True))
        model = nn.Linear(2, 1)

        x, y = loader[0]
        F.mse_loss(model(x), y).backward()
        by_hand = 2 / len(x) * x.T @ (x @ model.weight.detach().T + model.bias.detach() - y)
        assert model.weight.grad is not None
        gradient_error = largest_difference([model.weight.grad.T], [by_hand])

        loop = AutogradTrainingLoop(model, torch.optim.SGD, lr=0.1, weight_decay=0.0)
        losses = [loop.train_epoch(loader, F.mse_loss, clip_gradients=False)["loss"] for _ in range(epochs)]
        found = [*model.weight.detach().flatten().tolist(), model.bias.item()]
        error = max(abs(f - known) for f, known in zip(found, (*SLOPES, OFFSET), strict=True))
        shown = sorted({0, epochs // 4, epochs // 2, epochs - 1})
        table(("epoch", "loss"), [(epoch, losses[epoch]) for epoch in shown])
        print(f"first gradient: differs from 2/n X^T (X w - y) by {gradient_error:.1e}")
        print(f"found {', '.join(f'{value:.4f}' for value in found)}: off by at most {error:.1e}")
        return BasicTrainingReport(losses, found, error, gradient_error)

    @staticmethod
    def advanced_training(updates: int = 40, decay: float = 0.9) -> AdvancedTrainingReport:
        """Accumulation against one large batch, the average against its formula, bfloat16 against float32.

        Args:
            updates: of the average and of mixed precision.
            decay: of the average, in (0, 1).
        """
        check_size("updates", updates)
        headline("Advanced training: accumulation, moving average, mixed precision")
        inputs, targets = _waves(64)
        model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 1))
        small = list(zip(inputs.split(16), targets.split(16), strict=True))

        accumulated = _engine(model, EngineSettings(accumulation_steps=4))
        at_once = _engine(model, EngineSettings())
        accumulated.train_epoch(small)
        at_once.train_epoch([(inputs, targets)])
        accumulation = largest_difference(accumulated.module.parameters(), at_once.module.parameters())

        plain = _engine(model, EngineSettings(ema_decay=decay))
        average = [parameter.detach().clone() for parameter in plain.module.parameters()]
        initial = F.mse_loss(plain.module(inputs), targets).item()
        for update in range(updates):
            plain.step((inputs, targets))
            for mean, parameter in zip(average, plain.module.parameters(), strict=True):
                kept = decay if update else 0.0  # it begins with the parameters after the first update
                mean.mul_(kept).add_(parameter.detach(), alpha=1 - kept)
        assert plain.ema is not None
        with plain.ema.applied() as averaged:
            average_difference = largest_difference(averaged.parameters(), average)

        mixed = _engine(model, EngineSettings(mixed_precision="bf16"))
        for _ in range(updates):
            mixed.step((inputs, targets))
        final, final_mixed = (F.mse_loss(e.module(inputs), targets).item() for e in (plain, mixed))
        report = AdvancedTrainingReport(accumulation, average_difference, initial, final, final_mixed)
        print(f"four batches of 16 and one of 64: parameters differ by {accumulation:.1e} after an update")
        print(f"moving average: differs from its formula by {average_difference:.1e} after {updates} updates")
        table(
            ("precision", "loss before", "loss after"),
            [("float32", initial, final), ("bf16", initial, final_mixed)],
        )
        return report

    @classmethod
    def run_all(cls) -> tuple[BasicTrainingReport, AdvancedTrainingReport]:
        """Both."""
        return cls.basic_training(), cls.advanced_training()


def _engine(model: nn.Module, settings: EngineSettings) -> TrainingEngine:
    """Of a copy of the model."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainingEngine(model, optimizer, PairLoss(F.mse_loss), settings=settings)


def _plane(count: int) -> tuple[Tensor, Tensor]:
    """Points (count, 2) and the plane's heights (count, 1)."""
    inputs = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return inputs, inputs @ torch.tensor(SLOPES).unsqueeze(1) + OFFSET


def _waves(count: int) -> tuple[Tensor, Tensor]:
    """Points (count, 2) and a curved surface's heights (count, 1)."""
    inputs = torch.rand(count, 2, generator=torch.Generator().manual_seed(0))
    return inputs, torch.sin(math.pi * inputs.sum(1, keepdim=True))
