"""What the last steps were like: norms and findings, in records of bounded size."""

from __future__ import annotations

import math
from array import array
from collections import deque
from dataclasses import dataclass

from seo_kernels.diagnostics.findings import Finding, owner
from seo_kernels.diagnostics.gradient_norms import GradientNorms
from seo_kernels.nn.sizes import check_size

MAXIMUM = 1000  # steps


@dataclass(frozen=True)
class Record:
    """One step: 8 bytes a parameter. ``names`` is shared by all records of one model."""

    step: int
    total: float
    names: tuple[str, ...]
    norms: array[float]


@dataclass(frozen=True)
class NormSummary:
    """Of the norms of several steps; NaN and Inf are counted apart and left out of the rest.

    Attributes:
        steps: how many.
        last, mean, min, max: norms; NaN where none is finite (``last``: where the last one is not).
        nonfinite: steps whose norm is NaN or Inf.
    """

    steps: int
    last: float
    mean: float
    min: float
    max: float
    nonfinite: int


class History:
    """The norms of the last ``maximum`` steps; older ones go, the steps and the largest total stay counted.

    Args:
        maximum: steps that are kept.

    Attributes:
        seen: steps so far, those that are gone too.
        largest_total: the largest finite total norm so far, 0.0 before the first, and ``largest_step``, its
            step.

    Raises:
        TypeError, ValueError: ``maximum`` is no int of at least 1.

    >>> history = History(maximum=2)
    >>> for step in range(3):
    ...     history.append(step, GradientNorms(("weight",), (2.0 * step,), 2.0 * step))
    >>> history.steps, history.of_parameter("weight"), history.seen
    ([1, 2], [2.0, 4.0], 3)
    """

    def __init__(self, maximum: int = MAXIMUM) -> None:
        self._records: deque[Record] = deque(maxlen=check_size("maximum", maximum))
        self._names: tuple[str, ...] = ()
        self.seen = 0
        self.largest_total = 0.0
        self.largest_step: int | None = None

    @property
    def maximum(self) -> int:
        """How many steps are kept at most."""
        return self._records.maxlen or 0

    def __len__(self) -> int:
        return len(self._records)

    def append(self, step: int, norms: GradientNorms) -> None:
        """Keep the norms of one more step."""
        if norms.names != self._names:
            self._names = norms.names
        self._records.append(Record(step, norms.total, self._names, array("d", norms.norms)))
        self.seen += 1
        if self.largest_total <= norms.total < math.inf:
            self.largest_total, self.largest_step = norms.total, step

    @property
    def steps(self) -> list[int]:
        """Of the records that are kept."""
        return [record.step for record in self._records]

    @property
    def totals(self) -> list[float]:
        """The total norm of each of ``steps``."""
        return [record.total for record in self._records]

    @property
    def latest(self) -> Record | None:
        """The last one, None before the first."""
        return self._records[-1] if self._records else None

    def of_parameter(self, name: str) -> list[float]:
        """The norm of one gradient at each of ``steps``; NaN where there was none.

        Raises:
            KeyError: no such parameter had a gradient.
        """
        found = [
            record.norms[record.names.index(name)] if name in record.names else None
            for record in self._records
        ]
        if all(norm is None for norm in found):
            raise KeyError(f"{name} had no gradient in the steps that are kept")
        return [math.nan if norm is None else norm for norm in found]

    def of_module(self, name: str) -> list[float]:
        """The norm of all gradients in a module together at each of ``steps``; "" is the model.

        Raises:
            KeyError: no parameter in such a module had a gradient.
        """
        start = f"{name}." if name else ""
        inside = [
            [
                norm
                for parameter, norm in zip(record.names, record.norms, strict=True)
                if parameter.startswith(start)
            ]
            for record in self._records
        ]
        if not any(inside):
            raise KeyError(f"{name} has no parameter that had a gradient in the steps that are kept")
        return [math.hypot(*norms) if norms and not _has_nan(norms) else math.nan for norms in inside]

    def of_modules(self) -> dict[str, float]:
        """The last step's norm of the gradients that each module itself owns."""
        found: dict[str, list[float]] = {}
        if self.latest is not None:
            for name, norm in zip(self.latest.names, self.latest.norms, strict=True):
                found.setdefault(owner(name), []).append(norm)
        return {name: math.nan if _has_nan(norms) else math.hypot(*norms) for name, norms in found.items()}

    def by_parameter(self) -> dict[str, NormSummary]:
        """The norms of each parameter over the steps that are kept."""
        found: dict[str, list[float]] = {}
        for record in self._records:
            for name, norm in zip(record.names, record.norms, strict=True):
                found.setdefault(name, []).append(norm)
        return {name: summarized(norms) for name, norms in found.items()}

    def total(self) -> NormSummary:
        """The total norms of the steps that are kept."""
        return summarized(self.totals)


class FindingLog:
    """Findings by their first appearance: one that lasts for many steps is one, that of the first.

    Args:
        maximum: findings that are kept; older ones go.

    Attributes:
        current: those of the last step, each as it first appeared.

    >>> log = FindingLog()
    >>> for step in range(3):
    ...     log.update([Finding("dead", "head.bias", "head", step, 0.0)])
    >>> [finding.step for finding in log.all]
    [0]
    """

    def __init__(self, maximum: int = MAXIMUM) -> None:
        self._kept: deque[Finding] = deque(maxlen=check_size("maximum", maximum))
        self.current: list[Finding] = []

    def update(self, findings: list[Finding]) -> None:
        """Those of one more step, all of them."""
        lasting = {(finding.kind, finding.parameter): finding for finding in self.current}
        new = [finding for finding in findings if (finding.kind, finding.parameter) not in lasting]
        self.current = [lasting.get((finding.kind, finding.parameter), finding) for finding in findings]
        self._kept.extend(new)

    @property
    def all(self) -> list[Finding]:
        """Those that are kept, the oldest first."""
        return list(self._kept)


def summarized(norms: list[float]) -> NormSummary:
    """Of norms in the order of their steps.

    >>> summarized([1.0, math.nan, 3.0])
    NormSummary(steps=3, last=3.0, mean=2.0, min=1.0, max=3.0, nonfinite=1)
    """
    finite = [norm for norm in norms if math.isfinite(norm)]
    last = norms[-1] if norms else math.nan
    broken = len(norms) - len(finite)
    if not finite:
        return NormSummary(len(norms), last, math.nan, math.nan, math.nan, broken)
    mean = math.fsum(finite) / len(finite)
    return NormSummary(len(norms), last, mean, min(finite), max(finite), broken)


def _has_nan(norms: list[float]) -> bool:
    return any(math.isnan(norm) for norm in norms)
