"""The L2 norm of every gradient of a model in one fused pass, and one transfer to the host."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from seo_kernels.nn.sizes import check_positive
from seo_kernels.ops.checks import kind


@dataclass(frozen=True)
class GradientNorms:
    """L2 norms of the gradients of a model, divided by the loss scale.

    Attributes:
        names: parameters with a gradient, in the model's order.
        norms: one per name.
        total: of all gradients together; NaN where one of them is.
        missing: parameters that want a gradient and have none.
        loss_scale: what the gradients were divided by.
    """

    names: tuple[str, ...]
    norms: tuple[float, ...]
    total: float
    missing: tuple[str, ...] = ()
    loss_scale: float = 1.0

    def by_name(self) -> dict[str, float]:
        """The norms by the name of their parameter."""
        return dict(zip(self.names, self.norms, strict=True))

    @property
    def finite(self) -> bool:
        """No norm is NaN or Inf."""
        return math.isfinite(self.total)

    def divided(self, scale: float) -> GradientNorms:
        """As they would be, had the loss not been multiplied by ``scale`` too."""
        norms = tuple(norm / scale for norm in self.norms)
        return replace(self, norms=norms, total=self.total / scale, loss_scale=self.loss_scale * scale)


def gradient_norms(model: nn.Module, *, loss_scale: float = 1.0) -> GradientNorms:
    """The norm of every gradient that the model has now.

    Half precision is summed in float32. A sparse gradient counts with the sum of its repeated rows.

    Args:
        model: any module; of one that is compiled or wrapped for several processes the inner one.
        loss_scale: what the loss was multiplied by and the gradients still are: ``scaler.get_scale()`` before
            ``scaler.unscale_(optimizer)``, 1.0 after it.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it has no parameters, or the scale is not above 0.

    >>> model = nn.Linear(2, 1)
    >>> model(torch.tensor([[3.0, 4.0]])).sum().backward()
    >>> norms = gradient_norms(model)
    >>> norms.by_name()
    {'weight': 5.0, 'bias': 1.0}
    >>> round(norms.total, 4)
    5.099
    """
    parameters = named_parameters(model)
    check_positive("loss_scale", loss_scale)
    present = [(name, p.grad) for name, p in parameters.items() if p.grad is not None]
    norms = norms_of([gradient for _, gradient in present])
    missing = tuple(name for name, p in parameters.items() if p.requires_grad and p.grad is None)
    found = GradientNorms(tuple(name for name, _ in present), tuple(norms), _total(norms), missing)
    return found if loss_scale == 1.0 else found.divided(loss_scale)


def total_gradient_norm(model: nn.Module, *, loss_scale: float = 1.0) -> float:
    """The L2 norm of all gradients of the model together, 0.0 where there are none; see ``gradient_norms``.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> model(torch.tensor([[3.0, 4.0]])).sum().backward()
    >>> total_gradient_norm(model)
    5.0
    """
    return gradient_norms(model, loss_scale=loss_scale).total


def norms_of(tensors: list[Tensor]) -> list[float]:
    """The L2 norm of each tensor: one pass per device and dtype, one transfer for all of them."""
    groups: dict[tuple[torch.device, torch.dtype], list[int]] = defaultdict(list)
    dense = [_values(tensor) for tensor in tensors]
    for index, tensor in enumerate(dense):
        groups[tensor.device, tensor.dtype].append(index)
    if not groups:
        return []
    parts = [_pass_over([dense[i] for i in indices]) for indices in groups.values()]
    if len(parts) > 1:
        common = torch.float64 if any(part.dtype == torch.float64 for part in parts) else torch.float32
        place = parts[0].device
        parts = [torch.cat([part.to(place, common) for part in parts])]
    order = [index for indices in groups.values() for index in indices]
    norms = dict(zip(order, parts[0].tolist(), strict=True))
    return [norms[index] for index in range(len(tensors))]


def named_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a model by name, those of a compiled or wrapped one by their own.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it has no parameters.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {kind(model)}, expected a torch.nn.Module")
    parameters = dict(unwrapped(model).named_parameters())
    if not parameters:
        raise ValueError("model has no parameters, expected at least one")
    return parameters


def unwrapped(model: nn.Module) -> nn.Module:
    """The model within ``torch.compile`` and ``DistributedDataParallel``, whose names users know."""
    while True:
        inner = model._modules.get("_orig_mod")  # torch.compile's
        if inner is None and isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            inner = model.module
        if inner is None:
            return model
        model = inner


def _pass_over(tensors: list[Tensor]) -> Tensor:
    """The norms of tensors of one device and dtype, (n,)."""
    device, dtype = tensors[0].device, tensors[0].dtype
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else None
    if device.type == "cpu" and dtype in (torch.float32, torch.float64):
        # _foreach_norm goes one by one here, on one thread, and is ten times as far off
        flat = [tensor.reshape(-1) for tensor in tensors]
        return torch.stack([torch.dot(entries, entries) for entries in flat]).sqrt()
    return torch.stack(torch._foreach_norm(tensors, 2.0, dtype=wide))


def _values(tensor: Tensor) -> Tensor:
    if tensor.layout is torch.strided:
        return tensor.detach()
    return tensor.detach().coalesce().values()


def _total(norms: list[float]) -> float:
    if any(math.isnan(norm) for norm in norms):
        return math.nan  # hypot would call it infinite where one of the others is
    return math.hypot(*norms)
