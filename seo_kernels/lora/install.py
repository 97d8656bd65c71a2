"""Puts one adapter into a model: everything is checked and made first, then put in place."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from seo_kernels.lora.parents import check_not_read_by_model, keep_from_nesting, replacement
from seo_kernels.lora.report import Report, make_report
from seo_kernels.lora.switching import adapted_layers
from seo_kernels.nn.lora import LoRALinear
from seo_kernels.nn.lora_adapter import check_name, check_numbers
from seo_kernels.nn.lora_base import base_parameters, features, is_conv1d


@dataclass(frozen=True)
class Settings:
    """The numbers of one layer's adapter: what ``LoRALinear`` takes."""

    rank: int
    alpha: float
    dropout: float
    use_rslora: bool
    use_dora: bool
    init: str = "kaiming"


def check_targets(model: nn.Module, plan: Mapping[str, Settings], adapter: str) -> None:
    """Raise, naming the layer, unless every planned layer can get the adapter.

    Raises:
        ValueError, TypeError: one cannot.
    """
    check_name(adapter)
    for path, settings in plan.items():
        module = model.get_submodule(path)
        check_not_read_by_model(model, path)
        if isinstance(module, LoRALinear):
            if adapter in module.adapters:
                raise ValueError(f"{path} has an adapter {adapter!r} already, expected another name")
            sizes = (module.in_features, module.out_features)
        else:
            try:
                base_parameters(module)
            except (TypeError, ValueError) as error:
                raise type(error)(f"{path} cannot be adapted: {error}") from None
            sizes = features(module)
        try:
            check_numbers(*sizes, settings.rank, settings.alpha, settings.dropout, settings.init)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{path}: {error}") from None


def install(
    model: nn.Module, plan: Mapping[str, Settings], adapter: str
) -> tuple[Report, dict[str, LoRALinear]]:
    """Give the planned layers the adapter, and freeze all else if it is the model's first.

    The first adapter is active; a further one waits for ``set_adapter``, as in PEFT.

    Returns:
        The report, and the layers by path.

    Raises:
        ValueError, TypeError: a layer cannot get it; the model is as it was.
    """
    check_targets(model, plan, adapter)
    modules = {path: model.get_submodule(path) for path in plan}
    first = not adapted_layers(model)
    tied = [path for path in plan if _shares_weight(model, modules[path])]
    replacements: dict[nn.Module, nn.Module] = {}
    replaced_parents = []
    for module in modules.values():
        for parent_path, name in _places(model, module):
            parent = model.get_submodule(parent_path)
            new_parent = replacement(parent, parent_path, name)
            if new_parent is not None and parent not in replacements:
                replacements[parent] = new_parent
                replaced_parents.append(parent_path)

    layers: dict[str, LoRALinear] = {}
    kinds = {}
    trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for path, module in modules.items():
            kinds[path] = "Conv1D" if is_conv1d(module) else type(module).__name__
            if not isinstance(module, LoRALinear):
                layers[path] = replacements[module] = _wrap(module, plan[path], adapter)
                if not first:
                    layers[path].set_adapter([])
    except BaseException:
        for parameter, requires_grad in trained:
            parameter.requires_grad_(requires_grad)
        raise

    if first:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    for path, module in modules.items():
        if isinstance(module, LoRALinear):
            _add(module, plan[path], adapter)
            layers[path] = module
    _put_in_place(model, replacements)
    keep_from_nesting(model)
    if tied:
        warnings.warn(
            f"{', '.join(tied)}: another module shares the weight; the adapter acts here only, and merging "
            "gives this layer a weight of its own",
            stacklevel=3,
        )
    ordered = {path: layers[path] for path in plan}
    return make_report(model, adapter, kinds, ordered, replaced_parents, tied), ordered


def _wrap(module: nn.Module, settings: Settings, adapter: str) -> LoRALinear:
    return LoRALinear(
        module,
        settings.rank,
        settings.alpha,
        settings.dropout,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        init=settings.init,
        adapter=adapter,
    )


def _add(layer: LoRALinear, settings: Settings, adapter: str) -> None:
    layer.add_adapter(
        adapter,
        settings.rank,
        settings.alpha,
        settings.dropout,
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        init=settings.init,
    )


def _places(model: nn.Module, module: nn.Module) -> list[tuple[str, str]]:
    """(parent's path, name) of every place where the model holds this very module."""
    paths = [path for path, other in model.named_modules(remove_duplicate=False) if other is module]
    return [(path.rpartition(".")[0], path.rpartition(".")[2]) for path in paths]


def _put_in_place(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Replace modules wherever they stand, inside other replaced ones too. Collects, then changes."""
    parents = [*model.modules(), *(new for new in replacements.values() if not isinstance(new, LoRALinear))]
    changes = [
        (parent, name, replacements[child])
        for parent in parents
        for name, child in parent._modules.items()
        if child is not None and child in replacements
    ]
    for parent, name, new in changes:
        setattr(parent, name, new)


def _shares_weight(model: nn.Module, module: nn.Module) -> bool:
    """Whether a module other than this one holds its weight too."""
    weight = module.weight
    return any(
        other is not module and any(parameter is weight for parameter in other._parameters.values())
        for other in model.modules()
    )
