"""The diagonal of the Fisher information, from gradients of single samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from seo_kernels.diagnostics.undisturbed import (
    call_model,
    check_scalar_loss,
    evaluating,
    trainable_parameters,
)
from seo_kernels.nn.sizes import check_flag, check_size
from seo_kernels.ops.checks import kind

Loss = Callable[[Any, Any], Tensor]
Draw = Callable[[Any], Any]  # from what the model gives for a batch to its targets
GRADIENT_ENTRIES = 2**26  # of all samples of a chunk: 256 MiB in float32


def fisher_information(
    model: nn.Module,
    loss_fn: Loss,
    data_loader: Iterable[Any],
    *,
    monte_carlo: bool = False,
    draws: int = 1,
    draw_target: Draw | None = None,
    chunk_size: int | None = None,
    vectorized: bool | None = None,
) -> dict[str, Tensor]:
    """The mean over samples of the squared gradient: the diagonal of the Fisher information.

    With the targets of the loader it is the *empirical* Fisher; with ``monte_carlo`` targets are drawn from
    what the model predicts, which makes it an unbiased estimate of the Fisher information itself (Martens
    2020, "New Insights and Perspectives on the Natural Gradient Method", section 11). The loss of a sample
    is ``loss_fn`` on a batch of that one alone, so that "mean" and "sum" over the batch are the same.

    The model is in eval mode meanwhile; ``.grad``, modes and buffers stay as they were.

    Args:
        model: takes batches.
        loss_fn: a scalar of what the model gives and the target.
        data_loader: (input, target) pairs; input a tensor, a tuple of positional or a mapping of keyword
            arguments, target any nesting of tensors, each with the batch first.
        monte_carlo: whether to draw the targets.
        draws: targets drawn per sample; with ``monte_carlo`` only.
        draw_target: what draws them, from what the model gives for a batch to the batch's targets. By
            default by the loss: classes of cross entropy, position by position; 0 or 1 of binary cross
            entropy with logits; for the mean squared error the normal distribution whose -log p it is.
        chunk_size: samples whose gradients are held at once; None: as many as have 2**26 entries (256 MiB in
            float32).
        vectorized: True: by ``torch.func.vmap``; False: one sample after the other; None: the first, and
            the second after a warning where an operation of the model refuses vmap.

    Returns:
        {parameter name: tensor of its shape, float32 at least}, no entry negative.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a loader without samples, batches that do not fit, a loss that is no scalar, or
            ``monte_carlo`` with a loss that no distribution is known for and without ``draw_target``.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> batch = (torch.tensor([[1.0, 2.0]]), model(torch.tensor([[1.0, 2.0]])).detach() - 1.0)
    >>> fisher_information(model, nn.MSELoss(), [batch])["weight"]  # (2 x)^2
    tensor([[ 4., 16.]])
    """
    parameters = trainable_parameters(model)
    check_flag("monte_carlo", monte_carlo)
    check_size("draws", draws)
    if not monte_carlo and (draws != 1 or draw_target is not None):
        raise ValueError("draws and draw_target are given, expected them with monte_carlo=True only")
    if chunk_size is None:
        chunk_size = max(1, GRADIENT_ENTRIES // sum(p.numel() for p in parameters.values()))
    check_size("chunk_size", chunk_size)
    draw = (draw_target or _draw_by_loss(loss_fn)) if monte_carlo else None
    device = next(iter(parameters.values())).device
    squares = _Squares(model, loss_fn, parameters, vectorized)
    with evaluating(model):
        for number, batch in enumerate(data_loader):
            inputs, targets = _moved(_pair(batch, number), device)
            size = _batch_size(inputs, targets, number, with_targets=draw is None)
            for begin in range(0, size, chunk_size):
                part = slice(begin, min(begin + chunk_size, size))
                some = pytree.tree_map(lambda tensor, part=part: tensor[part], inputs)
                if draw is None:
                    squares.add(some, pytree.tree_map(lambda tensor, part=part: tensor[part], targets))
                    continue
                with torch.no_grad():
                    output = call_model(model, some)
                drawn = 0
                while drawn < draws:  # as many at once as a chunk holds
                    now = min(draws - drawn, max(1, chunk_size // (part.stop - part.start)))
                    squares.add(_repeated([some] * now), _repeated([draw(output) for _ in range(now)]))
                    drawn += now
    return squares.mean()


class _Squares:
    """Sums of squared gradients of single samples."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: Loss,
        parameters: Mapping[str, nn.Parameter],
        vectorized: bool | None,
    ) -> None:
        self.model, self.loss_fn, self.vectorized = model, loss_fn, vectorized
        self.parameters = {name: parameter.detach() for name, parameter in parameters.items()}
        self.sums = {name: torch.zeros_like(p, dtype=_wide(p)) for name, p in self.parameters.items()}
        self.count = 0

    def add(self, inputs: Any, targets: Any) -> None:
        size = pytree.tree_leaves(inputs)[0].shape[0]
        for name, square in self._of_chunk(inputs, targets, size).items():
            self.sums[name] += square
        self.count += size

    def mean(self) -> dict[str, Tensor]:
        if self.count == 0:
            raise ValueError("data_loader yields no sample, expected at least one (input, target) batch")
        return {name: total / self.count for name, total in self.sums.items()}

    def _of_chunk(self, inputs: Any, targets: Any, size: int) -> dict[str, Tensor]:
        if self.vectorized is not False:
            try:
                return self._by_vmap(inputs, targets)
            except (RuntimeError, NotImplementedError) as error:
                if self.vectorized or isinstance(error, torch.OutOfMemoryError):
                    raise
                warnings.warn(
                    f"fisher_information: the model refuses torch.func.vmap ({str(error).splitlines()[0]}); "
                    "it goes sample by sample, which is slower",
                    stacklevel=4,
                )
                self.vectorized = False
        return self._one_by_one(inputs, targets, size)

    def _by_vmap(self, inputs: Any, targets: Any) -> dict[str, Tensor]:
        gradient = torch.func.grad(self._loss_of_one)
        per_sample = torch.func.vmap(gradient, in_dims=(None, 0, 0), randomness="different")
        gradients = per_sample(self.parameters, inputs, targets)
        return {name: grad.to(_wide(grad)).square().sum(0) for name, grad in gradients.items()}

    def _loss_of_one(self, parameters: dict[str, Tensor], inputs: Any, targets: Any) -> Tensor:
        """Of a sample without batch dimension."""
        inputs, targets = pytree.tree_map(lambda tensor: tensor[None], (inputs, targets))
        is_mapping = isinstance(inputs, Mapping)
        output = torch.func.functional_call(
            self.model,
            parameters,
            () if is_mapping else inputs,
            inputs if is_mapping else None,
        )
        return check_scalar_loss(self.loss_fn(output, targets), "loss_fn's result", needs_graph=False)

    def _one_by_one(self, inputs: Any, targets: Any, size: int) -> dict[str, Tensor]:
        sums = {name: torch.zeros_like(total) for name, total in self.sums.items()}
        named = dict(self.model.named_parameters())
        for i in range(size):
            one, target = pytree.tree_map(lambda tensor, i=i: tensor[i : i + 1], (inputs, targets))
            with torch.enable_grad():
                loss = check_scalar_loss(
                    self.loss_fn(call_model(self.model, one), target), "loss_fn's result"
                )
            wanted = [named[name] for name in sums]
            gradients = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                total += gradient.to(total).square()
        return sums


def _wide(tensor: Tensor) -> torch.dtype:
    """What squares are summed in."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _pair(batch: Any, number: int) -> tuple[Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        shown = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else kind(batch)
        raise TypeError(f"batch {number} of data_loader is {shown}, expected an (input, target) pair")
    return batch[0], batch[1]


def _moved(parts: Any, device: torch.device) -> Any:
    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            raise TypeError(f"data_loader yields {kind(leaf)} within a batch, expected tensors")
        return leaf.to(device)

    return pytree.tree_map(moved, parts)


def _batch_size(inputs: Any, targets: Any, number: int, *, with_targets: bool) -> int:
    leaves = pytree.tree_leaves((inputs, targets) if with_targets else inputs)
    sizes = [leaf.shape[0] if leaf.ndim else None for leaf in leaves]
    if not sizes or sizes[0] is None or any(size != sizes[0] for size in sizes):
        raise ValueError(
            f"batch {number} of data_loader has tensors of {', '.join(map(str, sizes)) or 'no'} samples, "
            "expected the same number in all of them, first"
        )
    return sizes[0]


def _repeated(parts: list[Any]) -> Any:
    """Inputs or targets behind each other."""
    return pytree.tree_map(lambda *tensors: torch.cat(tensors), *parts) if len(parts) > 1 else parts[0]


def _draw_by_loss(loss_fn: Loss) -> Draw:
    if isinstance(loss_fn, nn.CrossEntropyLoss) or loss_fn is F.cross_entropy:
        return _draw_classes
    if isinstance(loss_fn, nn.BCEWithLogitsLoss) or loss_fn is F.binary_cross_entropy_with_logits:
        return lambda logits: torch.bernoulli(logits.sigmoid())
    if isinstance(loss_fn, nn.MSELoss) or loss_fn is F.mse_loss:
        summed = getattr(loss_fn, "reduction", "mean") == "sum"
        return lambda output: output + torch.randn_like(output) * _deviation(output, summed)
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    raise ValueError(
        f"loss_fn is {name}, whose distribution is not known, expected draw_target with monte_carlo=True"
    )


def _draw_classes(logits: Tensor) -> Tensor:
    """(B, C, ...) to (B, ...)."""
    probabilities = logits.movedim(1, -1).softmax(-1)
    classes = torch.multinomial(probabilities.reshape(-1, probabilities.shape[-1]), 1)
    return classes.reshape(probabilities.shape[:-1])


def _deviation(output: Tensor, summed: bool) -> float:
    """Of the normal distribution whose -log p is |output - target|^2, summed or averaged over a sample."""
    return (0.5 if summed else 0.5 * output[0].numel()) ** 0.5
