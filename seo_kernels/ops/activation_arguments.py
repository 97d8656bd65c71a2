"""From what the user passes to ``sk.bias_act`` and ``sk.gated_act`` to what the ops take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.checks import activation_name, autocast_dtype, check_finite, check_floating, kind

NEGATIVE_SLOPE = 0.01  # torch's default


@dataclass(frozen=True)
class BiasActArguments:
    """The arguments of ``torch.ops.seo_kernels.bias_act_forward``, in the order of its schema."""

    input: Tensor  # (..., n)
    bias: Tensor | None  # (n,)
    activation: str
    negative_slope: float

    def values(self) -> tuple[Any, ...]:
        return (self.input, self.bias, self.activation, self.negative_slope)


@dataclass(frozen=True)
class GatedActArguments:
    """The arguments of ``torch.ops.seo_kernels.gated_act_forward``, in the order of its schema."""

    input: Tensor  # (..., n), or (..., 2n) without up
    up: Tensor | None  # (..., n)
    activation: str

    def values(self) -> tuple[Any, ...]:
        return (self.input, self.up, self.activation)


def normalise_bias_act(
    input: Tensor, bias: Tensor | None, activation: str, negative_slope: float
) -> BiasActArguments:
    """Check the arguments of ``sk.bias_act``.

    Raises:
        TypeError: not a tensor, number or name where one is expected, or a wrong dtype.
        ValueError: a shape or a device that does not fit, an unknown activation, or a slope for an activation
            that has none.
    """
    _check_input(input, "(..., n)")
    name = activation_name(activation)
    check_finite("negative_slope", negative_slope, "a number")
    if name != "leaky_relu" and negative_slope != NEGATIVE_SLOPE:
        raise ValueError(
            f"negative_slope is {negative_slope}, but activation is {activation!r}; only leaky_relu has one"
        )
    if bias is not None:
        check_floating("bias", bias, input.device, owner="input")
        if input.ndim == 0:
            raise ValueError("input has shape (), expected (..., n) beside a bias")
        if bias.ndim != 1 or bias.shape[0] != input.shape[-1]:
            raise ValueError(
                f"bias has shape {tuple(bias.shape)}, expected (n={input.shape[-1]},) for an input of shape "
                f"{tuple(input.shape)}"
            )
        bias = bias.to(input.dtype)
    return BiasActArguments(input, bias, name, float(negative_slope))


def normalise_gated_act(input: Tensor, activation: str, up: Tensor | None) -> GatedActArguments:
    """Check the arguments of ``sk.gated_act``. Under autocast the dtypes may differ: the wider one is taken.

    Raises:
        TypeError: not a tensor or name where one is expected, or a wrong dtype.
        ValueError: a shape or a device that does not fit, or an unknown activation.
    """
    _check_input(input, "(..., 2n)" if up is None else "(..., n)")
    name = activation_name(activation)
    if up is None:
        if input.ndim == 0 or input.shape[-1] % 2 != 0:
            raise ValueError(
                f"input has shape {tuple(input.shape)}, expected (..., 2n), gate and up "
                "side by side, or up as an argument of its own"
            )
        return GatedActArguments(input, None, name)
    check_floating("up", up, input.device, owner="input")
    if up.dtype != input.dtype:
        if autocast_dtype(input.device) is None:
            raise TypeError(f"up has dtype {up.dtype}, expected the input's {input.dtype}")
        dtype = torch.promote_types(input.dtype, up.dtype)
        input, up = input.to(dtype), up.to(dtype)
    if up.shape != input.shape:
        raise ValueError(f"up has shape {tuple(up.shape)}, expected the input's {tuple(input.shape)}")
    return GatedActArguments(input, up, name)


def _check_input(input: Tensor, expected: str) -> None:
    if not isinstance(input, Tensor):
        raise TypeError(f"input is {kind(input)}, expected a tensor {expected}")
    check_floating("input", input, input.device, owner="input")
