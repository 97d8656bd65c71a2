"""All adapters of a model at once: which are active, merged, disabled."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from torch import nn

from seo_kernels.nn.lora import LoRALinear


def adapted_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """Path -> layer, of every ``LoRALinear`` in the model."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)}


def adapter_names(model: nn.Module) -> list[str]:
    """The names of all adapters in the model, in the order in which they are met."""
    return list(dict.fromkeys(name for layer in adapted_layers(model).values() for name in layer.adapters))


def set_adapter(model: nn.Module, names: str | Sequence[str]) -> None:
    """Make these adapters the active and trainable ones, wherever they are; elsewhere none is.

    Raises:
        ValueError: no layer has such an adapter, or one is named twice.
        RuntimeError: adapters are merged.
    """
    names = [names] if isinstance(names, str) else list(names)
    known = adapter_names(_adapted(model))
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise ValueError(f"adapters are {names}, expected some of {known}, each once")
    layers = adapted_layers(model)
    wanted = {layer: [name for name in names if name in layer.adapters] for layer in layers.values()}
    for path, layer in layers.items():
        if layer.merged and layer.merged_adapters != wanted[layer]:
            raise RuntimeError(
                f"{path} holds {layer.merged_adapters} merged, expected unmerge() before {names} are active"
            )
    for layer, present in wanted.items():
        layer.set_adapter(present)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Within it the model computes without adapters, active or merged.

    Raises:
        ValueError: the model has none.
    """
    with ExitStack() as stack:
        for layer in adapted_layers(_adapted(model)).values():
            stack.enter_context(layer.disabled())
        yield


def merge(model: nn.Module) -> None:
    """Add the active adapters to the weights; ``unmerge`` restores these bit for bit.

    Raises:
        ValueError: the model has no adapters.
    """
    for layer in adapted_layers(_adapted(model)).values():
        layer.merge()


def unmerge(model: nn.Module) -> None:
    """Take merged adapters out of the weights again.

    Raises:
        ValueError: the model has no adapters.
    """
    for layer in adapted_layers(_adapted(model)).values():
        layer.unmerge()


def _adapted(model: nn.Module) -> nn.Module:
    if not adapted_layers(model):
        raise ValueError("model has no adapters, expected one that sk.lora.apply or sk.lora.load went over")
    return model
