"""What may be looked at without a trace: the parameters of a model, and a model that stays as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.ops.checks import kind


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that get a gradient, by name; a shared one once.

    Raises:
        TypeError: no module.
        ValueError: it has no such parameter.

    >>> list(trainable_parameters(nn.Linear(2, 3)))
    ['weight', 'bias']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {kind(model)}, expected a torch.nn.Module")
    found = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not found:
        raise ValueError(f"model is a {type(model).__name__} without a trainable parameter, expected one")
    return found


def check_scalar_loss(loss: Tensor, name: str = "loss", *, needs_graph: bool = True) -> Tensor:
    """The loss, a real floating-point tensor of one element, as a scalar; with a graph unless told otherwise.

    Raises:
        TypeError: no tensor, or of integers or complex numbers.
        ValueError: several elements, or nothing to differentiate.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(f"{name} is {kind(loss)}, expected a tensor with one element")
    if not loss.is_floating_point():
        raise TypeError(f"{name} has dtype {loss.dtype}, expected a floating-point dtype")
    if loss.numel() != 1:
        raise ValueError(f"{name} has shape {tuple(loss.shape)}, expected a scalar")
    if needs_graph and not loss.requires_grad:
        raise ValueError(f"{name} depends on no trainable parameter, expected one that requires a gradient")
    return loss.reshape(())


def call_model(model: nn.Module, inputs: Any) -> Any:
    """What the model gives for a tensor, a tuple of positional arguments or a mapping of keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards each of its modules is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Afterwards gradients, modes, buffers and random numbers are as they were.

    Forward passes inside may update running statistics and draw random numbers; what was computed inside
    should be differentiated inside too, since buffers are put back.

    >>> model = nn.BatchNorm1d(3)
    >>> with undisturbed(model):
    ...     _ = model(torch.randn(8, 3))
    >>> model.running_mean.tolist()
    [0.0, 0.0, 0.0]
    """
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    devices = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for module, name, buffer, copy in buffers:
                    module._buffers[name] = buffer
                    if not torch.equal(buffer, copy):  # writing would spoil a graph that holds it
                        buffer.copy_(copy)
            for parameter, gradient in gradients:
                parameter.grad = gradient
            for module, training in modes:
                module.training = training
