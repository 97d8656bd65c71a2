"""Hand-written ``torch.autograd.Function`` classes on the library's ops, to be called by ``apply``.

Each states its gradient itself, in terms of ops that are differentiable in turn: reverse mode to any order,
forward mode, ``vmap`` and the other transforms of ``torch.func`` work. ``torch.compile`` cuts its graph
around them; the ops below them (``sk.linear``, ``sk.bias_act``, ``sk.huber_loss``) are compiled whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from seo_kernels.ops.activation import bias_act
from seo_kernels.ops.checks import kind
from seo_kernels.ops.linear import linear
from seo_kernels.ops.losses import huber_loss

NEGATIVE_SLOPE = 0.1  # of CustomActivation

Gradients = tuple[Tensor | None, ...]


class CustomGradientFunction(Function):
    """``apply(input, weight)``: input weight^T, a linear map in the layout of ``nn.Linear``.

    Args:
        input: (..., in), floating.
        weight: (out, in), of the same dtype.

    Returns:
        (..., out). The gradients are grad weight, and grad^T input summed over the leading dimensions.

    Raises:
        TypeError, ValueError: as ``sk.linear``.

    >>> CustomGradientFunction.apply(torch.ones(2, 3), torch.eye(4, 3)).shape
    torch.Size([2, 4])
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, weight: Tensor) -> Tensor:
        return linear(input, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        return _linear_gradients(ctx, grad)[:2]

    @staticmethod
    def jvp(ctx: Any, input_tangent: Tensor, weight_tangent: Tensor) -> Tensor:
        input, weight = _saved_primals(ctx)
        with forward_ad._set_fwd_grad_enabled(True):
            return linear(input_tangent, weight) + linear(input, weight_tangent)


class CustomAutogradFunction(Function):
    """``apply(input_tensor, weight)``: input_tensor @ weight.

    Args:
        input_tensor: (..., in), floating.
        weight: (in, out), of the same dtype.

    Returns:
        (..., out). The gradients are grad weight^T, and input^T grad summed over the leading dimensions.

    Raises:
        TypeError, ValueError: no floating tensors, different dtypes, or shapes that do not fit.

    >>> CustomAutogradFunction.apply(torch.ones(2, 3), torch.eye(3, 4)).shape
    torch.Size([2, 4])
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(input_tensor: Tensor, weight: Tensor) -> Tensor:
        _check_product(input_tensor, weight)
        return linear(input_tensor, weight.t())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        input_tensor, weight = ctx.saved_tensors
        to_input, to_weight = ctx.needs_input_grad
        return (
            linear(grad, weight.to(grad.dtype)).to(input_tensor.dtype) if to_input else None,
            _weight_gradient(input_tensor, grad).to(weight.dtype) if to_weight else None,
        )

    @staticmethod
    def jvp(ctx: Any, input_tangent: Tensor, weight_tangent: Tensor) -> Tensor:
        input_tensor, weight = _saved_primals(ctx)
        with forward_ad._set_fwd_grad_enabled(True):
            return linear(input_tangent, weight.t()) + linear(input_tensor, weight_tangent.t())


class CustomLinear(Function):
    """``apply(x, weight, bias=None)``: x weight^T + bias, as ``torch.nn.functional.linear``.

    Args:
        x: (..., in), floating.
        weight: (out, in), of the same dtype.
        bias: (out,) or None.

    Raises:
        TypeError, ValueError: as ``sk.linear``, which calls x its input.

    >>> CustomLinear.apply(torch.ones(2, 3), torch.eye(4, 3), torch.ones(4))[0]
    tensor([2., 2., 2., 1.])
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return linear(x, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias = inputs
        _save(ctx, x, weight)
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        bias_gradient = None
        if ctx.needs_input_grad[2]:
            bias_gradient = grad.reshape(-1, grad.shape[-1]).sum(0).to(ctx.bias_dtype)
        return (*_linear_gradients(ctx, grad), bias_gradient)

    @staticmethod
    def jvp(ctx: Any, x_tangent: Tensor, weight_tangent: Tensor, bias_tangent: Tensor | None) -> Tensor:
        x, weight = _saved_primals(ctx)
        with forward_ad._set_fwd_grad_enabled(True):
            return linear(x_tangent, weight, bias_tangent) + linear(x, weight_tangent)


class CustomReLU(Function):
    """``apply(x)``: max(x, 0), with derivative 0 at 0.

    Raises:
        TypeError: x is no floating tensor.

    >>> CustomReLU.apply(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _relu(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _pulled_back(_relu, ctx.saved_tensors, grad)[0]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        with forward_ad._set_fwd_grad_enabled(True):  # the Jacobian is diagonal: both products are one
            return _pulled_back(_relu, _saved_primals(ctx), tangent)[0]


class CustomActivation(Function):
    """``apply(x)``: x where it is above 0, 0.1 x elsewhere (a leaky ReLU).

    Raises:
        TypeError: x is no floating tensor.

    >>> CustomActivation.apply(torch.tensor([-1.0, 2.0]))
    tensor([-0.1000,  2.0000])
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _leaky(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _pulled_back(_leaky, ctx.saved_tensors, grad)[0]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        with forward_ad._set_fwd_grad_enabled(True):
            return _pulled_back(_leaky, _saved_primals(ctx), tangent)[0]


class CustomHuberLoss(Function):
    """``apply(predictions, targets, delta=1.0)``: the mean of Huber's loss, see ``sk.huber_loss``.

    Args:
        predictions, targets: floating tensors of one shape; both get gradients.
        delta: a number above 0, where the square turns into a line.

    Raises:
        TypeError, ValueError: an argument of another kind, shapes that differ, or a delta out of range.

    >>> CustomHuberLoss.apply(torch.tensor([0.5, 3.0]), torch.zeros(2))
    tensor(1.3125)
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(predictions: Tensor, targets: Tensor, delta: float = 1.0) -> Tensor:
        check_same_shape(predictions, targets)
        return huber_loss(predictions, targets, delta=delta)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _save(ctx, *inputs[:2])
        ctx.delta, ctx.loss_dtype = inputs[2], output.dtype

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Gradients:
        return (*_huber_gradients(ctx.delta, ctx.saved_tensors, grad), None)

    @staticmethod
    def jvp(ctx: Any, prediction_tangent: Tensor, target_tangent: Tensor, delta_tangent: None) -> Tensor:
        predictions, targets = _saved_primals(ctx)
        with forward_ad._set_fwd_grad_enabled(True):
            one = torch.ones((), dtype=ctx.loss_dtype, device=predictions.device)
            slopes = _huber_gradients(ctx.delta, (predictions, targets), one)
            return (slopes[0] * prediction_tangent).sum() + (slopes[1] * target_tangent).sum()


def check_same_shape(predictions: Tensor, targets: Tensor) -> None:
    """Raise unless both are tensors of one shape: (B, 1) beside (B,) would broadcast to (B, B)."""
    for name, value in (("predictions", predictions), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is {kind(value)}, expected a tensor")
    if targets.shape != predictions.shape:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}, expected that of predictions, "
            f"{tuple(predictions.shape)}"
        )


def _check_product(input_tensor: Tensor, weight: Tensor) -> None:
    for name, value, shape in (
        ("input_tensor", input_tensor, "(..., in)"),
        ("weight", weight, "(in, out)"),
    ):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is {kind(value)}, expected a tensor {shape}")
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected (in, out)")
    if input_tensor.ndim == 0 or input_tensor.shape[-1] != weight.shape[0]:
        raise ValueError(
            f"input_tensor has shape {tuple(input_tensor.shape)}, expected (..., in={weight.shape[0]}) for a "
            f"weight (in, out) of shape {tuple(weight.shape)}"
        )


def _relu(x: Tensor) -> Tensor:
    return bias_act(x, None, "relu")


def _leaky(x: Tensor) -> Tensor:
    return bias_act(x, None, "leaky_relu", negative_slope=NEGATIVE_SLOPE)


def _huber_gradients(delta: float, operands: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    return _pulled_back(lambda p, t: huber_loss(p, t, delta=delta), operands, grad)


def _linear_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Of input (..., in) and weight (out, in), from grad (..., out), whose dtype may be autocast's."""
    input, weight = ctx.saved_tensors
    to_input, to_weight = ctx.needs_input_grad[:2]
    return (
        linear(grad, weight.t().to(grad.dtype)).to(input.dtype) if to_input else None,
        _weight_gradient(input, grad).t().to(weight.dtype) if to_weight else None,
    )


def _weight_gradient(input: Tensor, grad: Tensor) -> Tensor:
    """input^T grad, (in, out), summed over the leading dimensions."""
    rows = input.reshape(-1, input.shape[-1]).to(grad.dtype)
    return linear(rows.t(), grad.reshape(-1, grad.shape[-1]).t())


def _pulled_back(
    function: Callable[..., Tensor], operands: tuple[Tensor, ...], grad: Tensor
) -> tuple[Tensor, ...]:
    """grad times the Jacobian of the op at the operands, differentiable in all of them."""
    return torch.func.vjp(function, *operands)[1](grad)


def _save(ctx: Any, *tensors: Tensor) -> None:
    """Keep the tensors for reverse and forward mode."""
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)


def _saved_primals(ctx: Any) -> tuple[Tensor, ...]:
    """What ``_save`` got, without the tangents of this level, whose derivative a jvp computes."""
    return tuple(forward_ad.unpack_dual(tensor).primal for tensor in ctx.saved_tensors)
