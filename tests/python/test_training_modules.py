"""The documented modules of training, configuration, analysis and examples, used as documented."""

import subprocess
import sys
from pathlib import Path

import autograd_examples
import deep_learning_framework
import gradient_analysis
import pytest
import pytorch_autograd_system
import pytorch_configuration
import torch
import torch.nn.functional as F
from custom_models import CustomModelConfig
from torch import Tensor, nn

pytest.importorskip("accelerate")
pytest.importorskip("pydantic")
pytestmark = pytest.mark.usefixtures("one_thread")


def rows(count: int = 8) -> list[dict[str, Tensor]]:
    batch = {"input_ids": torch.randint(0, 50, (count, 8)), "attention_mask": torch.ones(count, 8)}
    return [{**batch, "labels": torch.arange(count) % 3}] * 2


def test_trainer() -> None:
    """With a model's configuration, which takes no call of ``setup_training``."""
    config = CustomModelConfig(num_classes=3, hidden_size=16, num_layers=1, num_heads=2, vocab_size=50)
    trainer = deep_learning_framework.CustomSEOModelTrainer(config)
    results = trainer.train_epoch_with_monitoring(rows())
    assert results["loss"] > 0
    assert 0.0 <= results["accuracy"] <= 1.0
    assert trainer.get_autograd_summary()["gradient_statistics"]


def test_training_configuration() -> None:
    config = deep_learning_framework.TrainingConfig(
        model_type="custom", num_classes=3, batch_size=16, learning_rate=1e-4, use_mixed_precision=True
    )
    assert (config.num_classes, config.batch_size, config.learning_rate) == (3, 16, 1e-4)


def test_manager() -> None:
    manager = pytorch_configuration.pytorch_manager
    info = manager.get_device_info()
    assert f"{info['gpu_memory_allocated_gb']:.2f} {info['memory_utilization_percent']:.1f}"
    with manager.memory_monitor("forward_pass"):
        nn.Linear(2, 2)(torch.ones(1, 2))
    assert manager.memory_report()["forward_pass"]["calls"] >= 1
    manager.clear_memory()


def test_analysis_and_monitoring(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    config = gradient_analysis.GradientAnalysisConfig()
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    given = {"model": model, "loss_function": F.mse_loss, "input_data": torch.randn(8, 4)}
    analyzer = gradient_analysis.GradientAnalyzer(config)
    results = analyzer.analyze_gradients(**given, target_data=1e4 + torch.randn(8, 1))
    assert list(analyzer.detect_gradient_issues(results))
    assert analyzer.get_gradient_statistics()
    analyzer.plot_gradient_analysis(save_path=tmp_path / "analysis.png")
    assert (tmp_path / "analysis.png").read_bytes().startswith(b"\x89PNG")
    monitoring = gradient_analysis.GradientMonitoring(config)
    step = monitoring.monitor_training_step(**given, target_data=torch.randn(8, 1), step=0)
    assert "issues" in step
    assert all(parameter.grad is None for parameter in model.parameters())
    assert monitoring.get_monitoring_summary()
    monitoring.save_monitoring_report(tmp_path / "report.txt")
    assert (tmp_path / "report.txt").read_text().strip()


def test_custom_autograd_example() -> None:
    example = autograd_examples.CustomAutogradExample
    x = torch.randn(5)
    torch.testing.assert_close(example.CustomReLU.apply(x), F.relu(x))
    torch.testing.assert_close(example.CustomActivation.apply(x), F.leaky_relu(x, 0.1))
    torch.testing.assert_close(example.CustomHuberLoss.apply(x, 2 * x), F.huber_loss(x, 2 * x))
    w, b = torch.randn(3, 5), torch.randn(3)
    torch.testing.assert_close(example.CustomLinear.apply(x, w, b), F.linear(x, w, b))
    torch.testing.assert_close(example.CustomLinear.apply(x, w), F.linear(x, w))


def test_training_system_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "system.yaml"
    path.write_text("autograd_system:\n  performance: {mixed_precision: true, accumulation_steps: 2}\n")
    config = pytorch_autograd_system.load_config(path)
    assert config.performance.precision == "bf16"
    model = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    system = pytorch_autograd_system.AutogradTrainingSystem.from_config(path, model, optimizer, F.mse_loss)
    assert not system.train_step(torch.randn(8, 4), torch.randn(8, 1)).updated
    assert system.train_step(torch.randn(8, 4), torch.randn(8, 1)).updated
    orders = system.compute_higher_order_gradients(torch.randn(8, 4), torch.randn(8, 1), order=3)
    assert [[tuple(g.shape) for g in order] for order in orders] == [[(1, 4), (1,)]] * 3
    assert all(bool((g == 0).all()) for g in orders[2])  # the loss is of second degree


def test_utilities_and_monitor() -> None:
    model = nn.Linear(4, 1)
    utils = pytorch_autograd_system.AutogradUtils
    monitor = pytorch_autograd_system.GradientMonitor(model)
    hooks = monitor.register_hooks()
    assert not monitor.get_gradient_summary()
    model(torch.randn(2, 4)).sum().backward()
    assert monitor.get_gradient_summary()["total_norm"] > 0
    for hook in hooks:
        hook.remove()
    assert utils.check_gradients_exist(model)
    assert utils.compute_gradient_statistics(model)
    assert utils.get_gradient_norms(model)["bias"] == pytest.approx(2.0)
    utils.enable_gradients(model, False)
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
def test_advanced_examples_as_a_program() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "autograd_advanced_examples"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).resolve().parent.parent.parent / "python",
    )
    assert run.returncode == 0, run.stderr
    assert "Second-order gradients" in run.stdout
