"""A look at the gradients of a model on demand, cheap enough for every step."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from torch import nn

from seo_kernels.diagnostics.findings import Thresholds, checked_thresholds, find_issues
from seo_kernels.diagnostics.gradient_norms import gradient_norms
from seo_kernels.diagnostics.history import MAXIMUM, FindingLog, History
from seo_kernels.diagnostics.memory_use import memory_use
from seo_kernels.diagnostics.monitoring_report import summary_of, write_report
from seo_kernels.nn.sizes import check_size


class AutogradMonitor:
    """Norms, time, memory and what is wrong with the gradients, each time it is asked.

    Norms take one fused pass over the gradients and one transfer to the host; entries are looked at only
    where a norm is out of bounds.

    Ask after ``backward()`` and before clipping. With mixed precision in float16 ask after
    ``scaler.unscale_(optimizer)``, or give ``loss_scale``. When gradients accumulate over several passes ask
    once, before the optimizer's step. In DistributedDataParallel gradients are the mean over all processes,
    so each process finds the same.

    Args:
        thresholds: of an explosion and of a vanished gradient; None: 10.0 and 1e-8.
        history: steps that are kept.

    Attributes:
        history: the norms of the last steps.
        log: findings by their first appearance.

    Raises:
        TypeError, ValueError: an argument of another kind or out of range.

    >>> import torch
    >>> model, monitor = nn.Linear(2, 1), AutogradMonitor()
    >>> model(torch.ones(1, 2)).sum().backward()
    >>> monitor.monitor_gradients(model)["parameter_norms"]["bias"]
    1.0
    """

    def __init__(self, *, thresholds: Thresholds | None = None, history: int = MAXIMUM) -> None:
        self.thresholds = checked_thresholds(thresholds)
        self.history = History(history)
        self.log = FindingLog(history)
        self._asked: float | None = None

    def monitor_gradients(
        self, model: nn.Module, *, step: int | None = None, loss_scale: float = 1.0
    ) -> dict[str, Any]:
        """What the gradients of the model are like now.

        Args:
            model: after ``backward()``.
            step: its number; None: one more than the last, from 0.
            loss_scale: what the gradients are still multiplied by: ``scaler.get_scale()`` before
                ``unscale_``.

        Returns:
            "step"; "total_norm", the L2 norm of all gradients; "parameter_norms", by name; "findings", each
            as it first appeared, and "issues", the same in words; "computation_time", the seconds since the
            last call, which is a training step where it is made in each (None the first time);
            "monitoring_time", the seconds of this call; "memory", bytes: see ``memory_use``.

        Raises:
            TypeError: ``model`` is no module, ``step`` no int.
            ValueError: it has no parameters, or none with a gradient; the scale is not above 0.
        """
        start = time.perf_counter()
        number = self._next_step() if step is None else check_size("step", step, least=0)
        norms = gradient_norms(model, loss_scale=loss_scale)
        if not norms.names:
            raise ValueError("model has no gradients, expected some: call backward() on a loss first")
        findings = find_issues(model, step=number, thresholds=self.thresholds, norms=norms)
        self.log.update(findings)
        self.history.append(number, norms)
        memory = memory_use(next(model.parameters()).device)
        end = time.perf_counter()
        since, self._asked = None if self._asked is None else end - self._asked, end
        return {
            "step": number,
            "total_norm": norms.total,
            "parameter_norms": norms.by_name(),
            "findings": list(self.log.current),
            "issues": [str(finding) for finding in self.log.current],
            "computation_time": since,
            "monitoring_time": end - start,
            "memory": memory,
        }

    def get_summary(self) -> dict[str, Any]:
        """Of all calls so far, empty before the first: see ``monitoring_report.summary_of``."""
        return summary_of(self.history, self.log)

    def save_report(self, path: str | os.PathLike[str]) -> Path | None:
        """Write the summary, as JSON where the path ends so, else as text; whole or not at all.

        Returns:
            the path; None in all processes but the first, which write nothing.

        Raises:
            OSError: it can't be written; the message names it.
        """
        return write_report(path, "Autograd monitor", self.get_summary())

    def _next_step(self) -> int:
        latest = self.history.latest
        return 0 if latest is None else latest.step + 1
