"""Layers one after the other, each of which may be checkpointed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class LayerStack(nn.Module):
    """``x = layer(x, mask)`` for each layer; ``layer(x)`` where there is no mask.

    Args:
        layers: modules of (x, mask), or of x alone where no mask will come (and no TorchScript).

    Attributes:
        gradient_checkpointing: while training, keep the layers' inputs only and compute the rest again in
            backward (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"). Off at first;
            not under TorchScript.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.gradient_checkpointing = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            if torch.jit.is_scripting():
                x = layer(x, mask)
            else:
                again = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
                inputs = (x,) if mask is None else (x, mask)
                x = checkpointed(layer, *inputs) if again else layer(*inputs)
        return x


def checkpointed(layer: nn.Module, *inputs: Tensor) -> Tensor:
    """layer(*inputs), whose activations backward computes again; batch statistics count once."""
    norms = [module for module in layer.modules() if isinstance(module, _BatchNorm)]
    if not norms:
        return checkpoint(layer, *inputs, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(norms)

    return checkpoint(layer, *inputs, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
