"""Watches the gradients of a model while it trains, through hooks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch.distributed as dist
from torch import nn
from torch.utils.hooks import RemovableHandle

from seo_kernels.diagnostics.backward_passes import BackwardPasses
from seo_kernels.diagnostics.findings import Finding, Thresholds, checked_thresholds, find_issues
from seo_kernels.diagnostics.forward_passes import ForwardPasses
from seo_kernels.diagnostics.gradient_norms import gradient_norms, named_parameters
from seo_kernels.diagnostics.history import MAXIMUM, FindingLog, History
from seo_kernels.diagnostics.monitoring_report import summary_of, write_report
from seo_kernels.nn.sizes import check_size
from seo_kernels.ops.checks import kind


class Scaler(Protocol):
    """What is needed of ``torch.amp.GradScaler``."""

    def get_scale(self) -> float: ...


class GradientMonitor:
    """Norms of all gradients at every step, their history, and where NaN and Inf came from.

    At the end of each backward pass all norms are taken in one fused pass and one transfer to the host.
    During the forward pass the output of every module is summed, on its device; the sums are looked at only
    when a gradient is not finite, and tell which module was first to give NaN or Inf. Where the forward pass
    was finite, it is the first in the order of the backward pass.

    Works with checkpointing (``use_reentrant=False``, and where the model itself is called with True too),
    with ``torch.compile(model)``: modules in it can't be watched, so the model is called once more,
    uncompiled, when a gradient is not finite; with DistributedDataParallel: have a monitor in every process,
    gradients are the reduced ones, and the first process writes the report.

    Args:
        model: what is called in training; names are those of the model within wrappers.
        thresholds: of an explosion and of a vanished gradient; None: 10.0 and 1e-8.
        history: steps, and findings, that are kept.
        accumulation_steps: backward passes before each update: the gradient that the update sees is looked
            at, not the part of one pass. None: you call ``observe()`` before each update.
        scaler: of float16 training: gradients are divided by its scale. While the scale is above 1,
            gradients that overflow after a finite forward pass are the scaler's business: they are counted
            as ``overflows`` and are no finding.
        first_step: number of the first step, for a training that is resumed.

    Attributes:
        history: the norms of the last steps.
        log: findings by their first appearance; those of one step in the order in which they came up.

    Raises:
        TypeError, ValueError: an argument of another kind or out of range, or a model without parameters that
            want a gradient.

    >>> import math, torch
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    >>> with GradientMonitor(model) as monitor:
    ...     model(torch.tensor([[1.0, math.inf]])).sum().backward()
    >>> print(monitor.log.all[0])  # doctest: +ELLIPSIS
    0.weight: ... of the gradient are ... at step 0 (module 0), as ... in the forward pass, the model's ...
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        thresholds: Thresholds | None = None,
        history: int = MAXIMUM,
        accumulation_steps: int | None = 1,
        scaler: Scaler | None = None,
        first_step: int = 0,
    ) -> None:
        if not any(parameter.requires_grad for parameter in named_parameters(model).values()):
            raise ValueError("model has no parameter with requires_grad, expected at least one")
        if scaler is not None and not hasattr(scaler, "get_scale"):
            raise TypeError(f"scaler is {kind(scaler)}, expected a torch.amp.GradScaler or None")
        self.model = model
        self.thresholds = checked_thresholds(thresholds)
        self.history = History(history)
        self.log = FindingLog(history)
        self.overflows = 0
        self._window = (
            None if accumulation_steps is None else check_size("accumulation_steps", accumulation_steps)
        )
        self._scaler = scaler
        self._step = check_size("first_step", first_step, least=0)
        self._passes = 0
        self._forward: ForwardPasses | None = None
        self._backward: BackwardPasses | None = None

    def register_hooks(self) -> list[RemovableHandle]:
        """Begin to watch; hooks of an earlier call are removed.

        Returns:
            handles: ``remove()`` on each, or ``remove_hooks()``, ends it.
        """
        self.remove_hooks()
        self._backward = BackwardPasses(self.model, self._end_of_pass)
        self._forward = ForwardPasses(
            self.model, self._backward.forget, self._backward.expect_from, self._window
        )
        return self._handles()

    def remove_hooks(self) -> None:
        """End the watch; history and findings stay."""
        for handle in self._handles():
            handle.remove()
        self._forward = self._backward = None

    def __enter__(self) -> GradientMonitor:
        self.register_hooks()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove_hooks()

    def observe(self, *, loss_scale: float | None = None) -> list[Finding]:
        """Look at the gradients now, as one step.

        Without ``accumulation_steps=None`` this is done at the end of the backward passes.

        Args:
            loss_scale: what the gradients are still multiplied by: None: the scaler's scale, where there is
                one; 1.0 after ``scaler.unscale_(optimizer)``.

        Returns:
            what is wrong, each finding as it first appeared.

        Raises:
            ValueError: there are no gradients.
        """
        current = self._scaler.get_scale() if self._scaler is not None else 1.0  # 1.0 of a disabled one
        scale = current if loss_scale is None else loss_scale
        norms = gradient_norms(self.model, loss_scale=scale)
        if not norms.names:
            raise ValueError("model has no gradients, expected some: call backward() on a loss first")
        step, self._step = self._step, self._step + 1
        origin = None if norms.finite or self._forward is None else self._shared(self._forward.origin())
        if self._forward is not None:
            self._forward.settle(sound=norms.finite)
        if current > 1.0 and not norms.finite and origin is None:
            self.overflows += 1
            self.log.update([])
            return []
        findings = find_issues(self.model, step=step, thresholds=self.thresholds, norms=norms)
        self.log.update(self._traced(findings, origin))
        self.history.append(step, norms)
        return list(self.log.current)

    def get_gradient_summary(self) -> dict[str, Any]:
        """What is known so far; empty before the first backward pass.

        Returns:
            what ``seo_kernels.diagnostics.monitoring_report.summary_of`` tells, "step", "total_norm",
            "parameter_norms", "issues" and "findings" among it; and "overflows".
        """
        if not self.history.seen and not self.overflows:
            return {}
        return summary_of(self.history, self.log) | {"overflows": self.overflows}

    def save_report(self, path: str | os.PathLike[str]) -> Path | None:
        """Write the summary, as JSON where the path ends so, else as text; whole or not at all.

        Returns:
            the path; None in all processes but the first, which write nothing.

        Raises:
            OSError: it can't be written; the message names it.
        """
        return write_report(path, "Gradient monitor", self.get_gradient_summary())

    def _handles(self) -> list[RemovableHandle]:
        forward = self._forward.handles if self._forward is not None else []
        return [*forward, *(self._backward.handles if self._backward is not None else [])]

    def _end_of_pass(self) -> None:
        self._passes += 1
        if self._window is not None and self._passes % self._window == 0:
            self.observe()

    def _traced(self, findings: list[Finding], origin: tuple[str, str] | None) -> list[Finding]:
        """The findings in the order in which they came up; NaN and Inf with their origin."""
        came = {name: place for place, name in enumerate(self._backward.order if self._backward else [])}
        place = {finding.parameter: number for number, finding in enumerate(findings)}

        def when(finding: Finding) -> tuple[int, int]:
            """Of those without a gradient the last is nearest the loss."""
            return came.get(finding.parameter, len(came)), -place[finding.parameter]

        ordered = sorted(findings, key=when)
        broken = [finding for finding in ordered if finding.kind in ("nan", "inf")]
        if not broken:
            return ordered
        backward = "in the backward pass" if self._forward is not None else ""
        module, note = origin or (broken[0].module, backward)
        broken.sort(key=lambda finding: not _within(finding.parameter, module))  # its own parameters first
        others = [finding for finding in ordered if finding.kind not in ("nan", "inf")]
        return [*(replace(finding, module=module, note=note) for finding in broken), *others]

    def _shared(self, origin: tuple[str, str] | None) -> tuple[str, str] | None:
        """Of all processes that train one model; that of the first one which has any."""
        if not isinstance(self.model, nn.parallel.DistributedDataParallel):
            return origin
        group = self.model.process_group
        found: list[tuple[str, str] | None] = [None] * dist.get_world_size(group)
        dist.all_gather_object(found, origin, group=group)
        for rank, entry in enumerate(found):
            if entry is not None:
                return entry[0], f"{entry[1]}, in process {rank}"
        return None


def _within(parameter: str, module: str) -> bool:
    return not module or parameter.startswith(f"{module}.")
