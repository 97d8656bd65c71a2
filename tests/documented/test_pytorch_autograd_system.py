"""Section 1.9: pytorch_autograd_system and autograd_advanced_examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import autograd_advanced_examples
import pytest
import torch
from pytorch_autograd_system import (
    AdvancedAutogradExamples,
    AutogradExamples,
    AutogradTrainingSystem,
    AutogradUtils,
    CustomAutogradFunction,
    CustomLossFunction,
    GradientMonitor,
    load_config,
)
from torch import Tensor, nn
from torch.nn import functional as F

DOCUMENTED_YAML = """
autograd_system:
  enable_gradients: true
  gradient_monitoring: {enabled: true, save_gradient_history: true}
  advanced_features: {higher_order_gradients: true, custom_gradients: true, gradient_checkpointing: false}
  performance: {}
"""


@pytest.fixture
def model() -> nn.Linear:
    model = nn.Linear(10, 1)
    F.mse_loss(model(torch.randn(32, 10)), torch.randn(32, 1)).backward()
    return model


def test_utilities(model: nn.Linear) -> None:
    norms = AutogradUtils.get_gradient_norms(model)
    assert norms.keys() == {"weight", "bias"}
    assert model.weight.grad is not None
    assert norms["weight"] == pytest.approx(float(model.weight.grad.norm()), rel=1e-5)
    statistics = AutogradUtils.compute_gradient_statistics(model)
    assert statistics
    assert "weight" in f"Gradient statistics: {statistics}"
    assert AutogradUtils.check_gradients_exist(model) is True
    model.bias.grad = None
    assert AutogradUtils.check_gradients_exist(model) is False
    AutogradUtils.enable_gradients(model, False)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    AutogradUtils.enable_gradients(model, True)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_loss_function(binds: Callable[..., dict[str, Any]]) -> None:
    binds(CustomLossFunction, (), alpha=1.0, beta=0.1)
    predictions, targets = torch.randn(32, 1, requires_grad=True), torch.randn(32, 1)
    for alpha, beta in ((1.0, 0.1), (0.5, 2.0)):
        loss = CustomLossFunction(alpha=alpha, beta=beta)(predictions, targets)
        expected = alpha * F.mse_loss(predictions, targets) + beta * F.l1_loss(predictions, targets)
        torch.testing.assert_close(loss, expected)
    loss_fn = CustomLossFunction()
    fixed = loss_fn(torch.randn(10, 1), torch.randn(10, 1))
    assert fixed.requires_grad  # its weights learn
    fixed.backward()
    weights = [parameter for parameter in loss_fn.parameters() if parameter.requires_grad]
    assert weights
    assert all(parameter.grad is not None for parameter in weights)


def test_the_loss_does_not_learn_to_be_nothing() -> None:
    loss_fn = CustomLossFunction(alpha=1.0, beta=0.1)
    predictions, targets = torch.randn(32, 1), torch.randn(32, 1)
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=0.1)
    first = loss_fn(predictions, targets).item()
    for _ in range(500):
        optimizer.zero_grad()
        loss = loss_fn(predictions, targets)
        loss.backward()
        optimizer.step()
    mse, l1 = F.mse_loss(predictions, targets), F.l1_loss(predictions, targets)
    bound = 2.0 * float((1.0 * 0.1 * mse * l1).sqrt())
    assert bound * 0.999 <= loss.item() <= first
    assert bound > 0.1 * first


class WithLoss(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 1)

    def forward(self, batch: Tensor) -> Tensor:
        return self.linear(batch).pow(2).mean()


@pytest.mark.parametrize(("kind", "rows"), [(WithLoss, 8), (lambda: nn.Linear(10, 1), 1)])
def test_gradient_monitor(kind: Callable[[], nn.Module], rows: int) -> None:
    model = kind()
    monitor = GradientMonitor(model)
    assert not monitor.get_gradient_summary()  # empty, no error
    hooks = monitor.register_hooks()
    for _ in range(3):
        model(torch.randn(rows, 10)).backward()
        summary = monitor.get_gradient_summary()
    assert list(hooks)
    assert len(summary["history"]["total_norms"]) == 3
    for hook in hooks:
        hook.remove()
    model(torch.randn(rows, 10)).backward()
    assert monitor.get_gradient_summary()["steps_seen"] == 3


def test_custom_autograd_function() -> None:
    x, weight = torch.randn(5, 4, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    output = CustomAutogradFunction.apply(x, weight)
    torch.testing.assert_close(output, x @ weight)
    output.sum().backward()
    assert x.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close(x.grad, weight.sum(1).expand(5, 4))
    torch.testing.assert_close(weight.grad, x.sum(0)[:, None].expand(4, 3))


def test_higher_order_gradients() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    inputs, targets = torch.randn(6, 3).double(), torch.randn(6, 1).double()
    loss_fn = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    system = AutogradTrainingSystem(model, optimizer, loss_fn)
    found = system.compute_higher_order_gradients(inputs, targets, order=3)
    assert len(found) == 3
    parameters = list(model.parameters())
    value = loss_fn(model(inputs), targets)
    for gradients in found:
        expected = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
        for gradient, truth in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient.detach(), truth.detach())
        value = torch.stack([gradient.sum() for gradient in expected]).sum()


def test_higher_orders_of_a_quadratic_loss_are_zeros() -> None:
    model = nn.Linear(10, 1)
    system = AutogradTrainingSystem(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss())
    found = system.compute_higher_order_gradients(torch.randn(16, 10), torch.randn(16, 1), order=3)
    assert [[g.shape for g in gradients] for gradients in found] == [
        [p.shape for p in model.parameters()]
    ] * 3
    assert not any(gradient.any() for gradient in found[2])


def test_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "autograd.yaml"
    path.write_text(DOCUMENTED_YAML)
    assert load_config(path)
    model = nn.Linear(10, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    system = AutogradTrainingSystem.from_config(path, model, optimizer, nn.MSELoss())
    step = system.train_step(torch.randn(8, 10), torch.randn(8, 1))
    assert step.updated
    path.write_text(DOCUMENTED_YAML.replace("custom_gradients", "custom_gradient"))
    with pytest.raises(ValueError, match="custom_gradients"):
        load_config(path)


def test_basic_examples(capsys: pytest.CaptureFixture[str]) -> None:
    report = AutogradExamples.demonstrate_autograd_system()
    assert capsys.readouterr().out.strip()
    assert report.derivative == 6.0
    assert report.last_loss < report.first_loss


def test_gradient_flow(capsys: pytest.CaptureFixture[str]) -> None:
    report = AdvancedAutogradExamples.demonstrate_gradient_flow_analysis()
    assert capsys.readouterr().out.strip()
    assert report.plain.ratio < 1e-3 < report.residual.ratio


def test_performance(capsys: pytest.CaptureFixture[str]) -> None:
    reports = AdvancedAutogradExamples.demonstrate_performance_optimization()
    assert capsys.readouterr().out.strip()
    names = {report.name.split()[0] for report in reports}
    assert names == {"eager", "functional", "checkpointed", "compiled"}
    assert all(report.difference < 1e-5 for report in reports)


def test_documented_models(capsys: pytest.CaptureFixture[str]) -> None:
    module = autograd_advanced_examples.AdvancedAutogradExamples
    reports = module.demonstrate_autograd_with_custom_models()
    assert capsys.readouterr().out.strip()
    assert all(report.with_gradient == report.parameters for report in reports)


@pytest.mark.slow
def test_all_advanced_examples(capsys: pytest.CaptureFixture[str]) -> None:
    report = autograd_advanced_examples.AdvancedAutogradExamples.run_all_advanced_examples()
    assert capsys.readouterr().out.strip()
    assert report.approaches
