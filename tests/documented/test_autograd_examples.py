"""Section 1.7: autograd_examples."""

from __future__ import annotations

import pytest
import torch
from autograd_examples import AutogradAdvancedExamples, AutogradTrainingExamples, CustomAutogradExample
from torch import Tensor
from torch.nn import functional as F


def leaf(*shape: int) -> Tensor:
    """Away from 0, where relu and Huber have kinks."""
    values = torch.randn(shape, dtype=torch.float64)
    return (values + 0.1 * values.sign()).requires_grad_()


def test_activations() -> None:
    x = leaf(4, 5)
    torch.testing.assert_close(CustomAutogradExample.CustomReLU.apply(x), F.relu(x))
    torch.testing.assert_close(CustomAutogradExample.CustomActivation.apply(x), F.leaky_relu(x, 0.1))
    for function in (CustomAutogradExample.CustomReLU, CustomAutogradExample.CustomActivation):
        assert torch.autograd.gradcheck(function.apply, (x,))
        assert torch.autograd.gradgradcheck(function.apply, (x,))


def test_huber_loss() -> None:
    predictions, targets = leaf(8), torch.zeros(8, dtype=torch.float64)
    function = CustomAutogradExample.CustomHuberLoss
    torch.testing.assert_close(function.apply(predictions, targets), F.huber_loss(predictions, targets))
    torch.testing.assert_close(
        function.apply(predictions, targets, 0.5), F.huber_loss(predictions, targets, delta=0.5)
    )
    function.apply(predictions, targets, 0.5).backward()  # a gradient for each of the three
    (expected,) = torch.autograd.grad(F.huber_loss(predictions, targets, delta=0.5), predictions)
    assert predictions.grad is not None
    torch.testing.assert_close(predictions.grad, expected)
    assert torch.autograd.gradgradcheck(lambda p: function.apply(p, targets), (predictions,))


def test_linear() -> None:
    x, weight, bias = leaf(3, 4), leaf(5, 4), leaf(5)
    function = CustomAutogradExample.CustomLinear
    torch.testing.assert_close(function.apply(x, weight, bias), F.linear(x, weight, bias))
    torch.testing.assert_close(function.apply(x, weight), F.linear(x, weight))
    assert torch.autograd.gradcheck(function.apply, (x, weight, bias))
    assert torch.autograd.gradgradcheck(function.apply, (x, weight))


def test_custom_functions_are_demonstrated(capsys: pytest.CaptureFixture[str]) -> None:
    reports = CustomAutogradExample.run_all()
    assert len(reports) == 4
    assert all(report.first_order and report.second_order for report in reports)
    assert "CustomHuberLoss" in capsys.readouterr().out


def test_training(capsys: pytest.CaptureFixture[str]) -> None:
    """Basic, and with accumulation, averages and mixed precision, each against a known value."""
    basic, advanced = AutogradTrainingExamples.run_all()
    assert basic.losses[-1] < 1e-3 * basic.losses[0]
    assert "Advanced training" in capsys.readouterr().out
    assert advanced is not None


def test_second_order_and_checkpointing(capsys: pytest.CaptureFixture[str]) -> None:
    second, checkpointing = AutogradAdvancedExamples.run_all()
    assert max(second.cube_error, second.hessian_error, second.product_error, second.newton_error) < 1e-4
    assert checkpointing.kept_bytes_checkpointed < checkpointing.kept_bytes
    assert checkpointing.gradient_difference < 1e-6
    assert capsys.readouterr().out.strip()
