"""Gradients, Jacobians and Hessians on demand, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from seo_kernels.diagnostics.curvature import split_like
from seo_kernels.diagnostics.gradient_norms import norms_of
from seo_kernels.diagnostics.undisturbed import check_scalar_loss, trainable_parameters
from seo_kernels.nn.sizes import check_size
from seo_kernels.ops.checks import kind

Tensors = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


class GradientComputationUtils:
    """Tools for gradients; none of them touches ``.grad``."""

    @staticmethod
    def flatten(tensors: Tensors) -> Tensor:
        """One vector of all entries, in order.

        Args:
            tensors: a tensor, a list of them or a mapping, of one dtype and device.

        Raises:
            TypeError: something else.
            ValueError: none, or of several dtypes or devices.

        >>> GradientComputationUtils.flatten([torch.ones(1, 2), torch.zeros(1)])
        tensor([1., 1., 0.])
        """
        parts = _listed("tensors", tensors)
        kinds = {(part.dtype, part.device) for part in parts}
        if len(kinds) > 1:
            shown = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
            raise ValueError(f"tensors are {shown}, expected one dtype and device")
        return torch.cat([part.reshape(-1) for part in parts])

    @staticmethod
    def unflatten(vector: Tensor, like: Tensors) -> list[Tensor]:
        """The parts of a vector, shaped like the given tensors and in their dtype.

        Args:
            vector: (n,), n the number of all their entries.
            like: as for ``flatten``.

        Raises:
            TypeError, ValueError: another kind or size.

        >>> GradientComputationUtils.unflatten(torch.arange(3.0), [torch.ones(1, 2), torch.zeros(1)])
        [tensor([[0., 1.]]), tensor([2.])]
        """
        if not isinstance(vector, Tensor):
            raise TypeError(f"vector is {kind(vector)}, expected a tensor")
        return split_like(vector, _listed("like", like))

    @staticmethod
    def gradient(loss: Tensor, inputs: Tensors, *, create_graph: bool = False) -> list[Tensor]:
        """d loss / d inputs, zeros where the loss does not depend on one.

        Args:
            loss: a scalar with a graph, which is kept.
            inputs: tensors of that graph which require a gradient.
            create_graph: the gradient can be differentiated again.

        Raises:
            TypeError, ValueError: a loss that is no scalar, inputs that require no gradient.

        >>> x = torch.tensor([3.0], requires_grad=True)
        >>> GradientComputationUtils.gradient(x.square().sum(), x)
        [tensor([6.])]
        """
        wanted = _listed("inputs", inputs)
        if not all(part.requires_grad for part in wanted):
            raise ValueError("inputs has a tensor without requires_grad, expected it of all")
        found = torch.autograd.grad(
            check_scalar_loss(loss),
            wanted,
            retain_graph=True,
            create_graph=create_graph,
            allow_unused=True,
            materialize_grads=True,
        )
        return list(found)

    @staticmethod
    def jacobian(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """d function_i / d inputs_j: the shape of the output, then that of the input.

        Raises:
            TypeError: ``inputs`` is no floating-point tensor.

        >>> GradientComputationUtils.jacobian(lambda x: x * torch.tensor([2.0, 3.0]), torch.ones(2))
        tensor([[2., 0.],
                [0., 3.]])
        """
        _check_point(inputs)
        found: Tensor = torch.func.jacrev(function)(inputs)
        return found

    @staticmethod
    def hessian(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
        """d2 function / d inputs_i d inputs_j of a scalar function: twice the shape of the input.

        Reverse mode over reverse mode, which every ``sk`` op has.

        Raises:
            TypeError: ``inputs`` is no floating-point tensor.
            ValueError: the function gives no scalar.

        >>> GradientComputationUtils.hessian(lambda x: (x**3).sum(), torch.tensor([1.0, 2.0]))
        tensor([[ 6.,  0.],
                [ 0., 12.]])
        """
        _check_point(inputs)

        def scalar(point: Tensor) -> Tensor:
            return check_scalar_loss(function(point), "function's result", needs_graph=False)

        found: Tensor = torch.func.jacrev(torch.func.jacrev(scalar))(inputs)
        return found

    @staticmethod
    def norms(tensors: Tensors) -> list[float]:
        """The L2 norm of each, in one fused pass and one transfer to the host.

        >>> GradientComputationUtils.norms([torch.tensor([3.0, 4.0]), torch.ones(1)])
        [5.0, 1.0]
        """
        return norms_of(_listed("tensors", tensors))

    @staticmethod
    def cosine_similarity(first: Tensors, second: Tensors) -> float:
        """The cosine of the angle between two gradients, in float64; NaN where one of them is zero.

        Args:
            first, second: tensors, lists or mappings with the same number of entries, in the same order.

        Raises:
            TypeError, ValueError: another kind, or sizes that differ.

        >>> GradientComputationUtils.cosine_similarity(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))
        1.0
        """
        pairs = [_listed("first", first), _listed("second", second)]
        shapes = [[tuple(part.shape) for part in parts] for parts in pairs]
        if shapes[0] != shapes[1]:
            raise ValueError(f"second has the shapes {shapes[1]}, expected those of first, {shapes[0]}")
        a, b = (torch.cat([part.detach().reshape(-1).double() for part in parts]) for parts in pairs)
        a, b = a / a.abs().max(), b / b.abs().max()  # norms of tiny and huge entries stay finite
        cosine = float(a.dot(b) / (a.norm() * b.norm()))
        return max(-1.0, min(1.0, cosine)) if cosine == cosine else cosine

    @staticmethod
    def per_sample_gradients(
        model: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        inputs: Any,
        targets: Any,
        *,
        chunk_size: int | None = None,
    ) -> dict[str, Tensor]:
        """The gradient of each sample's own loss, by ``torch.func.vmap``.

        The loss of a sample is that of a batch of it alone. Modes are as they are: with dropout each sample
        draws its own.

        Args:
            model: takes batches; no operation of it mixes samples or changes buffers.
            loss_fn: a scalar of what the model gives and the target.
            inputs: a tensor, a tuple of positional or a mapping of keyword arguments, batch first.
            targets: any nest of tensors, batch first.
            chunk_size: samples at once; None: all.

        Returns:
            {parameter name: (B, *shape)}.

        Raises:
            TypeError, ValueError: an argument of another kind, sizes that differ, a loss that is no scalar.

        >>> model = nn.Linear(1, 1, bias=False)
        >>> x = torch.tensor([[1.0], [2.0]])
        >>> utils = GradientComputationUtils
        >>> utils.per_sample_gradients(model, nn.L1Loss(), x, model(x).detach() - 1.0)["weight"].flatten()
        tensor([1., 2.])
        """
        if chunk_size is not None:
            check_size("chunk_size", chunk_size)
        parameters = {name: p.detach() for name, p in trainable_parameters(model).items()}
        sizes = [leaf.shape[:1] for leaf in pytree.tree_leaves((inputs, targets))]
        if not sizes or any(size != sizes[0] or not size for size in sizes):
            shown = ", ".join(str(tuple(size)) for size in sizes) or "no tensors"
            raise ValueError(f"inputs and targets begin with {shown}, expected the batch size in each")

        def loss_of_one(values: dict[str, Tensor], one: Any, target: Any) -> Tensor:
            one, target = pytree.tree_map(lambda leaf: leaf[None], (one, target))
            named = isinstance(one, Mapping)
            args, kwargs = (() if named else one), (one if named else None)
            output = torch.func.functional_call(model, values, args, kwargs)
            return check_scalar_loss(loss_fn(output, target), "loss_fn's result", needs_graph=False)

        over = torch.func.vmap(
            torch.func.grad(loss_of_one), (None, 0, 0), randomness="different", chunk_size=chunk_size
        )
        found: dict[str, Tensor] = over(parameters, inputs, targets)
        return found


def _listed(name: str, tensors: Tensors) -> list[Tensor]:
    if isinstance(tensors, Tensor):
        return [tensors]
    parts = list(tensors.values()) if isinstance(tensors, Mapping) else tensors
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, Tensor) for part in parts):
        raise TypeError(f"{name} is {kind(tensors)}, expected a tensor, a list of tensors or a mapping")
    if not parts:
        raise ValueError(f"{name} is empty, expected at least one tensor")
    return list(parts)


def _check_point(inputs: Tensor) -> None:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        shown = f"of {inputs.dtype}" if isinstance(inputs, Tensor) else kind(inputs)
        raise TypeError(f"inputs is {shown}, expected a floating-point tensor")
