"""Gradients of the documented models: transformer, convolutional and recurrent network, text classifier."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seo_kernels.diagnostics.autograd_monitor import AutogradMonitor
from seo_kernels.examples.showing import headline, table
from seo_kernels.models import (
    CustomCNNModel,
    CustomModelConfig,
    CustomRNNModel,
    CustomSEOModel,
    CustomTransformerModel,
)
from seo_kernels.nn.sizes import check_size


@dataclass(frozen=True)
class ModelReport:
    """One model on random data.

    Args:
        name: of its class.
        parameters: tensors that are trained, and ``with_gradient``, those that a backward pass reaches.
        total_norm: of the first gradient.
        expected_loss: of a model that knows nothing: log of the classes, the variance of the target.
        first_loss, last_loss: before and after the steps, on the same batch.
        issues: what the monitor says of the first gradient.
    """

    name: str
    parameters: int
    with_gradient: int
    total_norm: float
    expected_loss: float
    first_loss: float
    last_loss: float
    issues: list[str]


def gradients_of_models(steps: int = 10) -> list[ModelReport]:
    """Print and return the gradients of four documented models, and the loss after a few steps.

    Args:
        steps: of AdamW on one batch.
    """
    check_size("steps", steps)
    headline("Documented models: every parameter has a gradient, and the loss falls")
    ids, words = torch.randint(100, (8, 16)), torch.randint(100, (8, 16))
    images, sequences = torch.randn(8, 3, 16, 16), torch.randn(8, 12, 10)
    classes, targets = torch.randint(10, (8,)), torch.randn(8, 12, 16)
    labels = torch.randint(3, (8,))
    seo = CustomModelConfig(
        num_classes=3, hidden_size=32, num_layers=2, num_heads=4, max_length=16, vocab_size=100
    )
    transformer = CustomTransformerModel(vocab_size=100, d_model=32)
    cnn = CustomCNNModel(input_channels=3, num_classes=10)
    rnn = CustomRNNModel(input_size=10, hidden_size=16)
    classifier = CustomSEOModel(seo)
    problems: list[tuple[nn.Module, Callable[[], Tensor], float]] = [
        (
            transformer,
            lambda: F.cross_entropy(transformer(ids).flatten(0, 1), words.flatten()),
            math.log(100),
        ),
        (cnn, lambda: F.cross_entropy(cnn(images), classes), math.log(10)),
        (rnn, lambda: F.mse_loss(rnn(sequences), targets), 1.0),
        (classifier, lambda: F.cross_entropy(classifier(ids, torch.ones(8, 16)), labels), math.log(3)),
    ]
    reports = [_report(model, loss, expected, steps) for model, loss, expected in problems]
    table(
        ("model", "gradients", "total norm", "loss knowing nothing", "at first", f"after {steps} steps"),
        [
            (
                r.name,
                f"{r.with_gradient} of {r.parameters}",
                r.total_norm,
                r.expected_loss,
                r.first_loss,
                r.last_loss,
            )
            for r in reports
        ],
    )
    for report in reports:
        for issue in report.issues:
            print(f"{report.name}: {issue}")
    return reports


def _report(model: nn.Module, loss_of: Callable[[], Tensor], expected: float, steps: int) -> ModelReport:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    loss = loss_of()
    loss.backward()
    first = loss.item()
    gradients = AutogradMonitor().monitor_gradients(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    reached = sum(parameter.grad is not None for parameter in trained)
    for _ in range(steps):
        optimizer.step()
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
    return ModelReport(
        type(model).__name__,
        len(trained),
        reached,
        gradients["total_norm"],
        expected,
        first,
        loss.item(),
        gradients["issues"],
    )
