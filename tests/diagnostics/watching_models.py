"""Small models whose layers go wrong when told to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Spoil = Callable[[Tensor], Tensor]


class Block(nn.Module):
    """x + down(tanh(up(x))); ``spoil`` changes what ``up`` gives."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = Spoiled(width)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(x)))


class Spoiled(nn.Linear):
    def __init__(self, width: int) -> None:
        super().__init__(width, width)
        self.spoil: Spoil | None = None

    def forward(self, input: Tensor) -> Tensor:
        out = super().forward(input)
        return out if self.spoil is None else self.spoil(out)


class Net(nn.Module):
    """(B, 8) -> (B, 1); ``reentrant``: None: no checkpoints, else of which kind."""

    def __init__(self, reentrant: bool | None = None, blocks: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(8) for _ in range(blocks))
        self.head = nn.Linear(8, 1)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        out: Tensor = self.head(x)
        return out

    def spoil(self, number: int, how: Spoil | None) -> None:
        up = self.blocks[number].get_submodule("up")
        assert isinstance(up, Spoiled)
        up.spoil = how


def with_nan(out: Tensor) -> Tensor:
    first = torch.zeros_like(out, dtype=torch.bool)
    first[0, 0] = True
    return torch.where(first, float("nan"), out)


def nan_where_large(out: Tensor) -> Tensor:
    return torch.where(out.abs().amax() > 1e4, float("nan"), out)


def batch() -> Tensor:
    return torch.randn(6, 8)


def loss_of(model: nn.Module, x: Tensor) -> Tensor:
    """With a gradient that is not finite anywhere once something in the model is not."""
    loss: Tensor = 0.1 * model(x).square().mean()
    return loss


def total(model: nn.Module) -> float:
    """The norm of all gradients."""
    return float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())
