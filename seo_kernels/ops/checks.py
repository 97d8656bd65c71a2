"""Checks that the arguments of all ops share, with errors in the user's words; they look at no values."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "leaky_relu", "relu2", "mish", "tanh", "sigmoid")
_ALIASES = {"swish": "silu"}
_NUMBER = (float, int, torch.SymFloat, torch.SymInt)
_SEED_END = 2**63 - 1


def kind(value: object) -> str:
    """What a value is, for an error: "a list", "an int (3)"."""
    shown = f" ({value!r})" if isinstance(value, (int, float, str)) else ""
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' else 'a'} {name}{shown}"


def check_floating(
    name: str,
    tensor: Tensor,
    device: torch.device,
    expected: str = "float64, float32, bfloat16 or float16",
    owner: str = "query",
) -> None:
    """A dense floating-point tensor on the device of the argument ``owner``."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is {kind(tensor)}, expected a tensor")
    if tensor.dtype not in FLOATING:
        raise TypeError(f"{name} has dtype {tensor.dtype}, expected {expected}")
    check_placement(name, tensor, device, owner)


def check_placement(name: str, tensor: Tensor, device: torch.device, owner: str = "query") -> None:
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} has layout {tensor.layout}, expected torch.strided")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, expected the {owner}'s device {device}")


def check_number(name: str, number: float, expected: str) -> None:
    if not isinstance(number, _NUMBER) or isinstance(number, bool):
        raise TypeError(f"{name} is {kind(number)}, expected {expected}")


def check_finite(name: str, number: float, expected: str = "a number or None") -> None:
    check_number(name, number, expected)
    if not -math.inf < number < math.inf:
        raise ValueError(f"{name} is {number}, expected a finite number")


def check_dropout(dropout_p: float) -> None:
    check_number("dropout_p", dropout_p, "a number in [0, 1)")
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p is {dropout_p}, expected a number in [0, 1)")


def activation_name(activation: str, argument: str = "activation") -> str:
    """The name that kernels know the activation by."""
    name = _ALIASES.get(activation, activation) if isinstance(activation, str) else activation
    if name not in ACTIVATIONS:
        choices = ", ".join((*ACTIVATIONS, *_ALIASES))
        error = ValueError if isinstance(activation, str) else TypeError
        raise error(f"{argument} is {kind(activation)}, expected one of {choices}")
    return name


def draw_seed(dropout_p: float, device: torch.device) -> Tensor | None:
    """The seed of the dropout bits, int64 (), from torch's default generator; None: no dropout."""
    return torch.randint(_SEED_END, (), dtype=torch.int64, device=device) if dropout_p > 0.0 else None


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The dtype of the autocast region that the call is in, if any."""
    if device.type == "meta" or not torch.is_autocast_enabled(device.type):  # autocast knows no meta
        return None
    return torch.get_autocast_dtype(device.type)


def autocast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in the dtype of autocast; float64 and integers stay, as under torch's own."""
    eligible = tensor.is_floating_point() and tensor.dtype != torch.float64
    return tensor.to(dtype) if eligible else tensor
