"""Small calls of the losses as functions of their differentiable tensors, for the promises of every op."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

import seo_kernels as sk


class Case(NamedTuple):
    """``call(namespace)`` is the loss of ``sk`` or of ``sk.reference`` as a function of ``inputs``."""

    op: str
    call: Callable[..., Callable[..., Tensor]]
    inputs: tuple[Tensor, ...]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator(torch.get_default_device()).manual_seed(seed), dtype=torch.float64
    )


TARGET = torch.tensor([2, 0, -100, 4])
WEIGHT = torch.tensor([0.5, 2.0, 1.5, 1.0, 0.25], dtype=torch.float64)


def indexed(**options: object) -> Callable[..., Callable[..., Tensor]]:
    return lambda space: lambda input: space.cross_entropy(input, TARGET, **options)


def soft(**options: object) -> Callable[..., Callable[..., Tensor]]:
    return lambda space: lambda input, target: space.cross_entropy(input, target, **options)


def focal(**options: object) -> Callable[..., Callable[..., Tensor]]:
    return lambda space: lambda input: space.focal_loss(input, TARGET, **options)


def huber(**options: object) -> Callable[..., Callable[..., Tensor]]:
    return lambda space: (
        lambda input, target, weight=None: space.huber_loss(input, target, weight=weight, **options)
    )


def linear(**options: object) -> Callable[..., Callable[..., Tensor]]:
    return lambda space: (
        lambda hidden, weight, bias=None: space.linear_cross_entropy(hidden, weight, TARGET, bias, **options)
    )


SCORES = draw(4, 5)
PROBABILITIES = draw(4, 5, seed=1).softmax(1)
HIDDEN = (draw(4, 3), draw(5, 3, seed=1), draw(5, seed=2))

CASES = {
    "cross_entropy": Case("cross_entropy", indexed(), (SCORES,)),
    "cross_entropy, all options": Case(
        "cross_entropy", indexed(weight=WEIGHT, label_smoothing=0.3, reduction="none"), (SCORES,)
    ),
    "cross_entropy, transposed": Case("cross_entropy", indexed(reduction="sum"), (draw(5, 4).t(),)),
    "soft": Case("soft_cross_entropy", soft(), (SCORES, PROBABILITIES)),
    "soft, all options": Case(
        "soft_cross_entropy",
        soft(weight=WEIGHT, label_smoothing=0.3, reduction="none"),
        (SCORES, PROBABILITIES),
    ),
    "focal": Case("focal_loss", focal(), (SCORES,)),
    "focal, all options": Case("focal_loss", focal(alpha=WEIGHT, gamma=0.5, reduction="none"), (SCORES,)),
    "huber": Case("huber_loss", huber(), (3 * SCORES, draw(4, 5, seed=1))),
    "huber, all options": Case(
        "huber_loss",
        huber(delta=0.7, reduction="none"),
        (SCORES, draw(4, 5, seed=1), draw(4, 5, seed=2).abs()),
    ),
    "linear": Case("linear_cross_entropy", linear(), HIDDEN[:2]),
    "linear, all options": Case(
        "linear_cross_entropy", linear(label_smoothing=0.3, reduction="none"), HIDDEN
    ),
}


def of(name: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[Tensor, ...]]:
    """The loss, its reference, and the inputs."""
    case = CASES[name]
    return case.call(sk), case.call(sk.reference), case.inputs
