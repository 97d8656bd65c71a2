"""``sk.bias_act`` and ``sk.gated_act``: activations in one pass, with their gradients in another."""

from __future__ import annotations

from torch import Tensor

from seo_kernels.ops.activation_arguments import NEGATIVE_SLOPE, normalise_bias_act, normalise_gated_act
from seo_kernels.ops.function_pair import FunctionPair
from seo_kernels.reference.activation import bias_act_op, gated_act_op


def bias_act(
    input: Tensor,
    bias: Tensor | None = None,
    activation: str = "gelu",
    *,
    negative_slope: float = NEGATIVE_SLOPE,
) -> Tensor:
    """act(input + bias), differentiable to any order.

    One pass over the input; the gradients of input and bias come from one pass too, and from nothing but the
    arguments themselves.

    Args:
        input: (..., n), any shape where there is no bias; float64, float32, bfloat16 or float16; any strides.
        bias: (n,) or None; another floating-point dtype is cast to the input's.
        activation: gelu, gelu_tanh, relu, silu (or swish), leaky_relu, relu2 (the square of relu), mish,
            tanh, sigmoid.
        negative_slope: of leaky_relu; the others have none.

    Returns:
        (..., n), contiguous, in the dtype of the input, under autocast too (as for torch's activations).
        float32: within 2 units in the last place of the exact activation of input + bias (3 on machines
        without fused multiply-add), from denormals to infinity, where limits are taken: gelu, silu and mish
        of -inf are -0. bfloat16 and float16 are computed in float32 and rounded once. At a kink the
        derivative is the one from the left.

    Raises:
        TypeError: an argument is not of the kind that is expected, or has a wrong dtype.
        ValueError: a shape or a device does not fit, the activation is unknown, or a slope is given for one
            that has none.

    Backward, forward mode and ``torch.func`` transforms work in any nesting; ``torch.compile`` and
    ``torch.export`` give first-order gradients. ``vmap`` over the input is one call.

    >>> import torch, seo_kernels as sk
    >>> sk.bias_act(torch.tensor([-1.0, 2.0]), torch.tensor([0.0, 1.0]), "relu2")
    tensor([0., 9.])
    """
    return _bias_act(*normalise_bias_act(input, bias, activation, negative_slope).values())


def gated_act(input: Tensor, activation: str = "silu", *, up: Tensor | None = None) -> Tensor:
    """act(gate) * up, differentiable to any order: SwiGLU with silu, GEGLU with gelu, ReGLU with relu.

    One pass over the input; the gradients of both halves come from one pass too, and from nothing but the
    arguments themselves.

    Args:
        input: (..., 2n): gate, then up, side by side; or the gate alone, (..., n), beside ``up``. float64,
            float32, bfloat16 or float16; any strides.
        activation: as for ``bias_act``; leaky_relu has slope 0.01.
        up: (..., n) or None; same dtype as input (under autocast the wider of the two is taken).

    Returns:
        (..., n), contiguous, in the dtype of the input.

    Raises:
        TypeError: an argument is not of the kind that is expected, or has a wrong dtype.
        ValueError: a shape or a device does not fit, the last dimension is odd, or the activation is unknown.

    Backward, forward mode and ``torch.func`` transforms work in any nesting; ``torch.compile`` and
    ``torch.export`` give first-order gradients. ``vmap`` over input and up is one call.

    Source: Shazeer 2020, "GLU Variants Improve Transformer", eq. 5.

    >>> import torch, seo_kernels as sk
    >>> sk.gated_act(torch.tensor([2.0, 1.0, 10.0, 20.0]), "relu")
    tensor([20., 20.])
    """
    return _gated_act(*normalise_gated_act(input, activation, up).values())


def _fake_bias_act(input: Tensor, bias: Tensor | None, activation: str, negative_slope: float) -> Tensor:
    return input.new_empty(input.shape)


def _fake_gated_act(input: Tensor, up: Tensor | None, activation: str) -> Tensor:
    return input.new_empty(input.shape if up is not None else (*input.shape[:-1], input.shape[-1] // 2))


_bias_act = FunctionPair(
    "bias_act",
    inputs=("input", "bias", "activation", "negative_slope"),
    differentiable=("input", "bias"),
    plain=bias_act_op,
    fake=_fake_bias_act,
    leading=("input", "out"),
)
_gated_act = FunctionPair(
    "gated_act",
    inputs=("input", "up", "activation"),
    differentiable=("input", "up"),
    plain=gated_act_op,
    fake=_fake_gated_act,
    leading=("input", "up", "out"),
)
