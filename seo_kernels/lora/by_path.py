"""``apply_lora``: adapters for the linear layers whose path holds a word."""

from torch import nn

from seo_kernels.lora.applying import apply
from seo_kernels.lora.matching import candidates, linear_layers
from seo_kernels.ops.checks import kind


def apply_lora(model: nn.Module, target: str = "mlp", rank: int = 16, alpha: float = 32.0) -> int:
    """Put ``LoRALinear`` in place of the linear layers with ``target`` in their path, and freeze the rest.

    ``sk.lora.apply`` for a single word; transformers' ``Conv1D`` is a linear layer too.

    Args:
        model: it is changed.
        target: a part of the path, "mlp" for "transformer.h.0.mlp.c_fc".
        rank, alpha: of the adapters.

    Returns:
        How many layers were replaced.

    Raises:
        TypeError: target is no string.
        ValueError: no such layer (some candidates are named), or a number out of range.

    >>> apply_lora(nn.ModuleDict({"mlp": nn.Linear(8, 8), "head": nn.Linear(8, 8)}), rank=2)
    1
    """
    if not isinstance(target, str):
        raise TypeError(f"target is {kind(target)}, expected a part of the layers' paths")
    paths = [path for path in linear_layers(model) if target in path]
    if not paths:
        raise ValueError(
            f"target is {target!r}, which is in no linear layer's path; linear layers here: "
            f"{candidates(model)}"
        )
    return len(apply(model, rank=rank, alpha=alpha, target_modules=paths).layers)
