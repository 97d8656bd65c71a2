"""``sk.linear``: a matrix product with bias and activation in its epilogue."""

from __future__ import annotations

import torch
from torch import Tensor

from seo_kernels.ops.checks import activation_name
from seo_kernels.ops.function_pair import FunctionPair
from seo_kernels.ops.linear_arguments import fits, normalise_linear
from seo_kernels.ops.linear_second_order import linear_second_order
from seo_kernels.ops.transforms import transformed
from seo_kernels.reference.linear import linear_op


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """act(input weight^T + bias), differentiable to any order.

    Bias and activation are applied where a tile of the product is still in registers. For the gradient of an
    activation its input is kept, as large as the output, beside the arguments themselves.

    Args:
        input: (..., in); float64, float32, bfloat16 or float16; any strides.
        weight: (out, in), of the same dtype; any strides: a transposed weight costs no copy.
        bias: (out,) or None; another floating-point dtype is cast to the input's.
        activation: gelu, gelu_tanh, relu, silu (or swish), leaky_relu (of slope 0.01), relu2, mish, tanh,
            sigmoid; None: none.

    Returns:
        (..., out) in the dtype of the input. Sums are taken in float32 (float64 for float64). Under autocast
        all tensors take its dtype. A nested input gives a nested result, sequence by sequence.

    Raises:
        TypeError: an argument is not of the kind that is expected, or has a wrong dtype.
        ValueError: a shape or a device does not fit, or the activation is unknown.

    Backward, forward mode and ``torch.func`` transforms work in any nesting; ``torch.compile`` and
    ``torch.export`` give first-order gradients. ``vmap`` over the input is one call, unless a gradient of
    weight or bias is wanted for each sample.

    >>> import seo_kernels as sk
    >>> sk.linear(torch.randn(2, 7, 3), torch.randn(5, 3), torch.randn(5), "gelu").shape
    torch.Size([2, 7, 5])
    """
    if fits(input, weight, bias):
        name = "" if activation is None else activation_name(activation)
        return _pair(input, weight, bias, name, _keeps(input, weight, bias, name))
    if isinstance(input, Tensor) and input.is_nested:
        parts = [linear(part, weight, bias, activation) for part in input.unbind()]
        return torch.nested.as_nested_tensor(parts, layout=input.layout)
    arguments = normalise_linear(input, weight, bias, activation)
    return _pair(*arguments.values(), _keeps(*arguments.values()))


def _keeps(input: Tensor, weight: Tensor, bias: Tensor | None, activation: str) -> bool:
    """Whether the op is to keep the activation's input for a backward that may come.

    An exported program has no backward; should it get one, that computes the product again.
    """
    if not activation or torch.compiler.is_exporting():
        return False
    wanted = input.requires_grad or weight.requires_grad or (bias is not None and bias.requires_grad)
    return (torch.is_grad_enabled() and wanted) or transformed()


def _fake(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool
) -> tuple[Tensor, Tensor]:
    shape = (*input.shape[:-1], weight.shape[0])
    return input.new_empty(shape), input.new_empty(shape if activation and keep else (0,))


_pair = FunctionPair(
    "linear",
    inputs=("input", "weight", "bias", "activation", "keep"),
    differentiable=("input", "weight", "bias"),
    plain=linear_op,
    fake=_fake,
    saved_outputs=("preactivation",),
    backward_takes=("input", "weight", "bias", "preactivation", "activation"),
    leading=("input", "out", "preactivation"),
    second_order=linear_second_order,
)
