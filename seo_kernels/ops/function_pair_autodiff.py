"""The two ``autograd.Function`` of a ``FunctionPair``: derivatives of any order and in every mode.

``function`` is the op. Its backward applies ``gradient_function``, the op's gradient, whose own backward
and jvp are one computation (``_second_order``), since second derivatives are symmetric.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from seo_kernels.ops.function_pair_names import PairNames, as_tuple
from seo_kernels.ops.function_pair_vmap import Batched, in_problems
from seo_kernels.ops.transforms import differentiated, transformed

Optionals = tuple[Tensor | None, ...]
Op = Callable[..., tuple[Tensor, ...]]
# (run_forward, run_gradients, values, kept, direction, grads, wanted, want_tangents) -> (tangents, bends):
# ``PairAutodiff._second_order`` where nobody differentiates the result, with the op itself and its gradients
# (grads, values, kept, wanted); of several dtypes it sees the wide ones.
SecondOrderFormula = Callable[..., tuple[Sequence[Tensor | None], Sequence[Tensor | None]]]
_HALF = (torch.bfloat16, torch.float16)


class PairAutodiff:
    """The Functions of one pair of ops.

    Args:
        names: of arguments and results.
        run_forward: the op, without autograd.
        run_backward: its gradient, without autograd.
        plain: the op in plain torch.
        formula: of the second derivatives that nobody differentiates further; None: they are those of
            ``plain`` too.
    """

    def __init__(
        self,
        names: PairNames,
        run_forward: Op,
        run_backward: Op,
        plain: Callable[..., Tensor | tuple[Tensor, ...]],
        formula: SecondOrderFormula | None = None,
    ) -> None:
        self.names = names
        self.plain = plain
        self.formula = formula
        self.run_forward = run_forward
        self.run_backward = run_backward
        self.function = self._function(run_forward)
        self.gradient_function = self._gradient_function()

    def _function(self, run_forward: Op) -> type[torch.autograd.Function]:
        """(*outputs, *saved outputs) of the inputs."""
        pair, names = self, self.names
        count = len(names.outputs)

        class PairFunction(torch.autograd.Function):
            @staticmethod
            def forward(*arguments: Any) -> tuple[Tensor, ...]:
                return run_forward(*arguments)

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                results = as_tuple(output)
                named = dict(zip((*names.outputs, *names.saved_outputs), results, strict=True))
                _save(ctx, (*inputs, *(named[name] for name in names.kept)))
                ctx.results = [(result.shape, result.dtype) for result in results]

            @staticmethod
            def backward(ctx: Any, *gradients: Tensor | None) -> Optionals:
                grads = gradients[:count]
                if all(grad is None for grad in grads):
                    return (None,) * len(names.inputs)
                wanted = [ctx.needs_input_grad[place] for place in names.places]
                values, kept = pair._split(_saved(ctx))
                return pair._placed(pair._gradients(grads, values, kept, wanted), wanted)

            @staticmethod
            def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
                values, kept = pair._split(_saved_primals(ctx))
                like = next(value for value in values if isinstance(value, Tensor))
                zeros = [like.new_zeros(shape, dtype=dtype) for shape, dtype in ctx.results]
                direction = [tangents[place] for place in names.places]
                # torch turns forward mode off around a jvp, which would lose the tangents of outer levels.
                with forward_ad._set_fwd_grad_enabled(True):
                    moved, _ = pair._second_order(values, kept, direction, zeros[:count], want_tangents=True)
                changes = (
                    zero if m is None else m.to(zero.dtype) for m, zero in zip(moved, zeros, strict=False)
                )
                return (*changes, *zeros[count:])

            @staticmethod
            def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
                batched = Batched(names.inputs, arguments, in_dims, info.batch_size)
                results = (*names.outputs, *names.saved_outputs)
                return in_problems(PairFunction.apply, names, batched, (), results)

        return _with_signature(PairFunction)

    def _gradient_function(self) -> type[torch.autograd.Function]:
        """The gradients of (*grads of the outputs, *inputs, *kept outputs, *wanted).

        Differentiable in the incoming gradients and in the op's inputs; what was kept of the outputs follows
        from the inputs, and carries no derivative of its own.
        """
        pair, names = self, self.names
        count, end = len(names.outputs), len(names.outputs) + len(names.inputs)
        number = len(names.differentiable)

        def parts(arguments: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
            """Gradients, inputs, kept outputs."""
            return arguments[:count], arguments[count:end], arguments[end:]

        class PairGradientFunction(torch.autograd.Function):
            @staticmethod
            def forward(*arguments: Any) -> tuple[Tensor, ...]:
                grads, values, kept = parts(arguments[:-number])
                return pair._run_gradients(grads, values, kept, arguments[-number:])

            @staticmethod
            def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
                _save(ctx, inputs[:-number])
                ctx.wanted = inputs[-number:]

            @staticmethod
            def backward(ctx: Any, *directions: Tensor | None) -> Optionals:
                needed = ctx.needs_input_grad
                if all(direction is None for direction in directions):
                    return (None,) * len(needed)
                grads, values, kept = parts(_saved(ctx))
                wanted = [needed[count + place] for place in names.places]
                moved, bent = pair._second_order(
                    values,
                    kept,
                    [d if want else None for d, want in zip(directions, ctx.wanted, strict=True)],
                    grads,
                    wanted,
                    want_tangents=any(needed[:count]),
                )
                tangents = (
                    tangent.to(grad.dtype) if need and tangent is not None else None
                    for tangent, grad, need in zip(moved, grads, needed, strict=False)
                )
                return (*tangents, *pair._placed(bent, wanted), *(None,) * (len(kept) + number))

            @staticmethod
            def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, ...]:
                grads, values, kept = parts(_saved_primals(ctx))
                grad_tangents, direction, _ = parts(tangents[:-number])
                moving = [direction[place] for place in names.places]
                with forward_ad._set_fwd_grad_enabled(True):
                    _, moved = pair._second_order(values, kept, moving, grads, ctx.wanted)
                    if any(tangent is not None for tangent in grad_tangents):
                        linear = pair._gradients(grad_tangents, values, kept, ctx.wanted)
                        moved = tuple(
                            part if bend is None else part + bend
                            for bend, part in zip(moved, linear, strict=True)
                        )
                like = next(grad for grad in grads if grad is not None)
                return tuple(
                    (like.new_empty(0) if not want else torch.zeros_like(values[place])) if m is None else m
                    for m, want, place in zip(moved, ctx.wanted, names.places, strict=True)
                )

            @staticmethod
            def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
                batched = Batched(
                    names.gradient_arguments, arguments[:-number], in_dims[:-number], info.batch_size
                )
                wanted = arguments[-number:]
                results = tuple(
                    name if want else None for name, want in zip(names.differentiable, wanted, strict=True)
                )
                return in_problems(PairGradientFunction.apply, names, batched, wanted, results)

        return _with_signature(PairGradientFunction)

    def _gradients(
        self,
        grads: Sequence[Tensor | None],
        values: Sequence[Any],
        kept: Sequence[Any],
        wanted: Sequence[bool],
    ) -> tuple[Tensor, ...]:
        """All gradients, by the Function where they may be differentiated or transformed in turn."""
        if torch.is_grad_enabled() or transformed():
            return self.gradient_function.apply(*grads, *values, *kept, *wanted)
        return self._run_gradients(grads, values, kept, wanted)

    def _run_gradients(
        self, grads: Sequence[Any], values: Sequence[Any], kept: Sequence[Any], wanted: Sequence[bool]
    ) -> tuple[Tensor, ...]:
        available = (*values, *kept)
        return self.run_backward(*grads, *[available[place] for place in self.names.taken], list(wanted))

    def _second_order(
        self,
        values: Sequence[Any],
        kept: Sequence[Any],
        direction: Sequence[Tensor | None],
        grads: Sequence[Tensor | None],
        wanted: Sequence[bool] = (),
        *,
        want_tangents: bool = False,
    ) -> tuple[Optionals, Optionals]:
        """J u (if ``want_tangents``) and d/dx <g, J u> of every ``wanted`` input.

        With J the Jacobian of the outputs by the differentiable inputs x, u the ``direction`` and g the
        ``grads``: by the formula, where there is one and nobody differentiates or transforms the result.
        Else <u, g J> is taken by reverse mode, and differentiated by reverse mode once more, since forward
        mode does not nest inside a jvp.

        Returns:
            For every output and every differentiable input its derivative, or None where it is zero or nobody
            wants it. The second have the dtypes of their inputs, the first are float32 or float64.
        """
        names = self.names
        moving = [i for i, tangent in enumerate(direction) if tangent is not None]
        asked = [i for i, want in enumerate(wanted) if want]
        present = [i for i, grad in enumerate(grads) if grad is not None]
        tangents: list[Tensor | None] = [None] * len(names.outputs)
        bends: list[Tensor | None] = [None] * len(names.differentiable)
        if not moving or not (asked or want_tangents):
            return tuple(tangents), tuple(bends)
        wide = [_wide(value) for value in values]
        some = [_wide(grads[i]) for i in present]
        xs = [wide[names.places[i]] for i in asked]

        def pulled(*variables: Tensor) -> tuple[Tensor, ...]:
            """<g, J> by the inputs that move; the variables are g (where its tangents are wanted) and x."""
            point = _replaced(wide, names, asked, variables[-len(xs) :] if xs else ())

            def of_moving(*ys: Tensor) -> tuple[Tensor, ...]:
                found = as_tuple(self.plain(*_replaced(point, names, moving, ys)))
                return tuple(found[i] for i in present)

            pull = torch.func.vjp(of_moving, *(point[names.places[i]] for i in moving))[1]
            return pull(tuple(variables[: len(some)] if want_tangents else some))

        device = next(value.device.type for value in wide if isinstance(value, Tensor))
        with torch.autocast(device, enabled=False):  # the dtypes are chosen here
            if self.formula is not None and not differentiated(*wide, *some, *direction):
                return self._by_formula(self.formula, (values, kept, direction, grads), wanted, want_tangents)
            pull = torch.func.vjp(pulled, *(some if want_tangents else ()), *xs)[1]
            found = pull(tuple(_wide(direction[i]) for i in moving))
        for i, derivative in zip(present if want_tangents else (), found, strict=False):
            tangents[i] = derivative
        for i, derivative in zip(asked, found[-len(xs) :] if xs else (), strict=True):
            bends[i] = derivative.to(values[names.places[i]].dtype)
        return tuple(tangents), tuple(bends)

    def _by_formula(
        self,
        formula: SecondOrderFormula,
        operands: Sequence[Sequence[Any]],
        wanted: Sequence[bool],
        want_tangents: bool,
    ) -> tuple[Optionals, Optionals]:
        """``_second_order`` of (values, kept, direction, grads)."""
        wide = (tuple(map(_wide, operand)) for operand in operands)
        tangents, bends = formula(self.run_forward, self._run_gradients, *wide, wanted, want_tangents)
        values = operands[0]
        return tuple(tangents), tuple(
            bend if bend is None else bend.to(values[place].dtype)
            for bend, place in zip(bends, self.names.places, strict=True)
        )

    def _split(self, restored: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
        """The inputs, and the outputs that were kept."""
        end = len(self.names.inputs)
        return restored[:end], restored[end:]

    def _placed(self, gradients: Sequence[Tensor | None], wanted: Sequence[bool]) -> Optionals:
        """The wanted gradients in the places of their inputs."""
        placed: list[Tensor | None] = [None] * len(self.names.inputs)
        for place, gradient, want in zip(self.names.places, gradients, wanted, strict=True):
            placed[place] = gradient if want else None
        return tuple(placed)


def _replaced(
    values: Sequence[Any], names: PairNames, chosen: Sequence[int], others: Sequence[Tensor]
) -> list[Any]:
    """The inputs with other tensors for the ``chosen`` differentiable ones."""
    point = list(values)
    for i, other in zip(chosen, others, strict=True):
        point[names.places[i]] = other
    return point


def _with_signature(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """The Function with its forward's signature at hand, for which torch asks in every call."""
    forward: Any = function.forward
    forward.__signature__ = inspect.signature(forward)
    return function


def _wide(value: Any) -> Any:
    """Floating tensors of 16 bits as float32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF else value


def _save(ctx: Any, arguments: Sequence[Any]) -> None:
    """Keep the arguments for backward and jvp; absent gradients stay None."""
    tensors = [argument if isinstance(argument, Tensor) else None for argument in arguments]
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
    ctx.others = [None if isinstance(argument, Tensor) else argument for argument in arguments]
    ctx.set_materialize_grads(False)


def _saved(ctx: Any) -> tuple[Any, ...]:
    """The arguments that ``_save`` got."""
    return _restored(ctx, ctx.saved_tensors)


def _saved_primals(ctx: Any) -> tuple[Any, ...]:
    """The same for a jvp: without the tangents of this level, whose derivative it computes."""
    return _restored(ctx, [t if t is None else forward_ad.unpack_dual(t).primal for t in ctx.saved_tensors])


def _restored(ctx: Any, tensors: Sequence[Tensor | None]) -> tuple[Any, ...]:
    return tuple(
        other if tensor is None else tensor for tensor, other in zip(tensors, ctx.others, strict=True)
    )
