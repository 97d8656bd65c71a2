"""Autograd's gradients beside finite differences, parameter by parameter.

The truth are central differences in a float64 copy of the model: in float32 rounding would hide errors of
some per cent. They are taken along chosen ways of each parameter: along its gradient, in a random
direction, and in sampled single entries. Two gradients are held against them: that of the float64 copy, to
a millionth, and that of the model in its own dtype, to its rounding; a backward that is wrong in either
fails. Where the copy cannot compute in float64, or computes something else there, differences in the
model's own dtype serve, with the larger error that they state.

At a kink (a ReLU that gets exactly 0) finite differences and autograd may rightly disagree: a parameter that
fails is looked at once more with all parameters moved by a thousandth, and fails only if it does so there as
well.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.finite_differences import Derivative, derivative, noise_of
from seo_kernels.diagnostics.gradient_workspace import Workspace, kept_random_state, typical_size
from seo_kernels.diagnostics.undisturbed import trainable_parameters
from seo_kernels.nn.sizes import check_size
from seo_kernels.ops.checks import kind

# what rounding in autograd may do, by dtype: relative to the derivative, and to the norm of all gradients
RELATIVE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
ABSOLUTE = {torch.float64: 1e-13, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
STEP = 0.05  # the largest, in typical sizes of the parameter
LEAST_SHARE = 1e-6  # of the norm of all gradients: what a reported error is relative to at least
MOVED = 1e-3  # where a parameter is looked at once more


@dataclass(frozen=True)
class GradientError:
    """One parameter's gradient beside finite differences.

    ``error`` and ``allowed`` belong to the comparison that used up most of what was allowed; both are
    relative to the derivative's size there (at least the root mean square of the parameter's gradient, and a
    millionth of the norm of all). The error is infinite where the gradient is not finite.
    """

    parameter: str
    passed: bool
    error: float
    allowed: float
    where: str  # "along the gradient", "in a random direction", "in entry (0, 3)"
    gradient_dtype: str  # of the gradient that was worst
    difference_dtype: str  # that finite differences were taken in
    entries: int  # of the parameter
    compared: int  # derivatives

    def __str__(self) -> str:
        verdict = "agrees" if self.passed else "disagrees"
        return (
            f"{self.parameter}: {self.gradient_dtype} gradient {verdict} with finite differences, relative "
            f"error {self.error:.2g} {self.where}, allowed {self.allowed:.2g} "
            f"({self.compared} derivatives of {self.entries} entries)"
        )


def gradient_errors(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    test_input: Any,
    test_target: Any,
    *,
    samples: int = 2,
    seed: int = 0,
) -> list[GradientError]:
    """Hold the gradient of every trainable parameter against finite differences.

    Parameters of ``loss_fn`` (named ``loss_fn.…``) and inputs that require a gradient (``input…``) are looked
    at too. The model is copied, and stays as it is; dropout draws the same in every pass. Some 6 to 20
    passes per compared derivative, of which a parameter has ``samples`` + 2.

    Args:
        model: any module that gives the same loss for the same input, seed and buffers.
        loss_fn: ``loss_fn(model(test_input), test_target)`` is a scalar.
        test_input: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        test_target: whatever ``loss_fn`` takes; ``gradient_workspace.NO_TARGET``: it takes the output alone.
        samples: single entries to compare per parameter: the largest gradient's first, the others at random.
        seed: of the passes and of the samples.

    Raises:
        TypeError: the model is no module or cannot be copied, or the loss is no floating-point tensor.
        ValueError: no trainable parameters, or a loss that is not scalar, not finite, without gradient, or
            another one at each call.
    """
    trainable_parameters(model)
    if not callable(loss_fn):
        raise TypeError(f"loss_fn is {kind(loss_fn)}, expected a function of output and target")
    check_size("samples", samples, least=0)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"model has no trainable parameter: a {type(model).__name__}, expected one with some"
        )

    def workspace() -> Workspace:
        return Workspace(model, loss_fn, test_input, test_target, seed)

    with kept_random_state():
        found = _errors_at(workspace, samples, seed)
        suspects = {result.parameter for result in found if not result.passed}
        if suspects:
            again = _errors_at(workspace, samples, seed, moved=MOVED, only=suspects)
            passed = {result.parameter: result for result in again if result.passed}
            found = [passed.get(result.parameter, result) for result in found]
    return found


def _errors_at(
    workspace: Callable[[], Workspace],
    samples: int,
    seed: int,
    moved: float = 0.0,
    only: set[str] | None = None,
) -> list[GradientError]:
    point = _point(workspace, moved, seed)
    names = [name for name in point.work.leaves if only is None or name in only]
    return [_error_of(point, name, samples, seed) for name in names]


@dataclass(frozen=True)
class _Gradients:
    """Autograd's gradients in one dtype, and what rounding may do to them."""

    dtype: torch.dtype
    by_name: Mapping[str, Tensor]
    total: float  # norm over all parameters where it is finite

    def allowed(self, scale: float, noise: float) -> float:
        """For a derivative of size ``scale``; ``noise`` is that of the loss, relative."""
        relative = RELATIVE[self.dtype]
        if self.dtype == torch.float64:  # the model may round to float32 inside
            relative = max(relative, 1e3 * noise)
        return relative * scale + ABSOLUTE[self.dtype] * self.total


@dataclass(frozen=True)
class _Point:
    """Where everything is compared: the workspace for differences, and the gradients to hold against them."""

    work: Workspace
    gradients: tuple[_Gradients, ...]  # the last has the dtype of the differences
    loss: float

    @property
    def dtype(self) -> torch.dtype:
        return self.gradients[-1].dtype

    def noise(self, name: str) -> float:
        """Of the loss where a leaf is moved: its rounding, as a share of the loss."""
        leaf = self.work.leaves[name]
        along = self.work.loss_along(name, torch.ones_like(leaf, requires_grad=False))
        size = typical_size(leaf)
        noise = noise_of(along, 1e-6 * size) if self.dtype == torch.float64 else math.inf
        if noise > 1e-12 * abs(self.loss):  # steps in which coarser rounding is not the same at every point
            noise = noise_of(along, 1e-4 * size)
        return noise / max(abs(self.loss), 1e-300)


def _point(workspace: Callable[[], Workspace], moved: float, seed: int) -> _Point:
    work = workspace()
    work.move(moved, seed)
    dtype = _narrowest(work)
    loss, own = work.loss_and_gradients()
    gradients = [_with_norm(dtype, own)]
    _check_loss(loss, float(work.loss().detach()), dtype)
    if dtype != torch.float64:
        wide = _widened(work, loss, gradients[0])
        if wide is not None:
            gradients.append(wide)
        else:
            work = workspace()  # the other one is float64 by now
            work.move(moved, seed)
    return _Point(work, tuple(gradients), loss)


def _widened(work: Workspace, loss: float, own: _Gradients) -> _Gradients | None:
    """Turns the workspace into float64; None where that fails or is another function."""
    try:
        work.widen()
        wide_loss, gradients = work.loss_and_gradients()
    except Exception:  # whatever a model that insists on its dtype raises
        return None
    wide = _with_norm(torch.float64, gradients)
    tolerance = math.sqrt(torch.finfo(own.dtype).eps)
    if math.isclose(loss, wide_loss, rel_tol=tolerance):
        return wide
    product = sum(_product(own.by_name[name], gradient) for name, gradient in wide.by_name.items())
    return wide if product > 0.999 * own.total * wide.total else None  # else dropout draws otherwise, say


def _error_of(point: _Point, name: str, samples: int, seed: int) -> GradientError:
    """Every comparison of one parameter; the one that used up most of what was allowed is reported."""
    gradient = point.gradients[-1].by_name[name]
    norm = _norm(gradient)
    size = norm / math.sqrt(max(1, gradient.numel())) if math.isfinite(norm) else 0.0
    target = 3e-7 * size + 1e-13 * point.gradients[-1].total
    noise = point.noise(name)
    worst = GradientError(
        name, True, 0.0, 0.0, "", _name(point.dtype), _name(point.dtype), gradient.numel(), 0
    )
    compared = 0
    for where, way in _ways(gradient, samples, seed):
        compared += 1
        difference = _difference(point, name, way, STEP, noise, target)
        results = _compare(point, worst, where, way, difference, size, noise)
        if not all(result.passed for result in results):  # confirmed with other steps
            other = _difference(point, name, way, STEP / 3.0, noise, target)
            apart = max(difference.error, other.error, abs(difference.value - other.value))
            results = _compare(point, worst, where, way, replace(other, error=apart), size, noise)
        worst = max(worst, *results, key=_severity)
    return replace(worst, compared=compared)


def _compare(
    point: _Point,
    about: GradientError,
    where: str,
    way: Tensor,
    difference: Derivative,
    size: float,
    noise: float,
) -> list[GradientError]:
    """Each dtype's gradient along ``way`` beside the difference."""
    results = []
    scale = max(abs(difference.value), size)
    shown = max(scale, LEAST_SHARE * point.gradients[-1].total)  # a ratio to nothing says nothing
    for one in point.gradients:
        error = abs(_product(one.by_name[about.parameter], way) - difference.value)
        allowed = one.allowed(scale, noise) + difference.error
        results.append(
            replace(
                about,
                passed=error <= allowed,  # not for NaN
                error=_ratio(error, shown),
                allowed=_ratio(allowed, shown),
                where=where,
                gradient_dtype=_name(one.dtype),
            )
        )
    return results


def _difference(
    point: _Point, name: str, way: Tensor, step: float, noise: float, target: float
) -> Derivative:
    """Along ``way``; at the largest step, its largest entry moves by ``step`` typical sizes."""
    farthest = float(way.abs().max())
    largest_step = step * typical_size(point.work.leaves[name]) / farthest
    along = point.work.loss_along(name, way)
    return derivative(along, noise=noise * abs(point.loss), largest_step=largest_step, target=target)


def _ways(gradient: Tensor, samples: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Unit vectors: the gradient's own, a random one, and entries: the largest gradient's, then any."""
    if gradient.numel() == 0:
        return
    norm = _norm(gradient)
    if 0.0 < norm < math.inf:
        yield "along the gradient", gradient / norm
    generator = torch.Generator().manual_seed(seed)
    way = torch.randn(gradient.shape, generator=generator, dtype=torch.float64, device="cpu")
    yield "in a random direction", (way / way.norm()).to(gradient.device, gradient.dtype)
    flat = gradient.abs().flatten()
    order = torch.randperm(flat.numel(), generator=generator, device="cpu").tolist()
    largest = int(flat.argmax())
    for entry in [largest, *(i for i in order[: samples + 1] if i != largest)][:samples]:
        way = torch.zeros_like(gradient)
        way.view(-1)[entry] = 1.0
        yield f"in entry {tuple(int(i) for i in np.unravel_index(entry, gradient.shape))}", way


def _check_loss(loss: float, again: float, dtype: torch.dtype) -> None:
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}, expected a finite number")
    if not math.isclose(loss, again, rel_tol=1e2 * torch.finfo(dtype).eps, abs_tol=1e-12):
        raise ValueError(
            f"model gives another loss at each call with the same seed ({loss}, {again}), expected the same"
        )


def _narrowest(work: Workspace) -> torch.dtype:
    dtypes = {leaf.dtype.to_real() for leaf in work.leaves.values()}
    return max(dtypes, key=lambda dtype: torch.finfo(dtype).eps)


def _with_norm(dtype: torch.dtype, gradients: dict[str, Tensor]) -> _Gradients:
    norms = [_norm(gradient) for gradient in gradients.values()]
    return _Gradients(dtype, gradients, math.hypot(*(norm for norm in norms if math.isfinite(norm))))


def _product(a: Tensor, b: Tensor) -> float:
    """The inner product in float64; of real and imaginary parts for complex tensors."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return float((a.double() * b.double()).sum())


def _norm(tensor: Tensor) -> float:
    return float(
        torch.linalg.vector_norm(tensor.to(torch.complex128 if tensor.is_complex() else torch.float64))
    )


def _severity(result: GradientError) -> float:
    """How much of what was allowed the error used up."""
    share = result.error / result.allowed if result.allowed > 0.0 else 0.0 if result.passed else math.inf
    return share if share == share else math.inf


def _ratio(error: float, scale: float) -> float:
    if not math.isfinite(error):
        return math.inf
    return error / scale if scale > 0.0 else 0.0 if error == 0.0 else math.inf


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
