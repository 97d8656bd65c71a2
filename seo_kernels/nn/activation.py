"""Activations in the place of torch's, and the gated ones that torch does not have.

Those that are torch's subclass its layers. ``inplace=True`` is refused: results are always new tensors.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from seo_kernels.nn.fast_path import no_op
from seo_kernels.ops.activation import bias_act, gated_act
from seo_kernels.ops.activation_arguments import NEGATIVE_SLOPE, normalise_bias_act
from seo_kernels.ops.checks import activation_name


def _refuse_inplace(inplace: bool) -> None:
    if inplace:
        raise ValueError("inplace is True, expected False: results are always new tensors")


def _elementwise(input: Tensor, activation: str, negative_slope: float = NEGATIVE_SLOPE) -> Tensor:
    if input.is_nested:  # as torch.nn.TransformerEncoder makes them of padded batches
        parts = [bias_act(part, None, activation, negative_slope=negative_slope) for part in input.unbind()]
        return torch.nested.as_nested_tensor(parts, layout=input.layout)
    return bias_act(input, None, activation, negative_slope=negative_slope)


class GELU(nn.GELU):
    """``torch.nn.GELU`` on ``sk.bias_act``: x P(X < x), or its approximation by tanh (approximate="tanh").

    A forward pre-hook without effect, here and in the other layers that are torch's, keeps
    ``torch.nn.TransformerEncoderLayer`` from its fast path, which would leave the layer out.

    >>> GELU(approximate="tanh")
    GELU(approximate='tanh')
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate is {approximate!r}, expected 'none' or 'tanh'")
        super().__init__(approximate)
        self.register_forward_pre_hook(no_op)

    def forward(self, input: Tensor) -> Tensor:
        name = "gelu_tanh" if self.approximate == "tanh" else "gelu"
        if torch.jit.is_scripting():
            return torch.ops.seo_kernels.bias_act_forward(input, None, name, 0.01)
        else:
            return _elementwise(input, name)


class SiLU(nn.SiLU):
    """``torch.nn.SiLU`` on ``sk.bias_act``: x sigmoid(x), also called Swish."""

    def __init__(self, inplace: bool = False) -> None:
        _refuse_inplace(inplace)
        super().__init__()
        self.register_forward_pre_hook(no_op)

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.seo_kernels.bias_act_forward(input, None, "silu", 0.01)
        else:
            return _elementwise(input, "silu")


class ReLU(nn.ReLU):
    """``torch.nn.ReLU`` on ``sk.bias_act``: max(x, 0)."""

    def __init__(self, inplace: bool = False) -> None:
        _refuse_inplace(inplace)
        super().__init__()
        self.register_forward_pre_hook(no_op)

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.seo_kernels.bias_act_forward(input, None, "relu", 0.01)
        else:
            return _elementwise(input, "relu")


class LeakyReLU(nn.LeakyReLU):
    """``torch.nn.LeakyReLU`` on ``sk.bias_act``: max(x, 0) + negative_slope min(x, 0)."""

    def __init__(self, negative_slope: float = NEGATIVE_SLOPE, inplace: bool = False) -> None:
        _refuse_inplace(inplace)
        normalise_bias_act(torch.empty(0), None, "leaky_relu", negative_slope)
        super().__init__(negative_slope)
        self.register_forward_pre_hook(no_op)

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.seo_kernels.bias_act_forward(input, None, "leaky_relu", self.negative_slope)
        else:
            return _elementwise(input, "leaky_relu", self.negative_slope)


class Mish(nn.Mish):
    """``torch.nn.Mish`` on ``sk.bias_act``: x tanh(log(1 + e^x))."""

    def __init__(self, inplace: bool = False) -> None:
        _refuse_inplace(inplace)
        super().__init__()
        self.register_forward_pre_hook(no_op)

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.seo_kernels.bias_act_forward(input, None, "mish", 0.01)
        else:
            return _elementwise(input, "mish")


class Tanh(nn.Tanh):
    """``torch.nn.Tanh`` on ``sk.bias_act``."""

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_pre_hook(no_op)

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.seo_kernels.bias_act_forward(input, None, "tanh", 0.01)
        else:
            return _elementwise(input, "tanh")


class Sigmoid(nn.Sigmoid):
    """``torch.nn.Sigmoid`` on ``sk.bias_act``: 1 / (1 + e^-x)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_forward_pre_hook(no_op)

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.seo_kernels.bias_act_forward(input, None, "sigmoid", 0.01)
        else:
            return _elementwise(input, "sigmoid")


class ReLUSquared(nn.Module):
    """max(x, 0)^2 of every entry (So et al. 2021, "Primer"), on ``sk.bias_act``."""

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.seo_kernels.bias_act_forward(input, None, "relu2", 0.01)
        else:
            return _elementwise(input, "relu2")


class _GatedActivation(nn.Module):
    """act(gate) * up on ``sk.gated_act``, without parameters (Shazeer 2020, eq. 5).

    Called with one tensor (..., 2n), gate then up, or with two of (..., n); it returns (..., n).
    """

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, input: Tensor, up: Tensor | None = None) -> Tensor:
        if torch.jit.is_scripting():
            return torch.ops.seo_kernels.gated_act_forward(input, up, self.activation)
        else:
            return gated_act(input, self.activation, up=up)


class SwiGLU(_GatedActivation):
    """silu(gate) * up on ``sk.gated_act``: input (..., 2n), gate then up, or two tensors (..., n).

    >>> SwiGLU()(torch.randn(2, 8)).shape
    torch.Size([2, 4])
    """

    def __init__(self) -> None:
        super().__init__("silu")


class GEGLU(_GatedActivation):
    """gelu(gate) * up on ``sk.gated_act``: input (..., 2n), gate then up, or two tensors (..., n).

    Args:
        approximate: "none", or "tanh" for the approximation, as for ``GELU``.
    """

    def __init__(self, approximate: str = "none") -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate is {approximate!r}, expected 'none' or 'tanh'")
        super().__init__("gelu_tanh" if approximate == "tanh" else "gelu")
        self.approximate = approximate

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class ReGLU(_GatedActivation):
    """relu(gate) * up on ``sk.gated_act``: input (..., 2n), gate then up, or two tensors (..., n)."""

    def __init__(self) -> None:
        super().__init__("relu")


_BY_NAME: dict[str, Callable[[], nn.Module]] = {
    "gelu": GELU,
    "gelu_tanh": lambda: GELU("tanh"),
    "relu": ReLU,
    "silu": SiLU,
    "leaky_relu": LeakyReLU,
    "relu2": ReLUSquared,
    "mish": Mish,
    "tanh": Tanh,
    "sigmoid": Sigmoid,
}


def activation_layer(activation: str) -> nn.Module:
    """The layer of an activation that ``sk.bias_act`` knows by this name.

    Raises:
        TypeError: activation is no name.
        ValueError: it is unknown.

    >>> activation_layer("swish")
    SiLU()
    """
    return _BY_NAME[activation_name(activation)]()
