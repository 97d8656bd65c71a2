"""What a tensor's entries are like, for gradients and activations, per parameter and per module."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.findings import owner
from seo_kernels.diagnostics.gradient_norms import named_parameters
from seo_kernels.nn.sizes import check_positive


@dataclass(frozen=True)
class TensorStatistics:
    """Of one tensor, or of several taken together.

    Attributes:
        size: entries.
        norm: L2, of all entries: NaN or Inf where one of them is.
        mean, std, min, max: of the finite entries, NaN where there is none; ``std`` divides by their number.
        zeros: the share of entries that are exactly 0, from 0.0 to 1.0.
        nonfinite: entries that are NaN or Inf.
    """

    size: int
    norm: float
    mean: float
    std: float
    min: float
    max: float
    zeros: float
    nonfinite: int

    def as_dict(self) -> dict[str, float]:
        """The same by name."""
        return asdict(self)


@dataclass(frozen=True)
class GradientStatistics:
    """Of the gradients that a model has.

    Attributes:
        parameters: by the name of the parameter.
        modules: by the name of the module, of everything in it together; "" is the whole model.
    """

    parameters: dict[str, TensorStatistics]
    modules: dict[str, TensorStatistics]

    def as_dict(self) -> dict[str, dict[str, dict[str, float]]]:
        """The same as mappings: "parameters" and "modules"; empty where there are no gradients."""
        if not self.parameters:
            return {}
        return {
            "parameters": {name: entry.as_dict() for name, entry in self.parameters.items()},
            "modules": {name: entry.as_dict() for name, entry in self.modules.items()},
        }


def gradient_statistics(model: nn.Module, *, loss_scale: float = 1.0) -> GradientStatistics:
    """Statistics of every gradient, with one transfer to the host for all of them.

    Args:
        model: any module; parameters without a gradient are left out.
        loss_scale: what the gradients are still multiplied by: see ``gradient_norms``.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: it has no parameters, or the scale is not above 0.

    >>> model = nn.Linear(3, 1, bias=False)
    >>> model(torch.tensor([[2.0, 0.0, -2.0]])).sum().backward()
    >>> gradient_statistics(model).modules[""].zeros
    0.3333333333333333
    """
    check_positive("loss_scale", loss_scale)
    gradients = {name: p.grad for name, p in named_parameters(model).items() if p.grad is not None}
    parameters = dict(zip(gradients, tensor_statistics(list(gradients.values()), loss_scale), strict=True))
    within: dict[str, list[TensorStatistics]] = {}
    for name, entry in parameters.items():
        for module in _enclosing(name):
            within.setdefault(module, []).append(entry)
    return GradientStatistics(parameters, {name: merged(entries) for name, entries in within.items()})


def tensor_statistics(tensors: Sequence[Tensor], scale: float = 1.0) -> list[TensorStatistics]:
    """Of each tensor, divided by ``scale``; one transfer to the host for all of them.

    Half precision is summed in float32. Of a sparse tensor the entries that are not stored count as zeros.

    >>> tensor_statistics([torch.tensor([0.0, 3.0, -3.0, float("nan")])])[0].nonfinite
    1
    """
    return settled([pending_statistics(tensor) for tensor in tensors], scale)


@dataclass(frozen=True)
class PendingStatistics:
    """Statistics that are still on the device of their tensor: seven numbers in ``row``."""

    size: int
    row: Tensor


def pending_statistics(tensor: Tensor) -> PendingStatistics:
    """The statistics of a tensor, without waiting for its device."""
    return PendingStatistics(tensor.numel(), _row(tensor))


def settled(pending: Sequence[PendingStatistics], scale: float = 1.0) -> list[TensorStatistics]:
    """The same on the host, divided by ``scale``: one transfer for all of them."""
    if not pending:
        return []
    table = torch.stack([entry.row.to(pending[0].row.device) for entry in pending]).tolist()
    return [_statistics(entry.size, row, scale) for entry, row in zip(pending, table, strict=True)]


def merged(parts: Iterable[TensorStatistics]) -> TensorStatistics:
    """Of all tensors together (pairwise means and deviations: Chan, Golub and LeVeque 1983).

    >>> halves = tensor_statistics([torch.tensor([1.0, 2.0]), torch.tensor([6.0])])
    >>> merged(halves).mean, merged(halves).max
    (3.0, 6.0)
    """
    entries = list(parts)
    size = sum(entry.size for entry in entries)
    nonfinite = sum(entry.nonfinite for entry in entries)
    zeros = sum(entry.zeros * entry.size for entry in entries) / size if size else 0.0
    norms = [entry.norm for entry in entries]
    norm = math.nan if any(math.isnan(value) for value in norms) else math.hypot(*norms)
    counted = [(entry, entry.size - entry.nonfinite) for entry in entries if entry.size > entry.nonfinite]
    if not counted:
        return TensorStatistics(size, norm, math.nan, math.nan, math.nan, math.nan, zeros, nonfinite)
    finite = size - nonfinite
    mean = sum(entry.mean * count for entry, count in counted) / finite
    spread = sum((entry.std**2 + (entry.mean - mean) ** 2) * count for entry, count in counted)
    least, most = min(entry.min for entry, _ in counted), max(entry.max for entry, _ in counted)
    return TensorStatistics(size, norm, mean, math.sqrt(spread / finite), least, most, zeros, nonfinite)


def _row(tensor: Tensor) -> Tensor:
    """norm, sum and deviation of the finite entries, min, max, zeros, not finite: without a transfer."""
    values = tensor.detach()
    unstored = 0
    if values.layout is not torch.strided:
        stored = values.coalesce().values()
        unstored, values = values.numel() - stored.numel(), stored
    wide = torch.float32 if values.device.type == "mps" else torch.float64
    if not values.is_floating_point() or values.dtype in (torch.float16, torch.bfloat16):
        values = values.abs().float() if values.is_complex() else values.float()
    if not values.numel():
        values = values.new_zeros(0 if not unstored else 1)  # all that is there are zeros that are not stored
        unstored = max(0, unstored - 1)
    if not values.numel():
        return torch.zeros(7, dtype=wide, device=values.device)
    finite = values.isfinite()
    clean = torch.where(finite, values, 0.0)
    count = finite.sum() + unstored
    total = clean.sum(dtype=wide)
    mean = total / count
    around = torch.where(finite, (values - mean.to(values.dtype)), 0.0)
    squares = around.square().sum(dtype=wide) + unstored * mean.square()
    least = torch.where(finite, values, math.inf).min()
    most = torch.where(finite, values, -math.inf).max()
    if unstored:
        least, most = least.clamp(max=0.0), most.clamp(min=0.0)
    zeros = (values == 0).sum() + unstored
    norm = torch.linalg.vector_norm(values, dtype=values.dtype)
    broken = values.numel() - finite.sum()
    return torch.stack(
        [part.to(wide) for part in (norm, mean, (squares / count).sqrt(), least, most, zeros, broken)]
    )


def _statistics(size: int, row: list[float], scale: float) -> TensorStatistics:
    norm, mean, std, least, most, zeros, nonfinite = row
    broken = int(nonfinite)
    if broken == size:
        mean = std = least = most = math.nan
    share = zeros / size if size else 0.0
    return TensorStatistics(
        size, norm / scale, mean / scale, std / scale, least / scale, most / scale, share, broken
    )


def _enclosing(parameter: str) -> list[str]:
    """The modules that a parameter is in, from its own to the whole model."""
    modules = [owner(parameter)]
    while modules[-1]:
        modules.append(owner(modules[-1]))
    return modules
