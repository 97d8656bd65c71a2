"""What the examples print and return is what is known beforehand."""

import math

import pytest
import torch
from torch import nn

pytest.importorskip("accelerate")
pytest.importorskip("pydantic")

from seo_kernels.examples import (
    AdvancedAutogradExamples,
    AutogradAdvancedExamples,
    AutogradExamples,
    AutogradTrainingExamples,
    CustomAutogradExample,
)
from seo_kernels.examples.approaches import compare_approaches
from seo_kernels.examples.gradient_flow import gradient_flow
from seo_kernels.examples.showing import bytes_kept
from seo_kernels.nn import functions


def test_custom_functions(capsys: pytest.CaptureFixture[str]) -> None:
    reports = CustomAutogradExample.run_all()
    assert [report.name for report in reports] == [
        "CustomReLU",
        "CustomActivation",
        "CustomHuberLoss",
        "CustomLinear",
    ]
    for report in reports:
        assert report.first_order
        assert report.second_order
        assert report.value_difference < 1e-12
        assert report.gradient_difference < 1e-12
        assert report.name in capsys.readouterr().out or report is not reports[0]


def test_a_wrong_custom_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(functions.CustomReLU):
        @staticmethod
        def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
            return 2 * functions.CustomReLU.backward(ctx, grad)

    monkeypatch.setattr(CustomAutogradExample, "CustomReLU", Wrong)
    wrong, right = CustomAutogradExample.demonstrate_activations()
    assert (wrong.first_order, right.first_order) == (False, True)
    assert wrong.gradient_difference > 0.1


def test_basic_training(capsys: pytest.CaptureFixture[str]) -> None:
    report = AutogradTrainingExamples.basic_training(epochs=20)
    assert report.weights == pytest.approx([2.0, -1.0, 0.5], abs=1e-4)
    assert report.error < 1e-4
    assert report.initial_gradient_error < 1e-6
    assert len(report.losses) == 20
    assert report.losses[-1] < 1e-6 * report.losses[0]
    assert "found 2.0000, -1.0000, 0.5000" in capsys.readouterr().out


def test_advanced_training(capsys: pytest.CaptureFixture[str]) -> None:
    report = AutogradTrainingExamples.advanced_training(updates=20, decay=0.8)
    assert report.accumulation_difference < 1e-6
    assert report.average_difference < 1e-6
    assert report.final_loss < report.initial_loss
    assert report.final_loss_mixed == pytest.approx(report.final_loss, rel=0.05)
    assert report.final_loss_mixed != report.final_loss
    assert "moving average: differs from its formula" in capsys.readouterr().out


def test_second_order(capsys: pytest.CaptureFixture[str]) -> None:
    report = AutogradAdvancedExamples.second_order_gradients()
    assert report.cube == pytest.approx([6 * x for x in report.points], abs=1e-12)
    assert max(report.cube_error, report.hessian_error, report.product_error, report.newton_error) < 1e-10
    assert "(x^3)''" in capsys.readouterr().out


def test_checkpointing_keeps_the_inputs_of_layers_alone(capsys: pytest.CaptureFixture[str]) -> None:
    report = AutogradAdvancedExamples.gradient_checkpointing(layers=3, width=16, rows=8)
    tensor, loss = 8 * 16 * 4, 4
    assert report.kept_bytes == 2 * 3 * tensor + loss
    assert report.kept_bytes_checkpointed == 3 * tensor + loss
    assert report.gradient_difference == 0.0
    assert report.seconds > 0
    assert "checkpointed" in capsys.readouterr().out
    with pytest.raises(ValueError, match="layers is 1"):
        AutogradAdvancedExamples.gradient_checkpointing(layers=1)


def test_gradient_flow(capsys: pytest.CaptureFixture[str]) -> None:
    """Without residuals each layer takes 1 / sqrt(3) of a gradient; with them the first layer is reached."""
    report = AdvancedAutogradExamples.demonstrate_gradient_flow_analysis()
    assert report.plain.per_layer == pytest.approx(1 / math.sqrt(3), rel=0.1)
    assert report.plain.ratio < 1e-6
    assert 0.1 < report.residual.ratio < 10
    assert any("vanishes" in finding for finding in report.plain.findings)
    assert report.residual.findings == []
    assert "1/sqrt(3) is 0.577" in capsys.readouterr().out


def test_gradient_flow_of_a_shallow_network() -> None:
    report = gradient_flow(depth=2, width=8, rows=4)
    assert len(report.plain.norms) == 2
    assert report.plain.ratio == pytest.approx(report.plain.norms[0] / report.plain.norms[1])
    with pytest.raises(ValueError, match="depth is 1"):
        gradient_flow(depth=1)


def test_ways_through_autograd(capsys: pytest.CaptureFixture[str]) -> None:
    reports = {report.name: report for report in compare_approaches(layers=3, width=16, rows=8)}
    assert list(reports) == ["eager", "functional", "checkpointed", "compiled (aot_eager)"]
    assert all(report.difference < 1e-6 for report in reports.values())
    assert all(report.seconds > 0 for report in reports.values())
    kept, checkpointed = reports["eager"].kept_bytes, reports["checkpointed"].kept_bytes
    assert kept is not None
    assert checkpointed is not None
    assert kept - checkpointed == 3 * 8 * 16 * 4  # the input of each GELU
    assert "gradient differs by" in capsys.readouterr().out


def test_documented_models(capsys: pytest.CaptureFixture[str]) -> None:
    reports = AdvancedAutogradExamples.demonstrate_autograd_with_custom_models()
    names = ["CustomTransformerModel", "CustomCNNModel", "CustomRNNModel", "CustomSEOModel"]
    assert [report.name for report in reports] == names
    for report in reports:
        assert report.with_gradient == report.parameters
        assert report.total_norm > 0
        assert report.first_loss == pytest.approx(report.expected_loss, rel=0.6)
        assert report.last_loss < report.first_loss
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)


def test_basic_examples(capsys: pytest.CaptureFixture[str]) -> None:
    report = AutogradExamples.demonstrate_autograd_system()
    assert report.derivative == 6.0
    assert report.statistics
    assert report.custom_loss == pytest.approx(report.plain_loss, rel=1e-6)
    assert report.monitored_norm == pytest.approx(report.known_norm, rel=1e-5)
    assert report.custom_function_error < 1e-6
    assert report.higher_orders == [12.0, 12.0, 6.0]
    assert report.last_loss < 0.2 * report.first_loss
    shown = capsys.readouterr().out
    for words in ("d(x^2)/dx at 3: 6", "of w^3 at 2: 12, 12, 6", "gradients of 80 updates were watched"):
        assert words in shown


def test_all_advanced_examples(capsys: pytest.CaptureFixture[str]) -> None:
    report = AdvancedAutogradExamples.run_all_advanced_examples()
    assert report.second_order.cube_error < 1e-10
    shown = capsys.readouterr().out
    for title in (
        "Gradient flow",
        "Ways through autograd",
        "Documented models",
        "Second-order gradients",
        "Gradient checkpointing",
    ):
        assert title in shown


def test_bytes_kept() -> None:
    """The input of tanh's gradient is its output; an addition keeps nothing but its result here."""
    x = torch.randn(10, requires_grad=True)
    assert bytes_kept(lambda: x.tanh().tanh()) == 80
    assert bytes_kept(lambda: (x + 1) + 1) == 40
    linear, batch = nn.Linear(4, 4), torch.randn(2, 4)
    assert bytes_kept(lambda: linear(batch).relu()) == 32
