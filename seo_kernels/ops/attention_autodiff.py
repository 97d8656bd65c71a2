"""The derivatives of attention, of any order and in every mode: a pair of Functions.

``AttentionFunction`` is the op. Its backward applies ``AttentionBackwardFunction``, the op's gradient, whose
own backward and jvp are one formula (``second_order``), since second derivatives are symmetric.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from seo_kernels.ops.arguments import AttentionArguments
from seo_kernels.ops.attention_second_order import second_order
from seo_kernels.ops.attention_tiles import Differentiable
from seo_kernels.ops.attention_vmap import FIELDS, vmap_backward, vmap_forward

_SETTINGS = ("pattern", "dropout_p", "scale", "softcap", "query_offset")
_TENSORS = tuple(name for name in FIELDS if name not in _SETTINGS)
_DIFFERENTIABLE = tuple(FIELDS.index(name) for name in Differentiable._fields)  # their places
_WANTED = len(_DIFFERENTIABLE)

Optionals = tuple[Tensor | None, ...]


def forward_op(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The op below its registered autograd, which costs as much as a Function."""
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.seo_kernels.attention_forward.default(*arguments)


class AttentionFunction(torch.autograd.Function):
    """(out, lse) of the op's arguments, one by one in the order of its schema."""

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, Tensor]:
        return forward_op(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _save(ctx, inputs, *output)

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor | None, grad_lse: Tensor | None) -> Optionals:
        if grad_out is None and grad_lse is None:
            return (None,) * len(FIELDS)
        arguments, out, lse = _saved(ctx)
        wanted = [ctx.needs_input_grad[place] for place in _DIFFERENTIABLE]
        return _placed(_gradients(grad_out, grad_lse, arguments, out, lse, wanted), wanted)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        arguments, _out, _lse = _saved_primals(ctx)
        with forward_ad._set_fwd_grad_enabled(True):
            derivatives = second_order(arguments, _direction(tangents), want_tangents=True)
        return derivatives.tangents()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        return vmap_forward(AttentionFunction.apply, info.batch_size, in_dims, arguments)


class AttentionBackwardFunction(torch.autograd.Function):
    """The nine gradients of attention: the arguments of ``attention_backward``, ``wanted`` spread out.

    Differentiable in the two incoming gradients and in the op's arguments; out and lse follow
    from the arguments, and carry no derivative of their own.
    """

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        arguments, wanted = inputs[:-_WANTED], list(inputs[-_WANTED:])
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.seo_kernels.attention_backward.default(*arguments, wanted)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        grad_out, grad_lse, query, key, value, out, lse, *rest = inputs
        _save(ctx, (query, key, value, *rest[:-_WANTED]), out, lse, grad_out, grad_lse)
        ctx.wanted = rest[-_WANTED:]

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> Optionals:
        arguments, _out, _lse, grad_out, grad_lse = _saved(ctx)
        needed = ctx.needs_input_grad
        needed_arguments = (*needed[2:5], *needed[7:-_WANTED])
        wanted = [needed_arguments[place] for place in _DIFFERENTIABLE]
        derivatives = second_order(
            arguments,
            Differentiable(*(d if want else None for d, want in zip(directions, ctx.wanted, strict=True))),
            grad_out,
            grad_lse,
            wanted,
            want_tangents=needed[0] or needed[1],
        )
        query, key, value, *rest = _placed(derivatives.inputs, wanted)
        tangents = (t if need else None for t, need in zip(derivatives[:2], needed[:2], strict=True))
        return (*tangents, query, key, value, None, None, *rest, *(None,) * _WANTED)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
        arguments, out, lse, grad_out, grad_lse = _saved_primals(ctx)
        grad_out_tangent, grad_lse_tangent = tangents[:2]
        direction = _direction((*tangents[2:5], *tangents[7:-_WANTED]))
        with forward_ad._set_fwd_grad_enabled(True):
            moved = second_order(arguments, direction, grad_out, grad_lse, ctx.wanted).inputs
            if grad_out_tangent is not None or grad_lse_tangent is not None:
                linear = _gradients(grad_out_tangent, grad_lse_tangent, arguments, out, lse, ctx.wanted)
                moved = Differentiable(
                    *(m if m is None else m + g for m, g in zip(moved, linear, strict=True))
                )
        return tuple(out.new_empty(0) if m is None else m for m in moved)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        return vmap_backward(AttentionBackwardFunction.apply, info.batch_size, in_dims, inputs)


def _gradients(
    grad_out: Tensor | None,
    grad_lse: Tensor | None,
    arguments: AttentionArguments,
    out: Tensor,
    lse: Tensor,
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    query, key, value, *rest = arguments.values()
    return AttentionBackwardFunction.apply(grad_out, grad_lse, query, key, value, out, lse, *rest, *wanted)


def _save(ctx: Any, values: Sequence[Any], *others: Tensor | None) -> None:
    """Keep the op's arguments and ``others`` for backward and jvp; absent gradients stay None."""
    named = dict(zip(FIELDS, values, strict=True))
    tensors = (*(named[name] for name in _TENSORS), *others)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.settings = {name: named[name] for name in _SETTINGS}
    ctx.set_materialize_grads(False)


def _saved(ctx: Any) -> tuple[Any, ...]:
    """The arguments of the op, and the others that ``_save`` got."""
    return _unpacked(ctx, ctx.saved_tensors)


def _saved_primals(ctx: Any) -> tuple[Any, ...]:
    """The same for a jvp: without the tangents of this level."""
    return _unpacked(
        ctx, [None if t is None else forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors]
    )


def _unpacked(ctx: Any, tensors: Sequence[Any]) -> tuple[Any, ...]:
    named = dict(zip(_TENSORS, tensors, strict=False))
    return AttentionArguments(**named, **ctx.settings), *tensors[len(_TENSORS) :]


def _direction(tangents: Sequence[Tensor | None]) -> Differentiable:
    """The tangents of the differentiable arguments, of those of all arguments."""
    return Differentiable(*(tangents[place] for place in _DIFFERENTIABLE))


def _placed(gradients: Sequence[Tensor | None], wanted: Sequence[bool]) -> Optionals:
    """The wanted gradients in the places of their arguments."""
    placed: list[Tensor | None] = [None] * len(FIELDS)
    for place, gradient, want in zip(_DIFFERENTIABLE, gradients, wanted, strict=True):
        placed[place] = gradient if want else None
    return tuple(placed)
