"""Gradients in TensorBoard: norms, findings and analyses by step."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from seo_kernels._extras import require
from seo_kernels.diagnostics.findings import Finding
from seo_kernels.diagnostics.gradient_norms import GradientNorms
from seo_kernels.diagnostics.monitoring_report import reports_here
from seo_kernels.nn.sizes import check_size
from seo_kernels.ops.checks import kind

SMALLEST_IMAGE = 256  # pixels of the correlation's edge, at least


class TensorBoardGradients:
    """An event file with what ``tensorboard --logdir FOLDER`` shows. In the first of several processes only.

    Scalars: ``gradient/total_norm``, ``gradient_norm/PARAMETER``, ``gradient/findings`` (how many),
    ``analysis/loss``, ``analysis/angle``, ``analysis/hessian_trace``, ``hessian/eigenvalue_1`` (…),
    ``flow_mean/LAYER``, ``flow_max/LAYER``, ``flow_norm/LAYER``. Text: ``findings``. Image: ``correlation``.

    Args:
        folder: made where it is not there; each writer adds a file of its own.

    Raises:
        MissingExtraError: tensorboard is not installed.
        TypeError: ``folder`` is no path.
        OSError: it can't be written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"folder is {kind(folder)}, expected the path of a folder")
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(20, f"folder is {self.folder}, which is a file, expected a folder")
        purpose = "write gradients for TensorBoard"
        require("tensorboard", extra="diagnostics", purpose=purpose)
        writers = require("torch.utils.tensorboard", extra="diagnostics", purpose=purpose)
        self._writer: Any = writers.SummaryWriter(os.fspath(self.folder)) if reports_here() else None
        self._closed = False

    def write(
        self,
        step: int,
        *,
        norms: GradientNorms | None = None,
        findings: Sequence[Finding | str] | None = None,
        analysis: Mapping[str, Any] | None = None,
    ) -> None:
        """Write what there is of a step.

        Args:
            step: of the training, at least 0.
            norms: of all parameters, from ``gradient_norms``.
            findings: of this step; an empty sequence is a count of 0.
            analysis: the result of ``GradientAnalyzer.analyze_gradients``.

        Raises:
            TypeError, ValueError: an argument of another kind, none at all, or a writer that is closed.
        """
        check_size("step", step, least=0)
        if self._closed:
            raise ValueError(f"the writer in {self.folder} is closed, expected one that is open")
        if norms is None and findings is None and analysis is None:
            raise ValueError("nothing was given to write, expected norms, findings or analysis")
        scalars: dict[str, float] = {}
        if norms is not None:
            if not isinstance(norms, GradientNorms):
                raise TypeError(f"norms is {kind(norms)}, expected GradientNorms")
            scalars["gradient/total_norm"] = norms.total
            scalars |= {f"gradient_norm/{name}": norm for name, norm in norms.by_name().items()}
        if findings is not None:
            if isinstance(findings, str) or not isinstance(findings, Sequence):
                raise TypeError(f"findings is {kind(findings)}, expected a sequence of findings")
            scalars["gradient/findings"] = float(len(findings))
        if analysis is not None:
            if not isinstance(analysis, Mapping):
                raise TypeError(f"analysis is {kind(analysis)}, expected the results of an analysis")
            scalars |= analysis_scalars(analysis)
        if self._writer is None:
            return
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        if findings:  # indented: Markdown leaves it as it is
            self._writer.add_text("findings", "\n".join(f"    {finding}" for finding in findings), step)
        matrix = None if analysis is None else analysis.get("gradient_correlation", {}).get("matrix")
        if matrix:
            self._writer.add_image("correlation", correlation_image(matrix), step)

    def flush(self) -> None:
        """Everything written so far is in the file."""
        if self._writer is not None and not self._closed:
            self._writer.flush()

    def close(self) -> None:
        """End the file; a second time does nothing."""
        if self._writer is not None and not self._closed:
            self._writer.close()
        self._closed = True

    def __enter__(self) -> TensorBoardGradients:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def analysis_scalars(analysis: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an analysis by the tag that they are shown under.

    >>> analysis_scalars({"loss": 0.5, "hessian": {"trace": 3.0, "trace_error": 0.1, "eigenvalues": [2.0]}})
    {'analysis/loss': 0.5, 'analysis/hessian_trace': 3.0, 'hessian/eigenvalue_1': 2.0}
    """
    norms, flow = analysis.get("gradient_norms", {}), analysis.get("gradient_flow", {})
    hessian = analysis.get("hessian", {})
    found = {
        "analysis/loss": analysis.get("loss"),
        "analysis/total_norm": norms.get("total"),
        "analysis/angle": analysis.get("gradient_angles", {}).get("total"),
        "analysis/hessian_trace": hessian.get("trace"),
    }
    found |= {f"hessian/eigenvalue_{n}": value for n, value in enumerate(hessian.get("eigenvalues", ()), 1)}
    for curve in ("mean", "max", "norm"):
        values = flow.get(curve, ())
        found |= {f"flow_{curve}/{layer}": value for layer, value in zip(flow.get("layers", ()), values)}  # noqa: B905
    return {name: float(value) for name, value in found.items() if value is not None}


def correlation_image(matrix: Sequence[Sequence[float]]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(3, H, W), blue for 1, white for 0, red for -1, gray for what is not a number.

    >>> correlation_image([[1.0, -1.0], [0.0, 1.0]])[:, 0, [0, -1]].T.tolist()
    [[0, 0, 255], [255, 0, 0]]
    """
    values = np.array(matrix, dtype=np.float64)
    pale = 255 * (1 - np.abs(values.clip(-1, 1)))
    image = np.stack([np.where(values > 0, pale, 255), pale, np.where(values < 0, pale, 255)])
    image[:, np.isnan(values)] = 128
    edge = -(-SMALLEST_IMAGE // len(values))
    return image.astype(np.uint8).repeat(edge, axis=1).repeat(edge, axis=2)
