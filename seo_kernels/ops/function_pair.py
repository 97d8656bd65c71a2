"""``FunctionPair``: from an op's two schemas to a call that is differentiable to any order, in every mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seo_kernels import _library
from seo_kernels.ops.function_pair_autodiff import PairAutodiff, SecondOrderFormula
from seo_kernels.ops.function_pair_names import PairNames, as_tuple
from seo_kernels.ops.transforms import transformed

_NAMESPACE = "seo_kernels"


class FunctionPair:
    """An op ``<name>_forward`` and its gradient ``<name>_backward``, as one call.

    The schemas, all arguments positional:

        <name>_forward(*inputs) -> (*outputs, *saved_outputs)
        <name>_backward(*grads of outputs, *backward_takes, bool[n] wanted) -> (n gradients)

    with n the number of ``differentiable`` inputs. A gradient has the shape and dtype of its input; one
    that is not wanted is a fresh tensor of shape (0,). With several outputs each of the incoming gradients
    may be None, but not all. ``backward`` gets a saved output of shape (0,) back as it is.

    Calling the pair with the inputs, by position, returns the output (a tuple, if there are several). What
    serves is chosen here:

    - no kernels for the device (the first tensor's): ``plain``, after one warning;
    - ``torch.compile`` and ``torch.export``: the registered op, with first-order gradients; under
      ``torch.func`` transforms or forward mode there, ``plain``;
    - eager: a pair of ``autograd.Function``, differentiable to any order in reverse and forward mode, under
      any nesting of ``torch.func`` transforms; or the op alone where nobody wants a derivative.

    Derivatives of second and higher order, and of forward mode, are those of ``plain``, taken in plain
    torch in float32 or float64; ``second_order`` may be faster where nobody differentiates the second.

    Args:
        name: of the op in ``torch.ops.seo_kernels``, without ``_forward``.
        inputs: names of the forward's arguments, in the order of its schema. They are tensors, numbers,
            strings or None, no lists. One named ``seed`` is the seed of dropout.
        differentiable: those that get gradients, in the order of ``wanted``.
        plain: the differentiable output or outputs of the same arguments, in plain torch that is
            differentiable to any order.
        fake: empty tensors with shapes, dtypes and strides of all outputs and saved outputs, of the same
            arguments.
        outputs: names of the differentiable outputs.
        saved_outputs: further outputs, which backward wants back and nobody else sees.
        backward_takes: what the backward's schema has between incoming gradients and ``wanted``: names of
            inputs, outputs and saved outputs. Every differentiable input must be among them. By default all
            inputs, then all saved outputs.
        leading: names (of inputs, outputs, saved outputs) that share any number of leading dimensions, which
            the op treats alike and independently of each other: ``torch.func.vmap`` puts one more in front.
        rows: names whose first dimension is that of the flattened leading dimensions: vmap puts the problems
            one behind the other. An op with rows only, (N, C) say, names all of them here.
        second_order: a formula of the second derivatives, see ``SecondOrderFormula``.

    vmap loops over the problems where others are batched, where gradients of others are wanted (a weight's
    are sums over the leading dimensions), and with a seed, since the dropout bits depend on the row.

    Raises:
        ValueError: a name stands for nothing, or a differentiable input is missing in ``backward_takes``.
        RuntimeError: in a call, the compiled library lacks the op.

    >>> _relu = FunctionPair(
    ...     "example_relu",
    ...     inputs=("input",),
    ...     differentiable=("input",),
    ...     plain=torch.relu,
    ...     fake=torch.empty_like,
    ...     leading=("input", "out"),
    ... )
    """

    def __init__(
        self,
        name: str,
        *,
        inputs: Sequence[str],
        differentiable: Sequence[str],
        plain: Callable[..., Tensor | tuple[Tensor, ...]],
        fake: Callable[..., Tensor | tuple[Tensor, ...]],
        outputs: Sequence[str] = ("out",),
        saved_outputs: Sequence[str] = (),
        backward_takes: Sequence[str] | None = None,
        leading: Sequence[str] = (),
        rows: Sequence[str] = (),
        second_order: SecondOrderFormula | None = None,
    ) -> None:
        self.name = name
        self.names = PairNames(
            tuple(inputs),
            tuple(differentiable),
            tuple(outputs),
            tuple(saved_outputs),
            (*inputs, *saved_outputs) if backward_takes is None else tuple(backward_takes),
            tuple(leading),
            tuple(rows),
        )
        self._op: Any = None
        self._backward_op: Any = None
        self._plain = plain
        self._fake = fake
        self._autodiff = PairAutodiff(self.names, self._run_forward, self._run_backward, plain, second_order)
        if hasattr(getattr(torch.ops, _NAMESPACE), f"{name}_forward"):
            self.register()

    def __call__(self, *arguments: Any) -> Any:
        device = next(a.device for a in arguments if isinstance(a, Tensor))
        if not _library.available(device):
            _library.warn_once(device)
            return self._plain(*arguments)
        if self._op is None:
            raise RuntimeError(f"the compiled library lacks {self.name}: build it again from these sources")
        if torch.compiler.is_compiling():
            # The registered op knows backward only: transforms would take its derivative for zero.
            return self._plain(*arguments) if transformed() else self._results(self._op(*arguments))
        if (torch.is_grad_enabled() and any(map(_requires_grad, arguments))) or transformed():
            return self._results(self._autodiff.function.apply(*arguments))
        return self._results(self._run_forward(*arguments))

    def register(self) -> None:
        """Give the op, which must exist, its fake kernels, and the forward its first-order autograd.

        For ops of the library that happens by itself; once per op.
        """
        forward, backward = (f"{_NAMESPACE}::{self.name}_{way}" for way in ("forward", "backward"))
        namespace = getattr(torch.ops, _NAMESPACE)
        self._op = getattr(namespace, f"{self.name}_forward").default
        self._backward_op = getattr(namespace, f"{self.name}_backward").default
        torch.library.register_fake(forward, self._fake)
        torch.library.register_fake(backward, self._fake_backward)
        function = self._autodiff.function
        torch.library.register_autograd(forward, function.backward, setup_context=function.setup_context)

    def _run_forward(self, *arguments: Any) -> tuple[Tensor, ...]:
        """The op below its registered autograd, which costs as much as a Function."""
        with torch._C._AutoDispatchBelowAutograd():
            return as_tuple(self._op(*arguments))

    def _run_backward(self, *arguments: Any) -> tuple[Tensor, ...]:
        with torch._C._AutoDispatchBelowAutograd():
            return as_tuple(self._backward_op(*arguments))

    def _results(self, all_outputs: Any) -> Any:
        found = as_tuple(all_outputs)[: len(self.names.outputs)]
        return found[0] if len(found) == 1 else found

    def _fake_backward(self, *arguments: Any) -> Any:
        *operands, wanted = arguments
        taken = dict(zip(self.names.backward_takes, operands[len(self.names.outputs) :], strict=True))
        like = next(operand for operand in operands if isinstance(operand, Tensor))
        gradients = tuple(
            taken[name].new_empty(taken[name].shape)
            if want and taken[name] is not None
            else like.new_empty(0)
            for name, want in zip(self.names.differentiable, wanted, strict=True)
        )
        return gradients[0] if len(gradients) == 1 else gradients


def _requires_grad(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
