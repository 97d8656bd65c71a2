"""Watches a training from beside: its own look at a batch, which leaves the training alone."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from seo_kernels.diagnostics.findings import Finding, Thresholds, issues_of_norms
from seo_kernels.diagnostics.forward_passes import ForwardPasses
from seo_kernels.diagnostics.gradient_analysis import GradientAnalysisConfig, GradientAnalyzer, Loss
from seo_kernels.diagnostics.gradient_norms import GradientNorms, unwrapped
from seo_kernels.diagnostics.history import FindingLog, History
from seo_kernels.diagnostics.monitoring_report import write_report
from seo_kernels.nn.sizes import check_size
from seo_kernels.ops.checks import kind

NORMS = ("gradient_norms", "missing")  # of an analysis: what findings are made of here


class GradientMonitoring:
    """Runs forward and backward on a batch by itself, and keeps what the gradients were like.

    ``.grad``, modes, buffers and random numbers of the model stay as they are: it may be called between the
    steps of a training. Of a compiled model the one within is looked at; in DistributedDataParallel each
    process looks at its own batch, all of them get the findings of all, and the first writes the report.

    Args:
        config: what is computed, and the thresholds; None: all of it. Whether a gradient has vanished is
            decided at 1e-8. ``config.history`` steps are kept.

    Attributes:
        config: as given.
        analyzer: the ``GradientAnalyzer`` that does the work, with its results.
        history: the norms of the last steps, with ``config.compute_gradient_norms``.
        log: findings by their first appearance.

    Raises:
        TypeError: ``config`` is something else.

    >>> import torch
    >>> monitoring = GradientMonitoring(GradientAnalysisConfig(compute_hessian=False))
    >>> data, model = (torch.ones(8, 2), torch.zeros(8, 1)), nn.Linear(2, 1)
    >>> result = monitoring.monitor_training_step(
    ...     model=model, loss_function=nn.MSELoss(), input_data=data[0], target_data=data[1], step=0
    ... )
    >>> model.weight.grad is None, result["step"]
    (True, 0)
    """

    def __init__(self, config: GradientAnalysisConfig | None = None) -> None:
        self.analyzer = GradientAnalyzer(config)
        self.config = self.analyzer.config
        threshold = self.config.gradient_norm_threshold
        self._thresholds = Thresholds(
            explosion=threshold, vanishing=min(Thresholds().vanishing, threshold / 2)
        )
        self.history = History(self.config.history)
        self.log = FindingLog(self.config.history)
        self._issues: deque[str] = deque(maxlen=self.config.history)
        self._steps = self._steps_with_issues = 0

    def monitor_training_step(
        self, *, model: nn.Module, loss_function: Loss, input_data: Any, target_data: Any, step: int
    ) -> dict[str, Any]:
        """Look at the gradients of one batch.

        Args:
            model: in the mode in which it is looked at.
            loss_function: a scalar of what the model gives and the target.
            input_data: a tensor, a tuple of positional or a mapping of keyword arguments.
            target_data: whatever the loss takes.
            step: number of the training step.

        Returns:
            "step", "loss", "total_norm" (None without ``compute_gradient_norms``); "issues", a list of
            sentences, empty where all is sound; "findings", those of them that are about one parameter;
            "analysis", what ``GradientAnalyzer.analyze_gradients`` gives.

        Raises:
            TypeError, ValueError: an argument of another kind, a model without trainable parameters, a loss
                that is no scalar.
            SecondDerivativeError: with ``compute_hessian``, an operation that can't be differentiated twice.
        """
        check_size("step", step, least=0)
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is {kind(model)}, expected a torch.nn.Module")
        inner = unwrapped(model)
        if not any(parameter.requires_grad for parameter in inner.parameters()):
            raise ValueError("model has no parameter with requires_grad, expected at least one")
        watch = ForwardPasses(inner, lambda: None, lambda outputs: None)
        try:
            analysis = self.analyzer.analyze_gradients(
                model=inner, loss_function=loss_function, input_data=input_data, target_data=target_data
            )
            norms = _norms_of(analysis)
            findings = issues_of_norms(norms, step=step, thresholds=self._thresholds)
            if not norms.finite:
                findings = _traced(findings, watch.origin())
        finally:
            for handle in watch.handles:
                handle.remove()
        rest = {name: value for name, value in analysis.items() if name not in NORMS}
        others = self.analyzer.detect_gradient_issues(rest)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            findings, others = _of_all_processes(findings, others, model)
        self.log.update(findings)
        self._steps += 1
        self._steps_with_issues += bool(self.log.current or others)
        self._issues.extend(str(finding) for finding in self.log.current if finding.step == step)
        self._issues.extend(f"step {step}: {issue}" for issue in others)
        if norms.names:
            self.history.append(step, norms)
        return {
            "step": step,
            "loss": analysis["loss"],
            "total_norm": norms.total if norms.names else None,
            "issues": [*map(str, self.log.current), *others],
            "findings": list(self.log.current),
            "analysis": analysis,
        }

    def get_monitoring_summary(self) -> dict[str, Any]:
        """What was seen so far.

        Returns:
            "steps_seen" and "steps_seen_with_issues"; "issues", sentences, the last ``config.history`` of
            them, one that lasts only when it came up; "findings", those about one parameter; after the first
            step "statistics": see ``GradientAnalyzer.get_gradient_statistics``; and with
            ``compute_gradient_norms`` "history" ("steps", "total_norms") and "modules", the norms of what
            each module itself owns in the last step.
        """
        summary: dict[str, Any] = {
            "steps_seen": self._steps,
            "steps_seen_with_issues": self._steps_with_issues,
            "issues": list(self._issues),
            "findings": self.log.all,
        }
        if not self._steps:
            return summary
        summary["statistics"] = self.analyzer.get_gradient_statistics()
        if len(self.history):
            summary["total_norm"] = asdict(self.history.total())
            summary["modules"] = self.history.of_modules()
            summary["history"] = {"steps": self.history.steps, "total_norms": self.history.totals}
        return summary

    def save_monitoring_report(
        self, path: str | os.PathLike[str] = "gradient_monitoring_report.txt"
    ) -> Path | None:
        """Write the summary, as JSON where the path ends so, else as text; whole or not at all.

        Returns:
            the path; None in all processes but the first, which write nothing.

        Raises:
            OSError: it can't be written; the message names it.
        """
        return write_report(path, "Gradient monitoring", self.get_monitoring_summary())


def _norms_of(analysis: dict[str, Any]) -> GradientNorms:
    found = analysis.get("gradient_norms", {"total": 0.0, "parameters": {}})
    names, norms = tuple(found["parameters"]), tuple(found["parameters"].values())
    return GradientNorms(names, norms, found["total"], tuple(analysis["missing"]))


def _traced(findings: list[Finding], origin: tuple[str, str] | None) -> list[Finding]:
    if origin is None:
        return findings
    module, note = origin
    return [
        replace(finding, module=module, note=note) if finding.kind in ("nan", "inf") else finding
        for finding in findings
    ]


def _of_all_processes(
    findings: list[Finding], others: list[str], model: nn.parallel.DistributedDataParallel
) -> tuple[list[Finding], list[str]]:
    """Each parameter's finding of one kind once, of the first process that has it."""
    group = model.process_group
    everybody: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everybody, (findings, others), group=group)
    first: dict[tuple[str, str], Finding] = {}
    for rank, (found, _) in enumerate(everybody):
        for finding in found:
            note = ", ".join(filter(None, [finding.note, f"in process {rank}"]))
            first.setdefault((finding.kind, finding.parameter), replace(finding, note=note))
    return list(first.values()), list(dict.fromkeys(issue for _, issues in everybody for issue in issues))
