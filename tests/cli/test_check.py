"""``check`` passes on the library, and a planted wrong derivative of any kind makes it exit with status 1."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.cli.app import main
from seo_kernels.diagnostics import gradient_cases
from seo_kernels.diagnostics.attention_cases import op as attention_op
from seo_kernels.diagnostics.checked_op import CheckedOp

FEATURES = ("local", "shared relative key and value, local")


@pytest.fixture
def few_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole verification is a step of the continuous integration; here a few features stand for all."""

    def ops() -> dict[str, CheckedOp]:
        full = attention_op()
        kept = tuple(feature for feature in full.features if feature.name in FEATURES)
        assert len(kept) == len(FEATURES)
        return {"attention": CheckedOp("attention", full.function, full.reference, kept)}

    monkeypatch.setattr(gradient_cases, "ops", ops)


def run(tmp_path: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    report = tmp_path / "report.json"
    status = main(["check", "--json", str(report), *arguments])
    return status, json.loads(report.read_text())["results"]


@pytest.mark.usefixtures("few_features")
def test_the_library_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, results = run(tmp_path, "--device", "cpu")
    assert status == 0
    assert all(result["passed"] for result in results)
    assert {result["dtype"] for result in results} == {"float64", "float32", "bfloat16", "float16"}
    assert {result["feature"] for result in results} == set(FEATURES)
    what = {result["what"] for result in results}
    assert {"gradcheck", "forward mode", "gradgradcheck", "output", "d query", "d relative_value"} <= what
    assert "all passed" in capsys.readouterr().out


@pytest.mark.usefixtures("few_features")
def test_filters(tmp_path: Path) -> None:
    status, results = run(tmp_path, "--op", "attention", "--dtype", "bfloat16", "--device", "cpu")
    assert status == 0
    assert {result["dtype"] for result in results} == {"bfloat16"}


def test_every_feature_of_the_op_has_a_case() -> None:
    """A new argument of ``sk.attention`` has to come with a feature here."""
    seen: set[str] = set()

    def record(query: Tensor, key: Tensor, value: Tensor, **arguments: Any) -> Any:
        seen.update(name for name, value in arguments.items() if isinstance(value, Tensor) or value)
        return sk.reference.attention(query, key, value, **arguments)

    for feature in attention_op().features:
        problem = feature.problem("tiny", "cpu")
        problem.call(record, problem.inputs)
    arguments = set(sk.attention.__kwdefaults__)
    assert arguments - seen == {"scale"}  # only a factor: the default is as good as any


class WrongBackward(torch.autograd.Function):
    """The identity, with a gradient that is one per cent too long."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 1.01

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent.clone()


class WrongForwardMode(WrongBackward):
    """The identity, with a tangent that is one per cent too long."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.clone()

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent * 1.01


class WrongSecondDerivative(torch.autograd.Function):
    """x^2 / 2 with a first derivative that forgets that it depends on x."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x / 2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * ctx.saved_tensors[0]

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return tangent * ctx.saved_tensors[0]


def planted(function: type[torch.autograd.Function], honest: Callable[..., Any]) -> Callable[..., Any]:
    def attention(query: Tensor, key: Tensor, value: Tensor, **arguments: Any) -> Any:
        return honest(query, key, function.apply(value), **arguments)

    return attention


@pytest.mark.usefixtures("few_features")
@pytest.mark.parametrize(
    ("function", "found_by"),
    [(WrongBackward, {"gradcheck", "d value"}), (WrongForwardMode, {"forward mode"})],
)
def test_a_planted_wrong_derivative_fails(
    function: type[torch.autograd.Function],
    found_by: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sk, "attention", planted(function, sk.attention))
    status, results = run(tmp_path, "--dtype", "float64", "--device", "cpu")
    assert status == 1
    failed = {result["what"] for result in results if not result["passed"]}
    assert found_by <= failed
    assert "output" not in failed
    output = capsys.readouterr().out
    assert "failed" in output
    assert all(what in output for what in found_by)


@pytest.mark.usefixtures("few_features")
def test_a_missing_second_derivative_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sk, "attention", planted(WrongSecondDerivative, sk.attention))
    reference = planted(WrongSecondDerivative, sk.reference.attention)
    monkeypatch.setattr(sk.reference, "attention", reference)
    status, results = run(tmp_path, "--dtype", "float64", "--device", "cpu")
    assert status == 1
    assert {result["what"] for result in results if not result["passed"]} == {"gradgradcheck"}


@pytest.mark.usefixtures("few_features")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gradient_that_is_wrong_at_one_dtype_fails(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = sk.attention

    def attention(query: Tensor, key: Tensor, value: Tensor, **arguments: Any) -> Any:
        return honest(query, key.detach() + 0.97 * (key - key.detach()), value, **arguments)

    monkeypatch.setattr(sk, "attention", attention)
    status, results = run(tmp_path, "--dtype", dtype, "--device", "cpu")
    assert status == 1
    assert {result["what"] for result in results if not result["passed"]} == {"d key"}


@pytest.mark.usefixtures("few_features")
def test_an_exception_in_the_op_is_a_failure_with_its_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def attention(*operands: Tensor, **arguments: Any) -> Any:
        raise RuntimeError("no kernel on a Tuesday")

    monkeypatch.setattr(sk, "attention", attention)
    assert main(["check", "--device", "cpu"]) == 1
    assert "no kernel on a Tuesday" in capsys.readouterr().out


@pytest.mark.slow
def test_each_instruction_set(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    assert main(["check", "--all-capabilities", "--dtype", "float32", "--json", str(report)]) == 0
    reports = json.loads(report.read_text())
    assert "portable" in reports
    assert all(entry["info"]["cpu_capability"] == capability for capability, entry in reports.items())
    assert "SEO_KERNELS_CPU_CAPABILITY" not in os.environ


@pytest.mark.usefixtures("few_features")
def test_a_device_without_kernels_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_library, "available", lambda device: False)
    monkeypatch.setattr(_library, "_warned", True)  # the warning belongs to other tests
    monkeypatch.setattr(_library, "reason", lambda device: "the compiler was on holiday")
    assert main(["check", "--device", "cpu", "--dtype", "float32"]) == 0
    assert "cpu ran on the reference: the compiler was on holiday" in capsys.readouterr().out
