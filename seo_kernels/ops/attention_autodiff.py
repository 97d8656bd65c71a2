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
from seo_kernels.ops.transforms import transformed

_PATTERN, _DROPOUT = FIELDS.index("pattern"), FIELDS.index("dropout_p")  # around them lie the tensors
_TENSORS = _DROPOUT - 1
_DIFFERENTIABLE = tuple(FIELDS.index(name) for name in Differentiable._fields)  # their places
_WANTED = len(_DIFFERENTIABLE)

Optionals = tuple[Tensor | None, ...]


def forward_op(*arguments: Any) -> tuple[Tensor, Tensor]:
    """The op below its registered autograd, which costs as much as a Function."""
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.seo_kernels.attention_forward.default(*arguments)


def _backward_op(*arguments: Any) -> tuple[Tensor, ...]:
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.seo_kernels.attention_backward.default(*arguments)


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
        values, (out, lse) = _saved(ctx)
        needed = ctx.needs_input_grad
        wanted = [needed[place] for place in _DIFFERENTIABLE]
        return _placed(_gradients(grad_out, grad_lse, values, out, lse, wanted), wanted)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        values, _outputs = _saved_primals(ctx)
        # torch turns forward mode off around a jvp, for outer levels too, which would lose their tangents.
        with forward_ad._set_fwd_grad_enabled(True):
            derivatives = second_order(AttentionArguments(*values), _direction(tangents), want_tangents=True)
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
        return _backward_op(*inputs[:-_WANTED], inputs[-_WANTED:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        grad_out, grad_lse, query, key, value, out, lse, *rest = inputs
        _save(ctx, (query, key, value, *rest[:-_WANTED]), out, lse, grad_out, grad_lse)
        ctx.wanted = rest[-_WANTED:]

    @staticmethod
    def backward(ctx: Any, *directions: Tensor | None) -> Optionals:
        needed = ctx.needs_input_grad
        if all(direction is None for direction in directions):
            return (None,) * len(needed)
        values, (_out, _lse, grad_out, grad_lse) = _saved(ctx)
        needed_arguments = (*needed[2:5], *needed[7:-_WANTED])
        wanted = [needed_arguments[place] for place in _DIFFERENTIABLE]
        derivatives = second_order(
            AttentionArguments(*values),
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
        values, (out, lse, grad_out, grad_lse) = _saved_primals(ctx)
        arguments = AttentionArguments(*values)
        grad_out_tangent, grad_lse_tangent = tangents[:2]
        direction = _direction((*tangents[2:5], *tangents[7:-_WANTED]))
        with forward_ad._set_fwd_grad_enabled(True):
            moved = second_order(arguments, direction, grad_out, grad_lse, ctx.wanted).inputs
            if grad_out_tangent is not None or grad_lse_tangent is not None:
                linear = _gradients(grad_out_tangent, grad_lse_tangent, values, out, lse, ctx.wanted)
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
    values: Sequence[Any],
    out: Tensor,
    lse: Tensor,
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    """The nine gradients, by the Function where they may be differentiated or transformed in turn."""
    query, key, value, *rest = values
    arguments = (grad_out, grad_lse, query, key, value, out, lse, *rest)
    if torch.is_grad_enabled() or transformed():
        return AttentionBackwardFunction.apply(*arguments, *wanted)
    return _backward_op(*arguments, wanted)


def _save(ctx: Any, values: Sequence[Any], *others: Tensor | None) -> None:
    """Keep the op's arguments and ``others`` for backward and jvp; absent gradients stay None."""
    tensors = (*values[:_PATTERN], *values[_PATTERN + 1 : _DROPOUT], *others)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.settings = (values[_PATTERN], *values[_DROPOUT:])
    ctx.set_materialize_grads(False)


def _saved(ctx: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The op's arguments, and the others that ``_save`` got."""
    return _restored(ctx, ctx.saved_tensors)


def _saved_primals(ctx: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The same for a jvp: without the tangents of this level, whose derivative it computes."""
    return _restored(ctx, [t if t is None else forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors])


def _restored(ctx: Any, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    pattern, *numbers = ctx.settings
    values = (*tensors[:_PATTERN], pattern, *tensors[_PATTERN:_TENSORS], *numbers)
    return values, tuple(tensors[_TENSORS:])


def _direction(tangents: Sequence[Tensor | None]) -> Differentiable:
    """The tangents of the differentiable arguments, of those of all arguments."""
    return Differentiable(*(tangents[place] for place in _DIFFERENTIABLE))


def _placed(gradients: Sequence[Tensor | None], wanted: Sequence[bool]) -> Optionals:
    """The wanted gradients in the places of their arguments."""
    placed: list[Tensor | None] = [None] * len(FIELDS)
    for place, gradient, want in zip(_DIFFERENTIABLE, gradients, wanted, strict=True):
        placed[place] = gradient if want else None
    return tuple(placed)
