"""The gradient verification: every op, feature, dtype and device, by finite differences and the reference.

float64: ``gradcheck`` (reverse and forward mode) and ``gradgradcheck`` on tiny sizes.
Every dtype: output and all gradients beside the reference in float64 on the same inputs. The error may be at
most twice that of the reference formula at that dtype (a few roundings are always granted), and the direction
has to agree.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seo_kernels.diagnostics.checked_op import CheckedOp, Feature, Problem

DTYPES: dict[str, torch.dtype] = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
GRANTED = {"float64": 1e-13, "float32": 2e-6, "bfloat16": 8e-3, "float16": 1e-3}  # relative error
LEAST_COSINE = {"float64": 1 - 1e-12, "float32": 1 - 1e-6, "bfloat16": 0.999, "float16": 0.999}


@dataclass(frozen=True)
class Unit:
    """One op with one feature at one dtype on one device."""

    op: CheckedOp
    feature: Feature
    dtype: str
    device: str


@dataclass(frozen=True)
class CheckResult:
    """One comparison. Errors are relative, in the Euclidean norm; None for finite differences."""

    op: str
    feature: str
    dtype: str
    device: str
    what: str
    passed: bool
    error: float | None = None
    allowed: float | None = None
    cosine: float | None = None
    detail: str = ""


def present_devices() -> list[str]:
    """The device types of this machine that torch can compute on."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def plan(ops: Sequence[CheckedOp], dtypes: Sequence[str], devices: Sequence[str]) -> list[Unit]:
    """All combinations, in the order in which they are reported."""
    return [
        Unit(op, feature, dtype, device)
        for op in ops
        for device in devices
        for feature in op.features
        for dtype in dtypes
    ]


def check(unit: Unit) -> list[CheckResult]:
    """Run every comparison of one unit; an exception inside the op is a failure, not a crash."""
    results = list(_against_finite_differences(unit)) if unit.dtype == "float64" else []
    try:
        results.extend(_against_reference(unit))
    except Exception as error:
        results.append(_result(unit, "reference", False, detail=_first_line(error)))
    return results


def _against_finite_differences(unit: Unit) -> Iterator[CheckResult]:
    problem = unit.feature.problem("tiny", unit.device)
    inputs = [_leaf(value, torch.float64, unit.device) for value in problem.inputs.values()]

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        return problem.call(unit.op.function, dict(zip(problem.inputs, values, strict=True)))

    checks: dict[str, Callable[[], Any]] = {
        "gradcheck": lambda: torch.autograd.gradcheck(call, inputs),
        "forward mode": lambda: torch.autograd.gradcheck(
            call, inputs, check_forward_ad=True, check_backward_ad=False, check_undefined_grad=False
        ),
        "gradgradcheck": lambda: torch.autograd.gradgradcheck(call, inputs, fast_mode=True),
    }
    for what, run in checks.items():
        try:
            run()
            yield _result(unit, what, True)
        except Exception as error:
            yield _result(unit, what, False, detail=_first_line(error))


def _against_reference(unit: Unit) -> Iterator[CheckResult]:
    problem = unit.feature.problem("odd", unit.device)
    dtypes = {
        name: torch.float32 if name in unit.feature.wide and unit.dtype != "float64" else DTYPES[unit.dtype]
        for name in problem.inputs
    }
    rounded = {name: value.to(dtypes[name]) for name, value in problem.inputs.items()}
    widened = {name: value.double() for name, value in rounded.items()}
    exact = _output_and_gradients(unit.op.reference, problem, widened, unit)
    plain = _output_and_gradients(unit.op.reference, problem, rounded, unit)
    ours = _output_and_gradients(unit.op.function, problem, rounded, unit)
    for what, expected in exact.items():
        error = _relative_error(ours[what], expected)
        allowed = max(2 * _relative_error(plain[what], expected), GRANTED[unit.dtype])
        cosine = _cosine(ours[what], expected)
        passed = error <= allowed and cosine >= LEAST_COSINE[unit.dtype]
        yield _result(unit, what, passed, error=error, allowed=allowed, cosine=cosine)


def _output_and_gradients(
    function: Callable[..., Any], problem: Problem, inputs: Mapping[str, Tensor], unit: Unit
) -> dict[str, Tensor]:
    """Outputs, and gradients for random weights on them (rounded to the unit's dtype), as float64."""
    leaves = {name: _leaf(value, value.dtype, unit.device) for name, value in inputs.items()}
    outputs = problem.call(function, leaves)
    generator = torch.Generator().manual_seed(1)
    weights = [
        torch.randn(output.shape, generator=generator, device="cpu")
        .to(DTYPES[unit.dtype])
        .to(unit.device, output.dtype)
        for output in outputs
    ]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), weights)
    found = {f"output {number}" if number else "output": output for number, output in enumerate(outputs)}
    found.update({f"d {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)})
    return {what: value.detach().to("cpu", torch.float64) for what, value in found.items()}


def _leaf(value: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    return value.detach().to(device, dtype, copy=True).requires_grad_()


def _relative_error(found: Tensor, expected: Tensor) -> float:
    """||found - expected|| / ||expected||; infinite where found has other non-finite values than expected."""
    unequal = found != expected  # equal infinities (a row without keys has lse -inf) differ by nothing
    difference = torch.where(unequal, found - expected, 0.0)
    if not bool(difference.isfinite().all()):
        return float("inf")
    norm = torch.where(expected.isfinite(), expected, 0.0).norm()
    return float(difference.norm() / norm) if norm > 0 else float(difference.norm())


def _cosine(found: Tensor, expected: Tensor) -> float:
    finite = found.isfinite() & expected.isfinite()
    a, b = found[finite], expected[finite]
    norms = a.norm() * b.norm()
    return float(a.dot(b) / norms) if norms > 0 else float(bool(a.norm() == b.norm()))


def _result(unit: Unit, what: str, passed: bool, **measured: Any) -> CheckResult:
    return CheckResult(unit.op.name, unit.feature.name, unit.dtype, unit.device, what, passed, **measured)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no message'}"
