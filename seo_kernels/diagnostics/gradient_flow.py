"""Gradients by layer: in which order layers come, and how their gradients go together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.findings import owner
from seo_kernels.diagnostics.undisturbed import call_model, check_scalar_loss

PARTS = 8  # of a batch, at most, whose gradients are held beside each other
LEAST_PARTS = 3  # fewer have no correlation to speak of
LEAST_ROWS = 2  # of a part: batch normalisation needs them


@contextmanager
def forward_order(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules in the order in which they are first called inside."""
    order: list[str] = []
    handles = [
        module.register_forward_pre_hook(
            lambda _module, _args, name=name: None if name in order else order.append(name)
        )
        for name, module in model.named_modules()
    ]
    try:
        yield order
    finally:
        for handle in handles:
            handle.remove()


def layers_of(
    model: nn.Module, gradients: Mapping[str, Tensor], order: Sequence[str]
) -> dict[str, list[str]]:
    """The modules that own parameters with a gradient, in the order of the forward pass -> those parameters.

    A module that was not called itself stands behind the one that it is a part of. "" is the model.
    """
    owned: dict[str, list[str]] = {}
    for name in gradients:
        owned.setdefault(owner(name), []).append(name)
    called = {name: place for place, name in enumerate(order)}

    def place(layer: str) -> int:
        while layer and layer not in called:
            layer = owner(layer)
        return called.get(layer, -1)

    return {layer: owned[layer] for layer in sorted(owned, key=place)}


def angle(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Between two vectors that are given in parts, in radians from 0 to pi; NaN where one of them is zero.

    By the half-angle formula, which stays exact for nearly parallel vectors (Kahan 2006, "How Futile are
    Mindless Assessments of Roundoff").

    >>> round(angle([(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0]))]), 4)
    1.5708
    """
    first, second = _length([a for a, _b in pairs]), _length([b for _a, b in pairs])
    apart = _length([a.double() / first - b.double() / second for a, b in pairs])
    along = _length([a.double() / first + b.double() / second for a, b in pairs])
    return (2 * torch.atan2(apart, along)).item()


def _length(parts: Sequence[Tensor]) -> Tensor:
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part.double()) for part in parts]))


def correlation(
    model: nn.Module,
    loss_function: Callable[[Any, Any], Tensor],
    input_data: Any,
    target_data: Any,
    parameters: Mapping[str, nn.Parameter],
    layers: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """The correlation of the layers' gradient norms over parts of the batch."""
    names = list(layers)
    rows = _row_count(input_data)
    count = min(PARTS, (rows or 0) // LEAST_ROWS)
    if rows is None or count < LEAST_PARTS:
        shown = "its first dimension is none of rows" if rows is None else f"it has {rows}"
        note = f"expected a batch of at least {LEAST_PARTS * LEAST_ROWS} rows: {shown}"
        return {"layers": names, "matrix": None, "note": note}
    wanted = [name for owned in layers.values() for name in owned]
    norms = []
    for part in range(count):
        chosen = slice(rows * part // count, rows * (part + 1) // count)
        outputs = call_model(model, _sliced(input_data, chosen, rows))
        loss = check_scalar_loss(loss_function(outputs, _sliced(target_data, chosen, rows)))
        found = torch.autograd.grad(
            loss, [parameters[name] for name in wanted], allow_unused=True, materialize_grads=True
        )
        gradients = dict(zip(wanted, found, strict=True))
        norms.append(torch.stack([_length([gradients[n] for n in owned]).cpu() for owned in layers.values()]))
    matrix = torch.corrcoef(torch.stack(norms, 1)).reshape(len(names), len(names))
    return {"layers": names, "matrix": matrix.tolist(), "note": f"over {count} parts of the batch"}


def _row_count(data: Any) -> int | None:
    if isinstance(data, Tensor):
        return data.shape[0] if data.dim() > 0 else None
    values = data.values() if isinstance(data, Mapping) else data if isinstance(data, (list, tuple)) else ()
    return next((count for count in map(_row_count, values) if count is not None), None)


def _sliced(data: Any, chosen: slice, rows: int) -> Any:
    """Some rows of every tensor that has so many; the rest as it is."""
    if isinstance(data, Tensor):
        return data[chosen] if data.dim() > 0 and data.shape[0] == rows else data
    if isinstance(data, Mapping):
        return {key: _sliced(value, chosen, rows) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return type(data)(_sliced(value, chosen, rows) for value in data)
    return data
