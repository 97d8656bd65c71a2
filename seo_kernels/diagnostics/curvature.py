"""Products with the Hessian of a loss, exact, without the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.undisturbed import check_scalar_loss, trainable_parameters
from seo_kernels.ops.checks import kind

Result = TypeVar("Result")


class SecondDerivativeError(RuntimeError):
    """An operation of the model has no second derivative."""


@overload
def hessian_vector_product(model: nn.Module, loss: Tensor, vector: Tensor) -> Tensor: ...
@overload
def hessian_vector_product(model: nn.Module, loss: Tensor, vector: Sequence[Tensor]) -> list[Tensor]: ...
def hessian_vector_product(
    model: nn.Module, loss: Tensor, vector: Tensor | Sequence[Tensor]
) -> Tensor | list[Tensor]:
    """H v, with H the Hessian of the loss by all trainable parameters: reverse mode over reverse mode.

    Exact (Pearlmutter 1994, "Fast Exact Multiplication by the Hessian"), for about three times the
    arithmetic of a gradient; every ``sk`` op, attention with all its terms included, has the second
    derivatives that it takes.

    Args:
        model: its trainable parameters are those of H, in the order of ``model.parameters()``.
        loss: a scalar, of a forward pass in eager mode. Its graph is consumed.
        vector: v, flat (number of trainable parameter entries,), or a list of tensors shaped like the
            parameters; converted to their dtype and device.

    Returns:
        H v in the form of the vector; zeros where the gradient does not depend on the parameters.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a loss that is no scalar or depends on nothing, a vector of another size or shape, a model
            without trainable parameters.
        SecondDerivativeError: an operation of the model can't be differentiated twice.

    >>> model = nn.Linear(3, 1, bias=False)
    >>> inputs = torch.eye(3)
    >>> loss = model(inputs).square().sum()  # H = 2 I
    >>> hessian_vector_product(model, loss, torch.tensor([1.0, 2.0, 3.0]))
    tensor([2., 4., 6.])
    """
    parameters = list(trainable_parameters(model).values())
    parts = split_like(vector, parameters, "vector")
    loss = check_scalar_loss(loss)
    product = twice_differentiated(lambda: _product(gradient_graph(loss, parameters), parameters, parts))
    if isinstance(vector, Tensor):
        return torch.cat([part.reshape(-1) for part in product])
    return product


def gradient_graph(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradient with its graph; None where the loss does not depend on a parameter.

    Raises:
        SecondDerivativeError: a part of it can't be differentiated, and torch would leave it out silently.
    """
    gradients: list[Tensor | None] = []
    gradients += torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    refuse_loose_ends(gradients)
    return gradients


def refuse_loose_ends(gradients: Sequence[Tensor | None]) -> None:
    """Raise where a gradient that was taken with its graph has a part that can't be differentiated again.

    What ``once_differentiable`` returns hangs on an error that torch meets only on the way to all leaves:
    ``torch.autograd.grad`` leaves it out.

    Raises:
        SecondDerivativeError: there is such a part.
    """
    seen: set[Any] = set()
    waiting: list[Any] = [g.grad_fn for g in gradients if g is not None]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        if node.name() == "torch::autograd::Error":
            raise SecondDerivativeError(
                "the loss can't be differentiated twice: a function of the model has a backward that is "
                "marked once_differentiable"
            )
        seen.add(node)
        waiting.extend(following for following, _ in node.next_functions)


def graph_product(
    gradients: Sequence[Tensor | None], parameters: Sequence[Tensor], vector: Sequence[Tensor]
) -> list[Tensor]:
    """H v from the gradient's graph, which is kept for the next vector."""
    return _product(gradients, parameters, vector, keep=True)


def _product(
    gradients: Sequence[Tensor | None],
    parameters: Sequence[Tensor],
    vector: Sequence[Tensor],
    keep: bool = False,
) -> list[Tensor]:
    pairs = [(g, v) for g, v in zip(gradients, vector, strict=True) if g is not None and g.requires_grad]
    if not pairs:  # the loss is linear in the parameters
        return [torch.zeros_like(parameter) for parameter in parameters]
    product = torch.autograd.grad(
        [g for g, _v in pairs],
        parameters,
        [v for _g, v in pairs],
        retain_graph=keep,
        allow_unused=True,
        materialize_grads=True,
    )
    return list(product)


def split_like(
    vector: Tensor | Sequence[Tensor], parameters: Sequence[Tensor], name: str = "vector"
) -> list[Tensor]:
    """A flat vector, or a list of tensors, as tensors of the parameters' shapes, dtypes and devices.

    Raises:
        TypeError: neither of them.
        ValueError: sizes or shapes that do not fit.
    """
    count = sum(parameter.numel() for parameter in parameters)
    if isinstance(vector, Tensor):
        if vector.shape != (count,):
            raise ValueError(
                f"{name} has shape {tuple(vector.shape)}, expected ({count},), an entry for each of the "
                "trainable parameters"
            )
        flat = vector.detach().split([parameter.numel() for parameter in parameters])
        return [part.view_as(p).to(p) for part, p in zip(flat, parameters, strict=True)]
    if not isinstance(vector, (list, tuple)) or not all(isinstance(part, Tensor) for part in vector):
        raise TypeError(f"{name} is {kind(vector)}, expected a flat tensor or a list of tensors")
    if len(vector) != len(parameters):
        raise ValueError(f"{name} has {len(vector)} tensors, expected {len(parameters)}, one per parameter")
    for i, (part, parameter) in enumerate(zip(vector, parameters, strict=True)):
        if part.shape != parameter.shape:
            shape, expected = tuple(part.shape), tuple(parameter.shape)
            raise ValueError(f"{name}[{i}] has shape {shape}, expected {expected}, the parameter's")
    return [part.detach().to(p) for part, p in zip(vector, parameters, strict=True)]


# What torch says where an operation can't be differentiated twice.
_REFUSALS = (
    "double backward",
    "is not implemented",
    "once_differentiable",
    "does not require grad",
    "not compatible with .grad()",
    "require grad, but",
)


def twice_differentiated(derive: Callable[[], Result]) -> Result:
    """What ``derive`` gives; where an operation has no second derivative, an error that says what to do.

    Raises:
        SecondDerivativeError: torch's own error is its cause.
    """
    try:
        return derive()
    except RuntimeError as error:  # NotImplementedError is one
        if not any(words in str(error) for words in _REFUSALS):
            raise
        raise SecondDerivativeError(
            "the loss can't be differentiated twice: an operation of the model has no second derivative "
            f"({str(error).splitlines()[0]}); run the model without torch.compile and reentrant "
            "checkpointing, and with attention that has one: sk.attention, or torch's under "
            "sdpa_kernel(SDPBackend.MATH)"
        ) from error
