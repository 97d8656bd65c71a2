"""A user's own module looked at from all sides: trained for some steps under watch, analysed, verified."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.findings import Finding
from seo_kernels.diagnostics.gradient_analysis import GradientAnalysisConfig, GradientAnalyzer
from seo_kernels.diagnostics.gradient_monitor import GradientMonitor
from seo_kernels.diagnostics.gradient_workspace import NO_TARGET, kept_random_state
from seo_kernels.diagnostics.history import History
from seo_kernels.diagnostics.html_page import short
from seo_kernels.diagnostics.module_check import ModuleCheck, check_module
from seo_kernels.diagnostics.module_factory import FactoryError, ModuleUnderTest, loss_of_any_output
from seo_kernels.nn.sizes import check_positive, check_size

STEPS = 20
LEARNING_RATE = 1e-3
ANALYSES = 5  # over the training, at most: before the first step, after the last, and between
BROKEN = ("nan", "inf")

Progress = Callable[[str], None]


@dataclass
class ModuleDiagnosis:
    """What is known of a module.

    Attributes:
        name: of the factory.
        model: its class.
        shapes: of the trainable parameters, by name.
        steps: of training that were asked for; ``losses`` has those that were made.
        learning_rate: of AdamW, without weight decay.
        losses: before each step.
        stopped: why training ended early, a sentence; "" where it did not.
        history: the norms of each step, and ``findings``, what was wrong in them.
        analyses: results of ``GradientAnalyzer``, each with the "step" that it came before; the last one has
            the correlation and the curvature.
        missing_analyses: what could not be analysed, and why, a sentence each.
        checks: gradients of the untrained module beside finite differences and others.
    """

    name: str
    model: str
    shapes: dict[str, tuple[int, ...]]
    steps: int
    learning_rate: float
    losses: list[float] = field(default_factory=list)
    stopped: str = ""
    history: History = field(default_factory=History)
    findings: list[Finding] = field(default_factory=list)
    analyses: list[dict[str, Any]] = field(default_factory=list)
    missing_analyses: list[str] = field(default_factory=list)
    checks: list[ModuleCheck] = field(default_factory=list)

    @property
    def broken(self) -> list[Finding]:
        """Gradients that were NaN or Inf."""
        return [finding for finding in self.findings if finding.kind in BROKEN]

    @property
    def failed_checks(self) -> list[ModuleCheck]:
        """Comparisons that failed; not those that can't be told."""
        return [check for check in self.checks if check.passed is False]

    @property
    def finite(self) -> bool:
        """Neither a loss nor a gradient was NaN or Inf."""
        return not self.broken and all(math.isfinite(loss) for loss in self.losses)

    @property
    def passed(self) -> bool:
        """All was finite, and no comparison failed."""
        return self.finite and not self.failed_checks


def diagnose_module(
    module: ModuleUnderTest,
    *,
    steps: int = STEPS,
    learning_rate: float = LEARNING_RATE,
    samples: int = 2,
    seed: int = 0,
    progress: Progress | None = None,
) -> ModuleDiagnosis:
    """Train a copy on the module's own inputs, watch and analyse its gradients, and verify them.

    Training is AdamW's without weight decay, in the mode that the model is in, and ends at the first NaN or
    Inf. The module itself, and the state of random numbers, stay as they are.

    Args:
        module: from ``load_factory`` or ``module_under_test``.
        steps: of training, at least 1.
        learning_rate: positive.
        samples: single entries per parameter that are held against finite differences.
        seed: of the passes.
        progress: is told what comes next.

    Raises:
        TypeError, ValueError: an argument of another kind or out of range.
        FactoryError: the model or its loss raises an error with its inputs, or the loss needs no gradient.

    >>> from seo_kernels.diagnostics.module_factory import module_under_test
    >>> made = (nn.Linear(3, 2), torch.randn(8, 3), torch.randn(8, 2), nn.MSELoss())
    >>> diagnosis = diagnose_module(module_under_test("mine", made), steps=2)
    >>> diagnosis.passed, len(diagnosis.losses), len(diagnosis.analyses)
    (True, 2, 3)
    """
    check_size("steps", steps)
    check_positive("learning_rate", learning_rate)
    check_size("samples", samples, least=0)
    tell = progress or (lambda _what: None)
    shapes = {name: tuple(p.shape) for name, p in module.model.named_parameters() if p.requires_grad}
    diagnosis = ModuleDiagnosis(
        module.name, type(module.model).__name__, shapes, steps, learning_rate, history=History(steps)
    )
    with kept_random_state():
        torch.manual_seed(seed)
        _train(module, diagnosis, tell)
        tell("finite differences")
        diagnosis.checks = check_module(module, samples=samples, seed=seed)
    return diagnosis


def _train(module: ModuleUnderTest, diagnosis: ModuleDiagnosis, tell: Progress) -> None:
    model = _copied(module.model)
    analyses = _Analyses(module, diagnosis)
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=diagnosis.learning_rate,
        weight_decay=0.0,
    )
    moments = {round(n * diagnosis.steps / (ANALYSES - 1)) for n in range(ANALYSES)}
    monitor = GradientMonitor(model, history=diagnosis.steps)
    with monitor:
        for step in range(diagnosis.steps):
            tell(f"step {step + 1} of {diagnosis.steps}")
            if step in moments:
                analyses.add(model, step)
            optimizer.zero_grad()
            with _told_as_factory_error(module.name):
                loss = module.loss_value(model)
                diagnosis.losses.append(float(loss.detach()))
                loss.backward()
            diagnosis.stopped = _stop_reason(step, diagnosis.losses[-1], monitor.log.current)
            if diagnosis.stopped:
                break
            optimizer.step()
    diagnosis.history, diagnosis.findings = monitor.history, monitor.log.all
    if diagnosis.stopped:
        diagnosis.missing_analyses.append(
            "Correlation and curvature were not analysed: training was stopped."
        )
        return
    analyses.add(model, diagnosis.steps)
    tell("correlation and curvature")
    analyses.finish(model)


def _stop_reason(step: int, loss: float, findings: list[Finding]) -> str:
    if not math.isfinite(loss):
        return f"The loss was {short(loss)} at step {step}."
    broken = [finding for finding in findings if finding.kind in BROKEN]
    return f"Gradients were not finite at step {step}." if broken else ""


class _Analyses:
    """Of a twin of the model, so that its passes are none that the monitor counts."""

    def __init__(self, module: ModuleUnderTest, diagnosis: ModuleDiagnosis) -> None:
        self.module, self.diagnosis = module, diagnosis
        self.twin = _copied(module.model)
        self.analyzer = GradientAnalyzer(_config(norms=True, angles=True, flow=True))

    def add(self, model: nn.Module, step: int) -> None:
        """Norms, angles and flow of the model as it is now."""
        self.twin.load_state_dict(model.state_dict())
        found = self._analysed(self.analyzer, "Norms and flow")
        if found:
            self.diagnosis.analyses.append({"step": step, **found})

    def finish(self, model: nn.Module) -> None:
        """Correlation and curvature, to the last analysis."""
        if not self.diagnosis.analyses:
            return
        self.twin.load_state_dict(model.state_dict())
        for part, words in (("correlation", "Correlation"), ("hessian", "Curvature")):
            found = self._analysed(GradientAnalyzer(_config(**{part: True})), words)
            wanted = {name: value for name, value in found.items() if name.endswith(part)}
            self.diagnosis.analyses[-1].update(wanted)

    def _analysed(self, analyzer: GradientAnalyzer, words: str) -> dict[str, Any]:
        """Empty where it can't be done, which the diagnosis then says."""
        inputs = self.module.arguments
        try:
            return analyzer.analyze_gradients(
                model=self.twin,
                loss_function=_TwoArguments(self.module),
                input_data=inputs,
                target_data=self.module.target,
            )
        except Exception as error:  # whatever a model that is no further differentiable raises
            reason = f"{words} could not be analysed: {_told(error)}"
            if reason not in self.diagnosis.missing_analyses:
                self.diagnosis.missing_analyses.append(reason)
            return {}


@dataclass(frozen=True)
class _TwoArguments:
    """The module's loss, of output and target, whether it has a target or not."""

    module: ModuleUnderTest

    def __call__(self, output: Any, target: Any) -> Tensor:
        loss_fn = self.module.loss_fn or functools.partial(loss_of_any_output, name=self.module.name)
        loss: Tensor = loss_fn(output) if target is NO_TARGET else loss_fn(output, target)
        return loss


def _config(**parts: bool) -> GradientAnalysisConfig:
    return GradientAnalysisConfig(
        compute_gradient_norms=parts.get("norms", False),
        compute_gradient_angles=parts.get("angles", False),
        compute_gradient_flow=parts.get("flow", False),
        compute_gradient_correlation=parts.get("correlation", False),
        compute_hessian=parts.get("hessian", False),
    )


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise FactoryError(
            f"model: copy.deepcopy raised {_told(error)}; expected a model that can be copied, as copies of "
            "it are trained"
        ) from error


@contextmanager
def _told_as_factory_error(name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the user's model: they have seen them
            yield
    except FactoryError:
        raise
    except Exception as error:
        raise FactoryError(f"{name}: the model, called with its inputs, raised {_told(error)}") from error


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def numbers_of(diagnosis: ModuleDiagnosis) -> Mapping[str, Any]:
    """For JSON: all of it, findings and checks with their sentences."""
    return {
        "module": diagnosis.name,
        "model": diagnosis.model,
        "passed": diagnosis.passed,
        "parameters": {name: list(shape) for name, shape in diagnosis.shapes.items()},
        "training": {
            "optimizer": "AdamW",
            "learning_rate": diagnosis.learning_rate,
            "steps_asked_for": diagnosis.steps,
            "losses": diagnosis.losses,
            "total_norms": diagnosis.history.totals,
            "stopped": diagnosis.stopped or None,
        },
        "norms": {name: vars(norms) for name, norms in diagnosis.history.by_parameter().items()},
        "findings": [{**vars(finding), "text": str(finding)} for finding in diagnosis.findings],
        "analyses": diagnosis.analyses,
        "missing_analyses": diagnosis.missing_analyses,
        "checks": [vars(check) for check in diagnosis.checks],
    }
