"""A close look at the gradients of one batch: norms, angles, correlation, flow and curvature."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.analysis_pictures import draw_analysis
from seo_kernels.diagnostics.findings import VANISHING, idle_biases
from seo_kernels.diagnostics.flow_page import write_flow_page
from seo_kernels.diagnostics.gradient_flow import angle, correlation, forward_order, layers_of
from seo_kernels.diagnostics.gradient_norms import norms_of
from seo_kernels.diagnostics.hessian_spectrum import hessian_spectrum
from seo_kernels.diagnostics.history import summarized
from seo_kernels.diagnostics.undisturbed import (
    call_model,
    check_scalar_loss,
    trainable_parameters,
    undisturbed,
)
from seo_kernels.nn.sizes import check_flag, check_positive, check_size
from seo_kernels.ops.checks import kind

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class GradientAnalysisConfig:
    """What an analysis computes, and what in it is an issue.

    Args:
        compute_hessian: trace and largest eigenvalues of the Hessian; takes about 3 gradients a product, of
            which there are ``hessian_samples`` and some tens for the eigenvalues.
        compute_gradient_norms: L2 norms, of all and of each parameter.
        compute_gradient_angles: in radians, between the gradients of one analysis and the next.
        compute_gradient_correlation: between layers, whether the same rows of the batch have large gradients.
        compute_gradient_flow: mean and largest magnitude and norm of each layer, in the order of the forward
            pass.
        gradient_norm_threshold: a norm above it is an issue.
        gradient_angle_threshold: in radians; successive gradients that are within it of being opposite are an
            issue: steps that are too long overshoot to and fro.
        hessian_eigenvalues: how many.
        hessian_samples: random vectors for the trace, at least 2.
        history: analyses that are kept.

    Raises:
        TypeError, ValueError: another kind of value, or one out of range.

    >>> GradientAnalysisConfig(gradient_angle_threshold=4.0)
    Traceback (most recent call last):
    ValueError: gradient_angle_threshold is 4.0, expected at most pi radians
    """

    compute_hessian: bool = True
    compute_gradient_norms: bool = True
    compute_gradient_angles: bool = True
    compute_gradient_correlation: bool = True
    compute_gradient_flow: bool = True
    gradient_norm_threshold: float = 1.0
    gradient_angle_threshold: float = 0.1
    hessian_eigenvalues: int = 3
    hessian_samples: int = 10
    history: int = 1000

    def __post_init__(self) -> None:
        for name in ("hessian", "gradient_norms", "gradient_angles", "gradient_correlation", "gradient_flow"):
            check_flag(f"compute_{name}", getattr(self, f"compute_{name}"))
        check_positive("gradient_norm_threshold", self.gradient_norm_threshold)
        check_positive("gradient_angle_threshold", self.gradient_angle_threshold)
        if self.gradient_angle_threshold > math.pi:
            raise ValueError(
                f"gradient_angle_threshold is {self.gradient_angle_threshold}, expected at most pi radians"
            )
        check_size("hessian_eigenvalues", self.hessian_eigenvalues)
        check_size("hessian_samples", self.hessian_samples, least=2)
        check_size("history", self.history)


class GradientAnalyzer:
    """Analyses of a model's gradients, one batch at a time, that leave the model as it was.

    Args:
        config: None: all of it, with the documented thresholds.

    Attributes:
        config: as given.
        history: the results of the last analyses.

    Raises:
        TypeError: something else than a configuration.

    >>> analyzer = GradientAnalyzer(GradientAnalysisConfig(compute_hessian=False))
    >>> model = nn.Linear(2, 1, bias=False)
    >>> _ = nn.init.ones_(model.weight)
    >>> results = analyzer.analyze_gradients(
    ...     model=model,
    ...     loss_function=nn.MSELoss(),
    ...     input_data=torch.ones(6, 2),
    ...     target_data=torch.zeros(6, 1),
    ... )
    >>> results["gradient_norms"]["parameters"]["weight"]  # 2 (1 + 1) (1, 1)
    5.656854152679443
    >>> analyzer.detect_gradient_issues(results)
    ['weight: the norm of the gradient is 5.66, above 1']
    """

    def __init__(self, config: GradientAnalysisConfig | None = None) -> None:
        config = GradientAnalysisConfig() if config is None else config
        if not isinstance(config, GradientAnalysisConfig):
            raise TypeError(f"config is {kind(config)}, expected a GradientAnalysisConfig")
        self.config = config
        self.history: deque[dict[str, Any]] = deque(maxlen=config.history)
        self._before: dict[str, Tensor] = {}

    def analyze_gradients(
        self, *, model: nn.Module, loss_function: Loss, input_data: Any, target_data: Any
    ) -> dict[str, Any]:
        """The gradients of one batch, in the mode that the model is in.

        ``.grad``, modes, buffers and random numbers stay as they were.

        Args:
            model: with at least one trainable parameter.
            loss_function: a scalar of what the model gives and the target, a mean over the rows.
            input_data: a tensor, a tuple of positional or a mapping of keyword arguments; rows come first.
            target_data: whatever the loss takes.

        Returns:
            "loss", and as far as the configuration has it:

            - "gradient_norms": "total", and "parameters" by name;
            - "gradient_angles": to the analysis before, in radians: "total" (None at first), "parameters";
            - "gradient_correlation": "layers", and "matrix" (layers, layers), the correlation of their norms
              over parts of the batch; None, with a "note", where it has fewer than 6 rows;
            - "gradient_flow": "layers" in the order of the forward pass, "mean" and "max" of the magnitudes
              and "norm", of each;
            - "hessian": "trace", "trace_error", "eigenvalues": see ``hessian_spectrum``.

            "missing": the parameters that got no gradient.

        Raises:
            TypeError, ValueError: an argument of another kind, a loss that is no scalar.
            SecondDerivativeError: with ``compute_hessian``, an operation that can't be differentiated twice.
            MissingExtraError: with ``compute_hessian``, scipy is not installed.
        """
        parameters = trainable_parameters(model)
        config = self.config
        results: dict[str, Any] = {}
        with undisturbed(model), torch.enable_grad():
            with forward_order(model) as order:
                loss = check_scalar_loss(loss_function(call_model(model, input_data), target_data))
            results["loss"] = loss.item()
            found = torch.autograd.grad(
                loss, list(parameters.values()), retain_graph=config.compute_hessian, allow_unused=True
            )
            gradients = {
                name: gradient.detach()
                for name, gradient in zip(parameters, found, strict=True)
                if gradient is not None
            }
            results["missing"] = [name for name in parameters if name not in gradients]
            layers = layers_of(model, gradients, order)
            if config.compute_gradient_norms:
                results["gradient_norms"] = _norms(gradients)
            if config.compute_gradient_angles:
                results["gradient_angles"] = self._angles(gradients)
            if config.compute_gradient_flow:
                results["gradient_flow"] = _flow(gradients, layers)
            if config.compute_hessian:
                spectrum = hessian_spectrum(
                    model, loss, eigenvalues=config.hessian_eigenvalues, samples=config.hessian_samples
                )
                results["hessian"] = asdict(spectrum) | {"eigenvalues": list(spectrum.eigenvalues)}
            del loss
            if config.compute_gradient_correlation:
                results["gradient_correlation"] = correlation(
                    model, loss_function, input_data, target_data, parameters, layers
                )
        self.history.append(results)
        return results

    def detect_gradient_issues(self, analysis_results: Mapping[str, Any]) -> list[str]:
        """What is wrong in the results of an analysis, a sentence each; empty where all is sound.

        Raises:
            TypeError: no results of ``analyze_gradients``.
        """
        if not isinstance(analysis_results, Mapping) or "loss" not in analysis_results:
            raise TypeError(
                f"analysis_results is {kind(analysis_results)}, expected what analyze_gradients returned"
            )
        issues = [f"{name}: there is no gradient" for name in analysis_results.get("missing", ())]
        if not math.isfinite(analysis_results["loss"]):
            issues.append(f"the loss is {_number(analysis_results['loss'])}")
        issues += self._norm_issues(analysis_results.get("gradient_norms", {}))
        issues += self._angle_issues(analysis_results.get("gradient_angles", {}))
        for value in analysis_results.get("hessian", {}).get("eigenvalues", ()):
            if not math.isfinite(value):
                issues.append(f"an eigenvalue of the Hessian is {_number(value)}")
        return issues

    def get_gradient_statistics(self) -> dict[str, Any]:
        """Over the analyses that are kept; empty before the first.

        Returns:
            "analyses", their number; "loss", "total_norm" and "total_angle", and "parameters" by name, each
            with "steps", "last", "mean", "min", "max" and "nonfinite"; "hessian", the last one. What the
            configuration leaves out is not there.
        """
        if not self.history:
            return {}
        found: dict[str, Any] = {"analyses": len(self.history)}
        found["loss"] = asdict(summarized([results["loss"] for results in self.history]))
        norms = [results["gradient_norms"] for results in self.history if "gradient_norms" in results]
        if norms:
            found["total_norm"] = asdict(summarized([norm["total"] for norm in norms]))
            names = dict.fromkeys(name for norm in norms for name in norm["parameters"])
            found["parameters"] = {
                name: asdict(
                    summarized([norm["parameters"][name] for norm in norms if name in norm["parameters"]])
                )
                for name in names
            }
        angles = [results.get("gradient_angles", {}).get("total") for results in self.history]
        known = [value for value in angles if value is not None]
        if known:
            found["total_angle"] = asdict(summarized(known))
        if "hessian" in self.history[-1]:
            found["hessian"] = self.history[-1]["hessian"]
        return found

    def plot_gradient_analysis(self, save_path: str | os.PathLike[str] = "gradient_analysis.png") -> Path:
        """Draw the analyses that are kept, as PNG.

        Raises:
            ValueError: there is none yet.
            OSError: the path can't be written; the message names it.
            MissingExtraError: matplotlib is not installed.
        """
        return draw_analysis(save_path, self._analysed())

    def save_flow_page(self, save_path: str | os.PathLike[str] = "gradient_flow.html") -> Path:
        """Write an interactive page of the flow through the layers: one file that needs no network.

        Raises:
            ValueError: there is no analysis yet, or none with ``compute_gradient_flow``.
            OSError: the path can't be written; the message names it.
            MissingExtraError: plotly is not installed.
        """
        if not self.config.compute_gradient_flow:
            raise ValueError("config.compute_gradient_flow is False, expected True for a page of the flow")
        return write_flow_page(save_path, self._analysed())

    def _analysed(self) -> Sequence[dict[str, Any]]:
        if not self.history:
            raise ValueError("nothing was analysed yet, expected a call of analyze_gradients before")
        return list(self.history)

    def _angles(self, gradients: dict[str, Tensor]) -> dict[str, Any]:
        before, self._before = self._before, {name: g.clone() for name, g in gradients.items()}
        shared = [
            name for name in gradients if name in before and before[name].shape == gradients[name].shape
        ]
        if not shared:
            return {"total": None, "parameters": {}}
        pairs = {name: (before[name].to(gradients[name]), gradients[name]) for name in shared}
        return {
            "total": angle(list(pairs.values())),
            "parameters": {name: angle([pair]) for name, pair in pairs.items()},
        }

    def _norm_issues(self, norms: Mapping[str, Any]) -> list[str]:
        if not norms:
            return []
        limit, issues = self.config.gradient_norm_threshold, []
        for name, norm in norms["parameters"].items():
            if not math.isfinite(norm):
                issues.append(f"{name}: the norm of the gradient is {_number(norm)}")
            elif norm > limit:
                issues.append(f"{name}: the norm of the gradient is {_number(norm)}, above {limit:g}")
        idle = idle_biases(norms["parameters"], VANISHING)
        for name, norm in norms["parameters"].items():
            if norm < VANISHING and name not in idle:
                issues.append(f"{name}: the gradient vanishes with a norm of {_number(norm)}")
        if not issues and norms["total"] > limit:
            issues.append(f"the norm of all gradients is {_number(norms['total'])}, above {limit:g}")
        return issues

    def _angle_issues(self, angles: Mapping[str, Any]) -> list[str]:
        total = angles.get("total") if angles else None
        least = math.pi - self.config.gradient_angle_threshold
        if total is None or not total > least:
            return []
        return [
            f"the gradient is opposite to the one before: the angle is {total:.3g} radians, above {least:.3g}"
        ]


def _norms(gradients: Mapping[str, Tensor]) -> dict[str, Any]:
    norms = norms_of(list(gradients.values()))
    total = math.nan if any(math.isnan(norm) for norm in norms) else math.hypot(*norms)
    return {"total": total, "parameters": dict(zip(gradients, norms, strict=True))}


def _flow(gradients: Mapping[str, Tensor], layers: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    rows = []
    for names in layers.values():
        entries = torch.cat([gradients[name].reshape(-1).float() for name in names]).abs()
        rows.append(torch.stack([entries.mean(), entries.max(), torch.linalg.vector_norm(entries)]).cpu())
    table = torch.stack(rows).tolist() if rows else []
    return {
        "layers": list(layers),
        **{what: [row[n] for row in table] for n, what in enumerate(("mean", "max", "norm"))},
    }


def _number(value: float) -> str:
    return {"nan": "NaN", "inf": "Inf", "-inf": "-Inf"}.get(f"{value:.3g}", f"{value:.3g}")
