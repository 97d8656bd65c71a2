"""A user's own module under test, named as ``package.module:factory``.

A factory is a function without arguments that returns one of

- ``(model, inputs)``
- ``(model, inputs, loss)``: ``loss(output)`` is a scalar tensor
- ``(model, inputs, target, loss)``: ``loss(output, target)`` is a scalar tensor

``inputs`` is what the model is called with: a tuple or list of positional arguments, a mapping of keyword
arguments, or the one argument. Where no loss is given, it is the output if that is a scalar, the entry
``"loss"`` of an output that is a mapping, and else the sum of every floating-point tensor in the output, each
times fixed random weights (a plain sum would hide errors: that of a softmax is constant).

Seeds: whoever needs repeatable weights calls ``torch.manual_seed`` in the factory.
"""

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from seo_kernels.diagnostics.gradient_workspace import NO_TARGET
from seo_kernels.ops.checks import kind

FORMS = "(model, inputs), (model, inputs, loss) or (model, inputs, target, loss)"


class FactoryError(ValueError):
    """A name that leads to no model, or a factory that returns something else; the message says what."""


@dataclass(frozen=True)
class ModuleUnderTest:
    """A model, what it is called with, and the loss of its output.

    Attributes:
        inputs: positional arguments; empty where there are ``keywords``.
        loss: of the output, the target included; None: ``loss_of_any_output``.
        loss_fn: as the factory gave it: of the output, and of ``target`` if there is one.
        target: ``NO_TARGET`` where there is none.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    loss: Callable[[Any], Tensor] | None
    name: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    loss_fn: Callable[..., Tensor] | None = None
    target: Any = NO_TARGET

    @property
    def arguments(self) -> tuple[Any, ...] | Mapping[str, Any]:
        """Of the model: keywords or positional arguments."""
        return self.keywords or self.inputs

    def output(self, model: nn.Module | None = None) -> Any:
        """What ``model`` (by default the own one) gives for the inputs."""
        return (self.model if model is None else model)(*self.inputs, **self.keywords)

    def loss_of_output(self, output: Any) -> Tensor:
        """The scalar loss: the factory's, or the one that the module's docstring describes.

        Raises:
            FactoryError: it is not a scalar tensor, or there is nothing in the output to make one of.
        """
        if self.loss is None:
            return loss_of_any_output(output, self.name)
        loss = self.loss(output)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            came = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else kind(loss)
            raise FactoryError(f"{self.name}: the loss is {came}, expected a scalar tensor")
        return loss.reshape(())

    def loss_value(self, model: nn.Module | None = None) -> Tensor:
        """The scalar loss of one forward pass, with its graph."""
        return self.loss_of_output(self.output(model))


def load_factory(name: str) -> ModuleUnderTest:
    """Import and call the factory ``"package.module:factory"``; the current folder is searched first.

    Args:
        name: a module, importable as with ``python -m`` (the current folder is put on ``sys.path``), a colon,
            and a function in it (dots lead into classes).

    Raises:
        FactoryError: the name, the module, the function or what it returns is not as described above, or the
            model has no trainable parameter.
    """
    if not isinstance(name, str):
        raise TypeError(f"name is {kind(name)}, expected 'package.module:factory'")
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise FactoryError(f"name is {name!r}, expected 'package.module:factory'")
    found: Any = _import(module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = [
                known
                for known, value in vars(found).items()
                if callable(value) and getattr(value, "__module__", None) == module_name and known[:1] != "_"
            ]
            raise FactoryError(
                f"{module_name} has no {attribute!r}, expected one of {', '.join(near) or 'its functions'}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise FactoryError(f"{name} is {kind(found)}, expected a function that returns {FORMS}")
    try:
        made = found()
    except Exception as error:
        raise FactoryError(f"{name} raised {_told(error)}") from error
    return module_under_test(name, made)


def module_under_test(name: str, made: Any) -> ModuleUnderTest:
    """What a factory returned, checked.

    Raises:
        FactoryError: it is none of the three forms, or the model has no trainable parameter.

    >>> model = nn.Linear(3, 2)
    >>> found = module_under_test("mine", (model, torch.ones(4, 3), torch.zeros(4, 2), nn.MSELoss()))
    >>> found.loss_value().shape
    torch.Size([])
    """
    if not isinstance(made, tuple) or not 2 <= len(made) <= 4:
        came = f"a tuple of {len(made)}" if isinstance(made, tuple) else kind(made)
        raise FactoryError(f"{name} returned {came}, expected {FORMS}")
    model, inputs = made[:2]
    if not isinstance(model, nn.Module):
        raise FactoryError(f"{name} returned {kind(model)} as model, expected a torch.nn.Module")
    loss_fn = made[-1] if len(made) > 2 else None
    if len(made) > 2 and not callable(loss_fn):
        raise FactoryError(f"{name} returned {kind(loss_fn)} as loss, expected a function: {FORMS}")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise FactoryError(f"{name} returned a {type(model).__name__} without trainable parameters")
    target = made[2] if len(made) == 4 else NO_TARGET
    loss = loss_fn if target is NO_TARGET or loss_fn is None else _WithTarget(loss_fn, target)
    keywords = dict(inputs) if isinstance(inputs, Mapping) else {}
    positional = () if keywords else tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    if not positional and not keywords:
        raise FactoryError(f"{name} returned no inputs, expected what the model is called with")
    return ModuleUnderTest(model, positional, loss, name, keywords, loss_fn, target)


def loss_of_any_output(output: Any, name: str = "the model") -> Tensor:
    """A scalar of an output that has no loss of its own; see the module's docstring.

    Raises:
        FactoryError: the output holds no floating-point tensor.
    """
    if isinstance(output, Mapping) and isinstance(output.get("loss"), Tensor):
        output = output["loss"]
    tensors = [leaf for leaf in _leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not tensors:
        raise FactoryError(f"{name} gives {kind(output)} without a floating-point tensor, expected one")
    if len(tensors) == 1 and tensors[0].numel() == 1:
        return tensors[0].reshape(())
    generator = torch.Generator().manual_seed(1)
    total = tensors[0].new_zeros(())
    for tensor in tensors:
        weights = torch.randn(tensor.shape, generator=generator, dtype=torch.float64, device="cpu")
        total = total + (tensor * weights.to(tensor.device, tensor.dtype)).sum().to(total)
    return total


@dataclass(frozen=True)
class _WithTarget:
    """A loss of the output alone."""

    loss_fn: Callable[..., Tensor]
    target: Any

    def __call__(self, output: Any) -> Tensor:
        return self.loss_fn(output, self.target)


def _leaves(output: Any) -> list[Any]:
    if isinstance(output, Mapping):  # a ModelOutput need not be registered as a pytree
        output = list(output.values())
    return pytree.tree_leaves(output)


def _import(module_name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise FactoryError(
                f"no module {error.name!r} for {module_name!r}, expected one that is installed or lies in "
                f"{here}"
            ) from error
        raise FactoryError(f"importing {module_name} raised {_told(error)}") from error
    except Exception as error:
        raise FactoryError(f"importing {module_name} raised {_told(error)}") from error


def _told(error: Exception) -> str:
    """The error in a line, and where it arose."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
