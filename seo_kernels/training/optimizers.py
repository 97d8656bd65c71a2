"""AdamW with weight decay where it belongs, and its schedule: linear warm-up, then a cosine to 0."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from seo_kernels.nn.lora_adapter import LoRAAdapter
from seo_kernels.nn.lora_base import is_linear
from seo_kernels.nn.sizes import check_not_negative, check_positive, check_size
from seo_kernels.ops.checks import kind

FUSED_ON = ("cpu", "cuda")
# besides the linear layers: what multiplies its inputs by a weight, or looks them up in one
WEIGHTED = (
    _ConvNd,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
    LoRAAdapter,
)


class AdvancedOptimizers:
    """Makes optimizer and schedule from a configuration.

    >>> from types import SimpleNamespace
    >>> config = SimpleNamespace(learning_rate=1e-3, weight_decay=0.01, warmup_steps=10)
    >>> optimizer = AdvancedOptimizers.create_optimizer(nn.Linear(4, 2), config)
    >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
    [(1, 0.01), (1, 0.0)]
    >>> scheduler = AdvancedOptimizers.create_scheduler(optimizer, config, num_training_steps=100)
    >>> scheduler.get_last_lr()
    [0.0001, 0.0001]
    """

    @staticmethod
    def create_optimizer(model: nn.Module, config: Any) -> AdamW:
        """AdamW over the parameters that require a gradient, each once.

        The weights of linear layers (LoRA's too), convolutions, recurrent layers and embeddings decay;
        biases, normalisation layers and all other vectors and tables do not. A parameter that several
        modules share decays if it does in one of them.

        Args:
            config: has ``learning_rate`` and ``weight_decay``.

        Raises:
            TypeError: no module, or a configuration without these, or with something else in them.
            ValueError: a model with nothing to train, or a number out of range.

        Source: Loshchilov & Hutter 2019, "Decoupled Weight Decay Regularization".
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is {kind(model)}, expected a torch.nn.Module")
        rate = check_positive("config.learning_rate", setting(config, "learning_rate"))
        decay = check_not_negative("config.weight_decay", setting(config, "weight_decay"))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        if not trained:
            raise ValueError(
                f"model, a {type(model).__name__}, has no parameter that requires a gradient, expected one"
            )
        decaying = set(_decaying(model))
        groups = [
            {"params": [p for p in trained if p in decaying], "weight_decay": decay},
            {"params": [p for p in trained if p not in decaying], "weight_decay": 0.0},
        ]
        fused = all(p.device.type in FUSED_ON and p.is_floating_point() for p in trained)
        return AdamW([group for group in groups if group["params"]], lr=rate, fused=fused)

    @staticmethod
    def create_scheduler(optimizer: Optimizer, config: Any, num_training_steps: int = 10000) -> LambdaLR:
        """The optimizer's rates times: (step + 1) / warmup_steps, then a half cosine to 0; 0 from the end on.

        Args:
            config: has ``warmup_steps``.
            num_training_steps: updates, warm-up included.

        Raises:
            TypeError: a configuration without it, or something else than an int.
            ValueError: no step at all, or as many of warm-up as there are.

        Source: Loshchilov & Hutter 2017, "SGDR", eq. 5, without restarts; Goyal et al. 2017, section 2.2.
        """
        steps = check_size("num_training_steps", num_training_steps)
        warmup = check_size("config.warmup_steps", setting(config, "warmup_steps"), least=0)
        if warmup >= steps:
            raise ValueError(
                f"config.warmup_steps is {warmup}, expected fewer than num_training_steps={steps}"
            )
        return LambdaLR(optimizer, WarmupCosine(warmup, steps))


@dataclass(frozen=True)
class WarmupCosine:
    """What a learning rate is multiplied with at a step; not a lambda, so that schedules can be pickled."""

    warmup_steps: int
    num_training_steps: int

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / (self.num_training_steps - self.warmup_steps)
        return (1.0 + math.cos(math.pi * min(done, 1.0))) / 2.0


def setting(config: Any, name: str) -> Any:
    """A field of the configuration.

    Raises:
        TypeError: it has none of that name.
    """
    if not hasattr(config, name):
        raise TypeError(f"config is {kind(config)} without {name!r}, expected a configuration that has it")
    return getattr(config, name)


def _decaying(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        if is_linear(module) or isinstance(module, WEIGHTED):
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() > 1 and "bias" not in name:
                    yield parameter
