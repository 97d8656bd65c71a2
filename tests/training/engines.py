"""Small engines that the tests of training share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from seo_kernels.training import EngineSettings, TrainingEngine

Pair = tuple[Tensor, Tensor]


def squared_error(model: nn.Module, batch: Pair) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def small_model(dropout: float = 0.0, norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 2)]
    return nn.Sequential(*layers)


def pairs(rows: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(rows, 5, generator=generator, dtype=dtype),
        torch.randn(rows, 2, generator=generator, dtype=dtype),
    )


def loader(rows: int = 23, batch_size: int = 4, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*pairs(rows)), batch_size=batch_size, **options)


def engine(
    model: nn.Module | None = None, rate: float = 0.05, loss: Any = squared_error, **changes: Any
) -> TrainingEngine:
    """With SGD with momentum; ``changes`` are settings, or arguments of the engine."""
    model = small_model() if model is None else model
    arguments = {name: changes.pop(name) for name in ("monitor", "scheduler") if name in changes}
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    if callable(arguments.get("scheduler")):
        arguments["scheduler"] = arguments["scheduler"](optimizer)
    settings = EngineSettings(progress=False, **changes)
    return TrainingEngine(model, optimizer, loss, settings=settings, **arguments)


def copied(module: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in module.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))
