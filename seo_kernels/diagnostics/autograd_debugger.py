"""Is the gradient sound, and is it right? What ``backward()`` left, looked at; and finite differences
beside it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.findings import Thresholds, find_issues
from seo_kernels.diagnostics.gradient_errors import GradientError, gradient_errors
from seo_kernels.ops.checks import kind


class GradientIssues(TypedDict):
    """What ``AutogradDebugger.check_gradients`` returns."""

    has_issues: bool
    issues: list[str]  # a sentence each, with the name of the parameter


class AutogradDebugger:
    """Looks for what is wrong with a model's gradients.

    Args:
        thresholds: norms between which a gradient is sound; None: 1e-8 and 10.0.

    >>> model, loss_fn = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)), nn.MSELoss()
    >>> input, target = torch.randn(8, 3), torch.randn(8, 1)
    >>> loss_fn(model(input), target).backward()
    >>> AutogradDebugger().check_gradients(model)
    {'has_issues': False, 'issues': []}
    >>> AutogradDebugger().verify_gradients(model, loss_fn, input, target)
    True
    """

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        if thresholds is not None and not isinstance(thresholds, Thresholds):
            raise TypeError(f"thresholds is {kind(thresholds)}, expected Thresholds or None")
        self.thresholds = thresholds

    def check_gradients(self, model: nn.Module) -> GradientIssues:
        """Look at the gradients that the model has now.

        NaN, Inf, explosion, vanishing, all zeros and no gradient are issues; see ``find_issues``.

        Args:
            model: any module, after ``backward()``.

        Raises:
            TypeError, ValueError: no module, or one without trainable parameters.
        """
        issues = [str(finding) for finding in find_issues(model, thresholds=self.thresholds)]
        return {"has_issues": bool(issues), "issues": issues}

    def verify_gradients(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Tensor],
        test_input: Any,
        test_target: Any,
    ) -> bool:
        """Whether every parameter's gradient agrees with finite differences.

        Nothing of the model changes: neither ``.grad``, mode, buffers nor random state. Dropout may be on. A
        gradient that is wrong by a ten-thousandth fails; so does a model that on purpose has another gradient
        than its loss (a straight-through estimator, a detached path).

        Args:
            model, loss_fn, test_input, test_target: ``loss_fn(model(test_input), test_target)`` is a scalar;
                see ``gradient_errors``, which also raises what this does.
        """
        errors = self.gradient_errors(model, loss_fn, test_input, test_target)
        return all(error.passed for error in errors)

    def gradient_errors(
        self,
        model: nn.Module,
        loss_fn: Callable[..., Tensor],
        test_input: Any,
        test_target: Any,
        *,
        samples: int = 2,
        seed: int = 0,
    ) -> list[GradientError]:
        """``verify_gradients`` in detail: for each parameter the error measured, and that allowed.

        Args:
            samples: single entries that are compared per parameter, beside two directions.
            seed: of every forward pass, and of the choice of entries.

        See ``seo_kernels.diagnostics.gradient_errors``.
        """
        return gradient_errors(model, loss_fn, test_input, test_target, samples=samples, seed=seed)


def enable_autograd_detection(enabled: bool = True, *, check_nan: bool = True) -> AbstractContextManager[Any]:
    """Turn on torch's anomaly detection for the whole process: backward stops where a NaN arises.

    The error then shows the traceback of the forward operation whose gradient is NaN. Every operation
    remembers its traceback, which makes training several times slower: for development.

    Args:
        enabled: False turns it off.
        check_nan: False: tracebacks alone, for other errors in backward.

    Returns:
        A context manager that restores what was before; who wants it on for good ignores it.

    >>> with enable_autograd_detection():
    ...     torch.is_anomaly_enabled()
    True
    >>> torch.is_anomaly_enabled()
    False
    """
    for name, value in (("enabled", enabled), ("check_nan", check_nan)):
        if not isinstance(value, bool):
            raise TypeError(f"{name} is {kind(value)}, expected True or False")
    return torch.autograd.set_detect_anomaly(enabled, check_nan=check_nan)
