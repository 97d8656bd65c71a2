"""Which modules of a model are meant: PEFT's rules for ``target_modules`` and the like."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from torch import nn

from seo_kernels.nn.lora import LoRALinear
from seo_kernels.nn.lora_base import is_linear

ALL_LINEAR = "all-linear"
CANDIDATES_NAMED = 12

Number = TypeVar("Number", int, float)


def find_targets(
    model: nn.Module, target_modules: str | Sequence[str], exclude_modules: str | Sequence[str] | None = None
) -> list[str]:
    """Paths of the modules that PEFT would adapt, in the model's order.

    Args:
        target_modules: a sequence of names, which match a path that equals one or ends in "." and one; a
            string, a regular expression for the whole path; or "all-linear": every linear layer but the
            output head that a transformers model names.
        exclude_modules: matched in the same way, taken out.

    Raises:
        TypeError: another kind of argument.
        ValueError: nothing matches; the message names layers that could be meant.
    """
    check_names("target_modules", target_modules)
    check_names("exclude_modules", [] if exclude_modules is None else exclude_modules)
    paths = [path for path, module in model.named_modules() if path and not _inside_adapter(path, model)]
    if isinstance(target_modules, str) and target_modules.lower() == ALL_LINEAR:
        linear = linear_layers(model)
        head = _output_head(model)
        found = [path for path, module in linear.items() if module is not head]
    else:
        found = [path for path in paths if matches(path, target_modules)]
    kept = [path for path in found if exclude_modules is None or not matches(path, exclude_modules)]
    if kept:
        return kept
    what = f"target_modules is {_shown(target_modules)}"
    if found:
        raise ValueError(
            f"{what}, and exclude_modules={_shown(exclude_modules)} takes out all that it matches"
        )
    raise ValueError(f"{what}, which matches no module; linear layers here: {candidates(model)}")


def matches(path: str, names: str | Iterable[str]) -> bool:
    """Whether a module's path is meant by a regular expression or by one of some names."""
    if isinstance(names, str):
        return re.fullmatch(names, path) is not None
    return any(path == name or path.endswith(f".{name}") for name in names)


def pattern_value(patterns: Mapping[str, Number], path: str, default: Number) -> Number:
    """What PEFT's rank_pattern or alpha_pattern gives for a path: the first key that the path ends in."""
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", path):
            return value
    return default


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> layer, of all linear layers, adapted ones too; the model itself is none."""
    return {
        path: module
        for path, module in model.named_modules()
        if path and (is_linear(module) or isinstance(module, LoRALinear))
    }


def candidates(model: nn.Module) -> str:
    """Some names that ``target_modules`` could list, for an error message."""
    names = list(dict.fromkeys(path.rpartition(".")[2] for path in linear_layers(model)))
    more = ", ..." if len(names) > CANDIDATES_NAMED else ""
    return ", ".join(names[:CANDIDATES_NAMED]) + more if names else "none"


def shortest_targets(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """Names that ``find_targets`` resolves to exactly ``paths``: their last parts if that works, else all."""
    names = sorted({path.rpartition(".")[2] for path in paths})
    every = [path for path, _ in model.named_modules() if path and not _inside_adapter(path, model)]
    exact = {path for path in every if matches(path, names)} == set(paths)
    return names if exact else sorted(paths)


def check_names(argument: str, names: object) -> None:
    """Raise unless ``names`` is a string or a collection of strings.

    Raises:
        TypeError: it is not.
        ValueError: a string that is no regular expression.
    """
    if isinstance(names, str):
        try:
            re.compile(names)
        except re.error as error:
            raise ValueError(f"{argument} is {names!r}, expected a regular expression: {error}") from None
    elif not isinstance(names, (list, tuple, set, frozenset)) or not all(isinstance(n, str) for n in names):
        raise TypeError(f"{argument} is {names!r}, expected a str or a list of str")


def _inside_adapter(path: str, model: nn.Module) -> bool:
    """Whether the path leads into a LoRALinear."""
    module = model
    for part in path.split(".")[:-1]:
        module = getattr(module, part)
        if isinstance(module, LoRALinear):
            return True
    return False


def _output_head(model: nn.Module) -> nn.Module | None:
    """What a transformers model calls its output embeddings."""
    find = getattr(model, "get_output_embeddings", None)
    head = find() if callable(find) else None
    return head if isinstance(head, nn.Module) else None


def _shown(names: object) -> str:
    return repr(sorted(names)) if isinstance(names, (set, frozenset)) else repr(names)
