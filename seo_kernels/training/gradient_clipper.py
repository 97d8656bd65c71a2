"""Gradients that are too large are made smaller: together, entry by entry, or unit by unit."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.gradient_norms import GradientNorms, gradient_norms, named_parameters
from seo_kernels.nn.sizes import check_flag, check_positive
from seo_kernels.training.engine_settings import Clipping
from seo_kernels.training.non_finite import NonFiniteError, non_finite_gradient


class GradientClipper:
    """Clipping that takes the model, and never makes one bad gradient everyone's.

    torch's own multiplies every gradient by ``max_norm / norm``, which turns all of them to NaN or 0 once a
    single entry is not finite. Here such gradients stay as they are, with a ``RuntimeWarning`` that names the
    parameters, or a ``NonFiniteError``; the norm that is returned tells, too.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> model(torch.tensor([[3.0, 4.0]])).sum().backward()
    >>> GradientClipper.clip_grad_norm_(model, max_norm=1.0), model.weight.grad
    (tensor(5.), tensor([[0.6000, 0.8000]]))
    """

    @staticmethod
    def clip_grad_norm_(
        model: nn.Module, max_norm: float = 1.0, *, error_if_nonfinite: bool = False
    ) -> Tensor:
        """Multiply all gradients by ``max_norm / norm`` where the L2 norm over all of them is larger.

        Args:
            model: after ``backward()``; unlike torch's function of this name, not its parameters.
            max_norm: above 0.
            error_if_nonfinite: raise, rather than warn.

        Returns:
            The norm before clipping, a scalar on the host.

        Raises:
            TypeError: no module, or no number.
            ValueError: a model without parameters or without gradients, a number out of range.
            NonFiniteError: a gradient is not finite, and that is to be an error.
        """
        return _clipped(model, Clipping("norm", check_positive("max_norm", max_norm)), error_if_nonfinite)

    @staticmethod
    def clip_grad_value_(
        model: nn.Module, clip_value: float = 1.0, *, error_if_nonfinite: bool = False
    ) -> Tensor:
        """Cut every entry of every gradient to [-clip_value, clip_value]; else as ``clip_grad_norm_``."""
        limit = Clipping("value", check_positive("clip_value", clip_value))
        return _clipped(model, limit, error_if_nonfinite)

    @staticmethod
    def clip_grad_adaptive_(
        model: nn.Module,
        clipping: float = 0.01,
        *,
        eps: float = 1e-3,
        exclude: Iterable[str] = (),
        error_if_nonfinite: bool = False,
    ) -> Tensor:
        """Limit the norm of each unit's gradient to ``clipping`` times the norm of its weights.

        A unit is a row of a matrix, a filter of a convolution, or the whole of a vector: a gradient G of
        weights W with ``|G| / max(|W|, eps) > clipping`` becomes ``clipping max(|W|, eps) / |G| G``.

        Args:
            model, error_if_nonfinite: as for ``clip_grad_norm_``, which also raises what this does.
            clipping: lambda, above 0.
            eps: above 0, so that weights that are 0 can move.
            exclude: names of parameters that are left alone; the paper's authors leave out the last layer.

        Source: Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization",
        eq. 3.
        """
        check_positive("eps", eps)
        names = {exclude} if isinstance(exclude, str) else set(exclude)
        unknown = names - set(named_parameters(model))
        if unknown:
            raise ValueError(f"exclude has {', '.join(sorted(unknown))}, expected parameters of model")
        limit = Clipping("adaptive", check_positive("clipping", clipping))
        return _clipped(model, limit, error_if_nonfinite, eps, names)


@torch.no_grad()
def clip_gradients(
    model: nn.Module,
    clipping: Clipping,
    norms: GradientNorms,
    *,
    eps: float = 1e-3,
    exclude: Iterable[str] = (),
) -> None:
    """Clip the gradients, whose norms are known and finite, as ``clipping`` says."""
    if clipping.mode == "adaptive":
        for name, parameter in named_parameters(model).items():
            if parameter.grad is not None and name not in exclude:
                _clip_units(parameter, parameter.grad, clipping.limit, eps)
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if clipping.mode == "value":
        torch._foreach_clamp_min_(gradients, -clipping.limit)
        torch._foreach_clamp_max_(gradients, clipping.limit)
    elif norms.total > clipping.limit:
        torch._foreach_mul_(gradients, clipping.limit / norms.total)


def _clipped(
    model: nn.Module,
    clipping: Clipping,
    error_if_nonfinite: bool,
    eps: float = 1e-3,
    exclude: Iterable[str] = (),
) -> Tensor:
    check_flag("error_if_nonfinite", error_if_nonfinite)
    norms = gradient_norms(model)
    if not norms.names:
        raise ValueError("model has no gradients, expected backward() before they are clipped")
    if norms.finite:
        clip_gradients(model, clipping, norms, eps=eps, exclude=exclude)
    elif error_if_nonfinite:
        raise NonFiniteError(f"{non_finite_gradient(norms)}: nothing was clipped")
    else:
        warnings.warn(f"{non_finite_gradient(norms)}: nothing is clipped", RuntimeWarning, stacklevel=3)
    return torch.tensor(norms.total)


def _clip_units(weight: Tensor, gradient: Tensor, limit: float, eps: float) -> None:
    dims = tuple(range(1, weight.dim())) if weight.dim() > 1 else None
    largest = torch.linalg.vector_norm(weight, dim=dims, keepdim=True).clamp_(min=eps) * limit
    norm = torch.linalg.vector_norm(gradient, dim=dims, keepdim=True)
    gradient.mul_(torch.where(norm > largest, largest / norm, 1.0))
