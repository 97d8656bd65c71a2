"""From what the user passes to ``sk.linear`` and ``sk.lora_linear`` to what the ops take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seo_kernels.ops.checks import (
    FLOATING,
    activation_name,
    autocast,
    autocast_dtype,
    check_dropout,
    check_finite,
    check_floating,
    draw_seed,
    kind,
)


@dataclass(frozen=True)
class LinearArguments:
    """The arguments of ``torch.ops.seo_kernels.linear_forward`` but for the last, ``keep``."""

    input: Tensor  # (..., in)
    weight: Tensor  # (out, in)
    bias: Tensor | None  # (out,)
    activation: str  # "": none

    def values(self) -> tuple[Any, ...]:
        return (self.input, self.weight, self.bias, self.activation)


@dataclass(frozen=True)
class LoRALinearArguments:
    """The arguments of ``torch.ops.seo_kernels.lora_linear_forward``, in the order of its schema."""

    input: Tensor  # (..., in)
    weight: Tensor  # (out, in)
    bias: Tensor | None  # (out,)
    lora_a: Tensor  # (rank, in)
    lora_b: Tensor  # (out, rank)
    seed: Tensor | None  # int64 (), None iff dropout_p is 0
    scaling: float
    dropout_p: float

    def values(self) -> tuple[Any, ...]:
        return (
            self.input,
            self.weight,
            self.bias,
            self.lora_a,
            self.lora_b,
            self.seed,
            self.scaling,
            self.dropout_p,
        )


def fits(input: Any, weight: Any, bias: Any) -> bool:
    """Whether the arguments go to the op as they are, at a glance; if not, ``normalise_linear`` has a say.

    Deep models of small width feel every microsecond of a call.
    """
    if not (isinstance(input, Tensor) and isinstance(weight, Tensor)):
        return False
    if input.is_nested or weight.is_nested:
        return False
    dtype, device, shape = input.dtype, input.device, weight.shape
    if autocast_dtype(device) is not None or dtype not in FLOATING or input.layout is not torch.strided:
        return False
    if weight.dtype != dtype or weight.device != device or weight.layout is not torch.strided:
        return False
    if len(shape) != 2 or input.ndim == 0 or input.shape[-1] != shape[1]:
        return False
    if bias is None:
        return True
    return (
        isinstance(bias, Tensor)
        and bias.dtype == dtype
        and bias.device == device
        and bias.layout is torch.strided
        and bias.shape == shape[:1]
    )


def normalise_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None
) -> LinearArguments:
    """Check the arguments of ``sk.linear``; under autocast all tensors take its dtype here.

    Raises:
        TypeError: not a tensor or name where one is expected, or a wrong dtype.
        ValueError: a shape or a device that does not fit, or an unknown activation.
    """
    input, weight = _operands(input, weight)
    bias = None if bias is None else _bias(bias, input, weight)
    return LinearArguments(input, weight, bias, "" if activation is None else activation_name(activation))


def normalise_lora_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    dropout_p: float,
) -> LoRALinearArguments:
    """Check the arguments of ``sk.lora_linear``, and draw the seed where there is dropout.

    Under autocast all tensors take its dtype here.

    Raises:
        TypeError: not a tensor or number where one is expected, or a wrong dtype.
        ValueError: a shape, a device, a rank or a number that does not fit.
    """
    input, weight = _operands(input, weight)
    bias = None if bias is None else _bias(bias, input, weight)
    out_features, in_features = weight.shape
    check_floating("lora_a", lora_a, input.device, owner="input")
    check_floating("lora_b", lora_b, input.device, owner="input")
    if lora_a.ndim != 2 or lora_a.shape[1] != in_features:
        raise ValueError(
            f"lora_a has shape {tuple(lora_a.shape)}, expected (rank, in_features={in_features})"
        )
    rank = lora_a.shape[0]
    if rank == 0:
        raise ValueError(f"lora_a has shape {tuple(lora_a.shape)}, rank 0, expected a rank of at least 1")
    if rank > in_features or rank > out_features:
        raise ValueError(
            f"lora_a has shape {tuple(lora_a.shape)}, rank {rank}, expected a rank of at most "
            f"{min(in_features, out_features)}, the smaller of in_features={in_features} and "
            f"out_features={out_features}"
        )
    if lora_b.ndim != 2 or lora_b.shape[0] != out_features or lora_b.shape[1] != rank:
        raise ValueError(
            f"lora_b has shape {tuple(lora_b.shape)}, expected (out_features={out_features}, rank={rank})"
        )
    check_finite("scaling", scaling, "a number")
    check_dropout(dropout_p)
    return LoRALinearArguments(
        input,
        weight,
        bias,
        lora_a.to(input.dtype),
        lora_b.to(input.dtype),
        draw_seed(dropout_p, input.device),
        float(scaling),
        float(dropout_p),
    )


def _operands(input: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Input and weight, which fit each other, in the dtype of autocast where there is one."""
    for name, tensor, shape in (
        ("input", input, "(..., in_features)"),
        ("weight", weight, "(out_features, in_features)"),
    ):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is {kind(tensor)}, expected a tensor {shape}")
    dtype = autocast_dtype(input.device)
    if dtype is not None:
        input, weight = autocast(input, dtype), autocast(weight, dtype)
    check_floating("input", input, input.device, owner="input")
    check_floating("weight", weight, input.device, owner="input")
    if weight.dtype != input.dtype:
        raise TypeError(f"weight has dtype {weight.dtype}, expected the input's {input.dtype}")
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected (out_features, in_features)")
    in_features = weight.shape[1]
    if input.ndim == 0 or input.shape[-1] != in_features:
        raise ValueError(
            f"input has shape {tuple(input.shape)}, expected (..., in_features={in_features}) for a weight "
            f"of shape {tuple(weight.shape)}"
        )
    return input, weight


def _bias(bias: Tensor, input: Tensor, weight: Tensor) -> Tensor:
    """The bias in the input's dtype."""
    check_floating("bias", bias, input.device, owner="input")
    out_features = weight.shape[0]
    if bias.ndim != 1 or bias.shape[0] != out_features:
        raise ValueError(f"bias has shape {tuple(bias.shape)}, expected (out_features={out_features},)")
    return bias.to(input.dtype)
