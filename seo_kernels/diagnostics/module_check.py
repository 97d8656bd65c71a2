"""What a test of gradients can find out about a user's module, as a list of comparisons.

The module is never changed: all is computed on copies, see ``gradient_workspace``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from seo_kernels.diagnostics.finite_differences import derivative, noise_of
from seo_kernels.diagnostics.gradient_errors import gradient_errors
from seo_kernels.diagnostics.gradient_workspace import Workspace, kept_random_state, typical_size
from seo_kernels.diagnostics.module_factory import ModuleUnderTest, loss_of_any_output
from seo_kernels.nn.sizes import check_size

PRESENCE, DIFFERENCES, REPEATED = "gradient", "finite differences", "repeated backward"
WIDE, SECOND = "float64 copy", "second derivative"
ROUNDING = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1.5e-1}  # relative, of a gradient
LEAST_SHARE = 1e-4  # of the norm of all gradients: what gradients are compared by at least
SECOND_ORDER = 1e-5  # relative error of a second derivative
CURVATURE = 1e-3
STEP = 0.02  # the largest for second derivatives, in typical sizes of the parameter


@dataclass(frozen=True)
class ModuleCheck:
    """One comparison.

    Attributes:
        what: "gradient" (it is there, and finite), "repeated backward" (the same bits again, from the same
        graph
            and from another pass), "finite differences", "float64 copy" (the loss and gradients of the same
            module in float64), "second derivative" (beside differences of the gradient).
        about: the parameter; "" where it is about the whole.
        passed: None for what can't be told of this module; ``detail`` says why.
        error, allowed: relative, where there is something to compare.
    """

    what: str
    about: str
    passed: bool | None
    error: float | None = None
    allowed: float | None = None
    detail: str = ""


def check_module(module: ModuleUnderTest, *, samples: int = 2, seed: int = 0) -> list[ModuleCheck]:
    """Verify the gradients of a module's parameters, and of inputs that require one.

    Args:
        module: from ``load_factory`` or ``module_under_test``; in the mode in which it is to be looked at.
        samples: single entries per parameter that are held against finite differences, beside two directions.
        seed: of every pass, and of the directions.

    Returns:
        All comparisons, see ``ModuleCheck``. A pass that raises is a failed one.

    Raises:
        TypeError, ValueError: ``samples`` is no int >= 0.

    >>> from torch import nn
    >>> from seo_kernels.diagnostics.module_factory import module_under_test
    >>> model = nn.Sequential(nn.Linear(3, 2), nn.Tanh())
    >>> checks = check_module(module_under_test("mine", (model, torch.randn(4, 3))))
    >>> all(check.passed for check in checks)
    True
    """
    check_size("samples", samples, least=0)
    loss_fn = module.loss_fn or functools.partial(loss_of_any_output, name=module.name)
    with kept_random_state():
        try:
            work = Workspace(module.model, loss_fn, module.arguments, module.target, seed)
            loss, own = _passes(work)
        except Exception as error:
            return [ModuleCheck(PRESENCE, "", False, detail=_told(error))]
        checks = list(_presence(loss, own[0]))
        if not all(check.passed for check in checks):
            return checks  # nothing to compare
        checks += _repeated(own)
        try:
            found = gradient_errors(
                module.model, loss_fn, module.arguments, module.target, samples=samples, seed=seed
            )
            checks += [
                ModuleCheck(DIFFERENCES, one.parameter, one.passed, one.error, one.allowed, str(one))
                for one in found
            ]
        except Exception as error:
            checks.append(ModuleCheck(DIFFERENCES, "", False, detail=_told(error)))
        return [*checks, *_in_float64(work, loss, own[0], seed)]


def _passes(work: Workspace) -> tuple[float, list[dict[str, Tensor | None]]]:
    """The loss, and all gradients three times: twice of one graph, and of another pass."""
    loss = work.loss()
    leaves = list(work.leaves.values())
    found = [
        torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True),
        torch.autograd.grad(loss, leaves, allow_unused=True),
        torch.autograd.grad(work.loss(), leaves, allow_unused=True),
    ]
    names = list(work.leaves)
    return float(loss.detach()), [dict(zip(names, gradients, strict=True)) for gradients in found]


def _presence(loss: float, gradients: Mapping[str, Tensor | None]) -> Iterator[ModuleCheck]:
    if not math.isfinite(loss):
        yield ModuleCheck(PRESENCE, "", False, detail=f"the loss is {loss}, expected a finite number")
        return
    for name, gradient in gradients.items():
        if gradient is None:
            detail = "no gradient: the loss does not depend on it (freeze it, or leave it out)"
            yield ModuleCheck(PRESENCE, name, False, detail=detail)
            continue
        values = gradient if gradient.layout is torch.strided else gradient.coalesce().values()
        nans, infs = int(values.isnan().sum()), int(values.isinf().sum())
        detail = f"{nans} entries are NaN, {infs} are Inf" if nans or infs else ""
        yield ModuleCheck(PRESENCE, name, not detail, detail=detail)


def _repeated(gradients: list[dict[str, Tensor | None]]) -> Iterator[ModuleCheck]:
    first, *others = gradients
    for other, where in zip(others, ("a second backward of the same graph", "another pass"), strict=True):
        different = {
            name: _distance(other[name], gradient)
            for name, gradient in first.items()
            if gradient is not None and not _same_bits(gradient, other[name])
        }
        detail = f"{where} gives another gradient of {', '.join(different)}" if different else where
        error = max(different.values(), default=0.0)
        yield ModuleCheck(REPEATED, "", not different, error=error, allowed=0.0, detail=detail)


def _in_float64(
    work: Workspace, loss: float, own: Mapping[str, Tensor | None], seed: int
) -> Iterator[ModuleCheck]:
    """Turns the workspace into float64, and looks at first and second derivatives there."""
    present = {name: gradient for name, gradient in own.items() if gradient is not None}
    dtype = max((gradient.dtype for gradient in present.values()), key=lambda dtype: torch.finfo(dtype).eps)
    try:
        work.widen()
        wide_loss, wide = work.loss_and_gradients()
    except Exception as error:
        detail = f"it does not compute in float64: {_told(error)}"
        yield ModuleCheck(WIDE, "", None, detail=detail)
        yield ModuleCheck(SECOND, "", None, detail=detail)
        return
    if dtype in ROUNDING:
        yield from _beside_float64(loss, present, wide_loss, wide, dtype)
    yield from _second_derivatives(work, seed)


def _beside_float64(
    loss: float,
    own: Mapping[str, Tensor],
    wide_loss: float,
    wide: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> Iterator[ModuleCheck]:
    allowed = ROUNDING[dtype]
    error = abs(loss - wide_loss) / max(abs(wide_loss), 1e-300)
    total = math.hypot(*(float(gradient.norm()) for gradient in wide.values()))
    errors = {
        name: float((gradient.to_dense().to(wide[name].dtype) - wide[name]).norm())
        / max(float(wide[name].norm()), LEAST_SHARE * total, 1e-300)
        for name, gradient in own.items()
    }
    same = (
        error <= allowed or max(errors.values()) <= allowed
    )  # a loss near 0 is the difference of large terms
    detail = "" if same else "another loss in float64; where dropout is on, it may draw otherwise there"
    yield ModuleCheck(WIDE, "", same, error, allowed, detail)
    for name, error in errors.items():
        yield ModuleCheck(WIDE, name, error <= allowed, error, allowed)


def _second_derivatives(work: Workspace, seed: int) -> Iterator[ModuleCheck]:
    """The product of the Hessian and a random vector, a parameter at a time, beside differences."""
    generator = torch.Generator().manual_seed(seed)
    leaves = list(work.leaves.values())
    weights = [
        torch.randn(leaf.shape, generator=generator, device="cpu").to(leaf.device, leaf.dtype)
        for leaf in leaves
    ]
    try:
        size, gradients, products = _products(work, weights)
    except Exception as error:
        yield ModuleCheck(SECOND, "", None, detail=f"it is not differentiable twice: {_told(error)}")
        return
    by_name = dict(zip(work.leaves, weights, strict=True))
    total = math.hypot(*(float(product.norm()) for product in products))
    for name, product in zip(work.leaves, products, strict=True):
        norm = float(product.norm())
        way = product if norm > 0.0 else by_name[name]
        least = LEAST_SHARE * total + 1e-6 * gradients / typical_size(work.leaves[name])
        yield _second_derivative(work, name, way / way.norm(), by_name, size, norm, least)


def _products(work: Workspace, weights: list[Tensor]) -> tuple[float, float, list[Tensor]]:
    """The loss, the norm of its gradients, and the products of the Hessian and the weights, by leaf."""
    leaves = list(work.leaves.values())
    loss = work.loss()
    # a trace of curvature on top: else a backward that can't be differentiated would be taken for a constant
    curved = loss + CURVATURE * loss * loss / max(1.0, float(loss.detach() ** 2))
    gradients = torch.autograd.grad(curved, leaves, create_graph=True, allow_unused=True)
    pairs = [(g, w) for g, w in zip(gradients, weights, strict=True) if g is not None]
    weighted = torch.stack([(g * w).sum() for g, w in pairs]).sum()
    try:
        weighted.backward()  # unlike autograd.grad it goes all ways, those that only raise an error too
        products = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.to_dense() for leaf in leaves]
    finally:
        for leaf in leaves:
            leaf.grad = None
    return float(loss.detach()), math.hypot(*(float(g.detach().norm()) for g, _ in pairs)), products


def _second_derivative(
    work: Workspace,
    name: str,
    way: Tensor,
    weights: Mapping[str, Tensor],
    loss: float,
    expected: float,
    least: float,
) -> ModuleCheck:
    """``expected`` along ``way`` of the leaf, beside differences of the gradients' weighted sum."""

    def weighted(distance: float) -> float:
        with work.moved({name: way}, distance):
            moved, gradients = work.loss_and_gradients()
        slope = 1.0 + 2.0 * CURVATURE * moved / max(1.0, loss * loss)
        return slope * sum(float((gradients[other] * weight).sum()) for other, weight in weights.items())

    farthest = typical_size(work.leaves[name]) / max(float(way.abs().max()), 1e-300)
    noise = noise_of(weighted, 1e-6 * farthest)
    found = derivative(
        weighted, noise=noise, largest_step=STEP * farthest, target=1e-7 * max(expected, least)
    )
    scale = max(abs(found.value), expected, least)
    if not found.error <= 0.1 * scale:
        detail = f"differences are too coarse to tell, off by up to {found.error / scale:.2g}"
        return ModuleCheck(SECOND, name, None, detail=detail)
    error, allowed = abs(expected - found.value) / scale, SECOND_ORDER + found.error / scale
    return ModuleCheck(SECOND, name, error <= allowed, error, allowed)


def _same_bits(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and torch.equal(one.to_dense(), other.to_dense())


def _distance(found: Tensor | None, expected: Tensor) -> float:
    if found is None:
        return math.inf
    error = float((found.to_dense() - expected.to_dense()).norm() / expected.to_dense().norm())
    return error if math.isfinite(error) else math.inf


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
