"""``sk.dropout``: random bits and the elements that they keep in one pass, and in another once more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from seo_kernels import _library
from seo_kernels.ops.dropout_arguments import normalise_dropout
from seo_kernels.ops.function_pair_vmap import Batched, looped
from seo_kernels.ops.transforms import transformed
from seo_kernels.reference.dropout import dropout_op

_OP = "seo_kernels::dropout"


def dropout(input: Tensor, p: float = 0.5, *, training: bool = True) -> Tensor:
    """Zero with probability p, input / (1 - p) elsewhere, differentiable to any order.

    One pass over the input, which draws the random bits on the way; backward draws them again from the same
    seed. Nothing is kept for it but the seed, where ``torch.nn.functional.dropout`` keeps a mask as large as
    the input.

    Args:
        input: any shape; float64, float32, bfloat16 or float16; any strides.
        p: the probability of dropping an element, in [0, 1].
        training: False drops nothing.

    Returns:
        In shape, dtype and, where the input is dense, strides as the input; the input itself where nothing is
        dropped (p = 0, or not training); zeros where p = 1. An element that is dropped is 0 whatever it was,
        NaN included. bfloat16 and float16 are scaled in float32 and rounded once.

    Raises:
        TypeError: an argument is not of the kind that is expected, or has a wrong dtype.
        ValueError: p is not in [0, 1].

    The bits are Philox4x32-10 of (seed, place of the element in the order of the shape): the same on CPU and
    CUDA, for any strides and number of threads. The seed comes from torch's default generator, so that
    ``torch.manual_seed`` and checkpointing reproduce it; p is met to 2^-32.

    Backward, forward mode and ``torch.func`` transforms work in any nesting; ``torch.compile`` and
    ``torch.export`` give first-order gradients. ``vmap`` needs ``randomness=``, as for torch's.

    Source: Srivastava et al. 2014, "Dropout: A Simple Way to Prevent Neural Networks from Overfitting".

    >>> import torch, seo_kernels as sk
    >>> out = sk.dropout(torch.ones(1000), 0.2)
    >>> sorted(set(out.tolist()))
    [0.0, 1.25]
    """
    arguments = normalise_dropout(input, p, training)
    if arguments.seed is None:
        return input
    if not _library.available(input.device):
        _library.warn_once(input.device)
        return dropout_op(*arguments.values())
    if torch.compiler.is_compiling():
        # The registered op knows backward only: transforms would take its derivative for zero.
        return dropout_op(*arguments.values()) if transformed() else _op()(*arguments.values())
    return _apply(arguments.input, arguments.seed, arguments.p)


class DropoutFunction(torch.autograd.Function):
    """The op, which is linear and its own transpose: of the same seed it is the gradient and the tangent."""

    @staticmethod
    def forward(input: Tensor, seed: Tensor, p: float) -> Tensor:
        return _run(input, seed, p)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, float], output: Tensor) -> None:
        _, seed, ctx.p = inputs
        ctx.save_for_backward(seed)
        ctx.save_for_forward(seed)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None]:
        (seed,) = ctx.saved_tensors
        return (None if grad is None else _apply(grad, seed, ctx.p)), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (seed,) = ctx.saved_tensors
        # torch turns forward mode off around a jvp, which would lose the tangents of outer levels.
        with forward_ad._set_fwd_grad_enabled(True):
            return _apply(tangent, seed, ctx.p)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        batched = Batched(("input", "seed", "p"), arguments, in_dims, info.batch_size)
        (out,), _ = looped(lambda *own: (DropoutFunction.apply(*own),), batched, ())
        return out, 0


def _apply(input: Tensor, seed: Tensor, p: float) -> Tensor:
    """The op, by the Function where it may be differentiated or transformed."""
    if (torch.is_grad_enabled() and input.requires_grad) or transformed():
        return DropoutFunction.apply(input, seed, p)
    return _run(input, seed, p)


def _run(input: Tensor, seed: Tensor, p: float) -> Tensor:
    """The op below its registered autograd, which costs as much as a Function."""
    with torch._C._AutoDispatchBelowAutograd():
        return _op()(input, seed, p)


def _op() -> Any:
    return torch.ops.seo_kernels.dropout.default


def _fake(input: Tensor, seed: Tensor, p: float) -> Tensor:
    return torch.empty_like(input)


if hasattr(torch.ops.seo_kernels, "dropout"):
    torch.library.register_fake(_OP, _fake)
    torch.library.register_autograd(
        _OP, DropoutFunction.backward, setup_context=DropoutFunction.setup_context
    )
