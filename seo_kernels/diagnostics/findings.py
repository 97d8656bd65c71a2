"""What can be wrong with gradients: the kinds of findings, their thresholds, and the search for them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.gradient_norms import GradientNorms, gradient_norms, named_parameters
from seo_kernels.ops.checks import kind

Kind = Literal["nan", "inf", "explosion", "vanishing", "dead", "missing"]
EXPLOSION = 10.0
VANISHING = 1e-8


@dataclass(frozen=True)
class Thresholds:
    """Between which norms a gradient is sound.

    Attributes:
        explosion: a norm, of one gradient or of all, above it is an explosion; ``math.inf``: none is.
        vanishing: a norm below it has vanished; 0.0: none has.

    Raises:
        TypeError, ValueError: not numbers with 0 <= vanishing < explosion.

    >>> Thresholds(explosion=1e-9)
    Traceback (most recent call last):
    ValueError: explosion is 1e-09, expected a number above vanishing=1e-08
    """

    explosion: float = EXPLOSION
    vanishing: float = VANISHING

    def __post_init__(self) -> None:
        for name, value in (("explosion", self.explosion), ("vanishing", self.vanishing)):
            if not isinstance(value, (int, float)) or isinstance(value, bool):
                raise TypeError(f"{name} is {kind(value)}, expected a number")
        if not 0.0 <= self.vanishing < math.inf:
            raise ValueError(f"vanishing is {self.vanishing}, expected a finite number >= 0")
        if not self.explosion > self.vanishing:
            raise ValueError(
                f"explosion is {self.explosion}, expected a number above vanishing={self.vanishing}"
            )


@dataclass(frozen=True)
class Finding:
    """Something wrong with a gradient; as text a sentence.

    Attributes:
        kind: "nan", "inf", "explosion", "vanishing", "dead" (zero throughout) or "missing" (there is none).
        parameter: whose gradient it is.
        module: where it first appeared as far as that is known, else the module that owns the parameter; ""
            is the model itself.
        step: when it first appeared; None where steps are not counted.
        value: how many entries are NaN or Inf, or the norm where they were not counted; the norm of an
            explosion or a vanished gradient; else 0.0.
        note: what else is known, a clause.

    >>> print(Finding("nan", "head.weight", "head", 3, 2.0))
    head.weight: 2 entries of the gradient are NaN at step 3 (module head)
    """

    kind: Kind
    parameter: str
    module: str
    step: int | None
    value: float
    note: str = ""

    def __str__(self) -> str:
        when = "" if self.step is None else f" at step {self.step}"
        place = f"module {self.module}" if self.module else "the model itself"
        where = f" ({place})" if self.module == owner(self.parameter) else f"; it began in {place}"
        note = f", {self.note}" if self.note else ""
        return f"{self.parameter}: {self._what()}{when}{where}{note}"

    def _what(self) -> str:
        if self.kind in ("nan", "inf"):
            name = {"nan": "NaN", "inf": "Inf"}[self.kind]
            if not math.isfinite(self.value):
                return f"the norm of the gradient is {name}"
            entries = "1 entry" if self.value == 1 else f"{self.value:.0f} entries"
            return f"{entries} of the gradient {'is' if self.value == 1 else 'are'} {name}"
        if self.kind == "dead":
            return "the gradient is zero throughout"
        if self.kind == "missing":
            return "there is no gradient"
        verb = "explodes" if self.kind == "explosion" else "vanishes"
        return f"the gradient {verb} with a norm of {self.value:.3g}"


def find_issues(
    model: nn.Module,
    *,
    step: int | None = None,
    thresholds: Thresholds | None = None,
    norms: GradientNorms | None = None,
    loss_scale: float = 1.0,
) -> list[Finding]:
    """What is wrong with the gradients that the model has now, in the order of its parameters.

    Norms come first, in one fused pass; entries are looked at only where a norm is out of bounds. A total
    above the threshold to which no gradient contributes so much by itself is one finding, about the largest.

    A bias on which the output does not depend (of the keys in attention, in front of a normalisation) gets
    rounding errors for a gradient: it counts as vanished or dead only together with the other parameters of
    its module.

    Args:
        model: any module, after ``backward()``.
        step: for the findings.
        thresholds: None: 10.0 and 1e-8.
        norms: of these gradients, where they are known already.
        loss_scale: as for ``gradient_norms``, which also raises what this does.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> (1e6 * model[1](torch.ones(1, 2))).sum().backward()
    >>> [(finding.kind, finding.parameter) for finding in find_issues(model)]
    [('missing', '0.weight'), ('missing', '0.bias'), ('explosion', '1.weight'), ('explosion', '1.bias')]
    """
    limits = checked_thresholds(thresholds)
    known = gradient_norms(model, loss_scale=loss_scale) if norms is None else norms
    by_name = known.by_name()
    suspects = _suspects(by_name, limits)
    if not suspects and not known.missing and known.total <= limits.explosion:
        return []
    parameters = named_parameters(model)
    found = _examined(suspects, parameters, known, limits, step)
    return _completed(found, known, limits, step, list(parameters))


def issues_of_norms(
    norms: GradientNorms, *, step: int | None = None, thresholds: Thresholds | None = None
) -> list[Finding]:
    """The same from the norms alone, where the gradients are gone: entries are not counted.

    >>> [finding.kind for finding in issues_of_norms(GradientNorms(("a", "b"), (0.0, 11.0), 11.0))]
    ['dead', 'explosion']
    """
    limits = checked_thresholds(thresholds)
    by_name = norms.by_name()
    found = [_judged(name, by_name[name], limits, step) for name in _suspects(by_name, limits)]
    return _completed(found, norms, limits, step, [*norms.names, *norms.missing])


def idle_biases(norms: Mapping[str, float], least: float) -> set[str]:
    """Biases with norms below the least whose module has parameters with others.

    >>> idle_biases({"a.weight": 1.0, "a.bias": 0.0, "b.weight": 0.0, "b.bias": 0.0}, 1e-8)
    {'a.bias'}
    """
    low = [name for name, norm in norms.items() if norm < least]
    learning = {owner(name) for name, norm in norms.items() if norm >= least} if low else set()
    return {name for name in low if "bias" in name.rpartition(".")[2] and owner(name) in learning}


def checked_thresholds(thresholds: Thresholds | None) -> Thresholds:
    """The thresholds; for None 10.0 and 1e-8.

    Raises:
        TypeError: something else.
    """
    if thresholds is not None and not isinstance(thresholds, Thresholds):
        raise TypeError(f"thresholds is {kind(thresholds)}, expected Thresholds or None")
    return Thresholds() if thresholds is None else thresholds


def owner(parameter: str) -> str:
    """The module that a parameter belongs to, by its name: "" is the model itself.

    >>> owner("layers.0.weight"), owner("weight")
    ('layers.0', '')
    """
    return parameter.rpartition(".")[0]


def _completed(
    found: list[Finding], norms: GradientNorms, limits: Thresholds, step: int | None, order: list[str]
) -> list[Finding]:
    """With what is missing, and a total that is too large; in the order of the parameters."""
    found = [*found, *(Finding("missing", name, owner(name), step, 0.0) for name in norms.missing)]
    if norms.total > limits.explosion and not any(finding.kind in ("inf", "explosion") for finding in found):
        by_name = norms.by_name()
        largest = max(by_name, key=lambda name: by_name[name])
        note = f"the norm of all gradients; this is the largest, {by_name[largest]:.3g}"
        found.append(Finding("explosion", largest, owner(largest), step, norms.total, note))
    place = {name: number for number, name in enumerate(order)}
    return sorted(found, key=lambda finding: place[finding.parameter])


def _judged(name: str, norm: float, limits: Thresholds, step: int | None) -> Finding:
    """A gradient whose norm is out of bounds."""
    sort: Kind = "vanishing"
    if math.isnan(norm):
        sort = "nan"
    elif math.isinf(norm):
        sort = "inf"
    elif norm > limits.explosion:
        sort = "explosion"
    elif norm == 0.0:
        sort = "dead"
    return Finding(sort, name, owner(name), step, norm)


def _suspects(norms: dict[str, float], limits: Thresholds) -> list[str]:
    """Those whose norm is out of bounds, but for biases that are small beside their module's others."""
    least = max(limits.vanishing, math.ulp(0.0))  # a norm of 0 is dead, whatever has vanished
    idle = idle_biases(norms, least)
    return [
        name for name, norm in norms.items() if not least <= norm <= limits.explosion and name not in idle
    ]


def _examined(
    suspects: list[str],
    parameters: dict[str, nn.Parameter],
    norms: GradientNorms,
    limits: Thresholds,
    step: int | None,
) -> list[Finding]:
    """A closer look at the gradients whose norms are out of bounds: one transfer for all of them."""
    looks = dict(zip(suspects, _entries(parameters[name].grad for name in suspects), strict=True))
    found = []
    for name, look in looks.items():
        norm = look.norm / norms.loss_scale
        if look.nans or look.infs:
            sort: Kind = "nan" if look.nans else "inf"
            found.append(Finding(sort, name, owner(name), step, look.nans or look.infs))
        elif look.size and (norm == 0.0 or not limits.vanishing <= norm <= limits.explosion):
            found.append(_judged(name, norm, limits, step))
    return found


@dataclass(frozen=True)
class _Look:
    size: int
    nans: float
    infs: float
    norm: float


def _entries(gradients: Iterable[Tensor | None]) -> list[_Look]:
    """Of each gradient: its size, how many entries are NaN and Inf, its norm in float64 without overflow."""
    sizes, rows = [], []
    for gradient in gradients:
        assert gradient is not None
        values = gradient.detach()
        values = values if values.layout is torch.strided else values.coalesce().values()
        wide = torch.float32 if values.device.type == "mps" else torch.float64
        nans, infs = values.isnan().sum(), values.isinf().sum()
        norm = torch.linalg.vector_norm(values.to(torch.promote_types(values.dtype, wide)))
        rows.append(torch.stack([nans.to(wide), infs.to(wide), norm.to(wide)]).cpu())
        sizes.append(values.numel())
    if not rows:
        return []
    table = torch.stack(rows).tolist()
    return [_Look(size, *row) for size, row in zip(sizes, table, strict=True)]
