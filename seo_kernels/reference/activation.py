"""``sk.bias_act`` and ``sk.gated_act`` in plain torch: the oracle of the tests, the fallback of the ops,
and the formulas of their higher derivatives.

Everything is computed in the dtype of the input, as written; nothing is upcast on the way. Where torch's own
function gives NaN for an infinite input (gelu, silu and mish of -inf, and their derivatives), the limit is
taken.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from seo_kernels.ops.activation_arguments import NEGATIVE_SLOPE, normalise_bias_act, normalise_gated_act


def bias_act(
    input: Tensor,
    bias: Tensor | None = None,
    activation: str = "gelu",
    *,
    negative_slope: float = NEGATIVE_SLOPE,
) -> Tensor:
    """``seo_kernels.bias_act`` in plain torch: same arguments, meaning and errors, (..., n).

    Differentiable to any order by autograd, in forward mode and under ``torch.func``.
    """
    return bias_act_op(*normalise_bias_act(input, bias, activation, negative_slope).values())


def gated_act(input: Tensor, activation: str = "silu", *, up: Tensor | None = None) -> Tensor:
    """``seo_kernels.gated_act`` in plain torch: same arguments, meaning and errors, (..., n).

    Differentiable to any order by autograd, in forward mode and under ``torch.func``.
    """
    return gated_act_op(*normalise_gated_act(input, activation, up).values())


def bias_act_op(input: Tensor, bias: Tensor | None, activation: str, negative_slope: float) -> Tensor:
    """The output of ``torch.ops.seo_kernels.bias_act_forward``, (..., n).

    Args:
        input: (..., n).
        bias: (n,) or None.
        activation: its name.
        negative_slope: of leaky_relu.
    """
    return apply_activation(input if bias is None else input + bias, activation, negative_slope)


def gated_act_op(input: Tensor, up: Tensor | None, activation: str) -> Tensor:
    """The output of ``torch.ops.seo_kernels.gated_act_forward``, (..., n).

    Args:
        input: (..., n), or (..., 2n) where up is None.
        up: (..., n) or None.
        activation: its name.
    """
    gate, up = input.chunk(2, -1) if up is None else (input, up)
    return apply_activation(gate, activation) * up


def apply_activation(input: Tensor, activation: str, negative_slope: float = NEGATIVE_SLOPE) -> Tensor:
    """The activation of that name, of every entry.

    gelu(x) = x P(X < x) for a standard normal X; gelu_tanh its approximation by tanh (Hendrycks and Gimpel
    2016); silu(x) = x sigmoid(x) (Elfwing et al. 2018); mish(x) = x tanh(log(1 + e^x)) (Misra 2019);
    relu2(x) = max(x, 0)^2 (So et al. 2021); leaky_relu(x) = max(x, 0) + negative_slope min(x, 0).
    """
    if activation == "leaky_relu":
        return F.leaky_relu(input, negative_slope)
    function = _FUNCTIONS[activation]
    bound = _BOUNDS.get(activation)
    if bound is None:
        return function(input)
    # beyond the bound the activation is x or 0 to the last digit of float64, at infinity too
    inside = function(input.clamp(-bound, bound))
    return torch.where(input > bound, input, inside)


_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
    "mish": F.mish,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
_BOUNDS = {"gelu": 50.0, "gelu_tanh": 50.0, "silu": 800.0, "mish": 800.0}
