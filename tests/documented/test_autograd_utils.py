"""Section 1.2: autograd_utils."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from autograd_utils import (
    AutogradDebugger,
    AutogradHooks,
    AutogradMonitor,
    AutogradOptimizer,
    AutogradProfiler,
    AutogradTrainingLoop,
    CustomAutogradFunction,
    CustomGradientFunction,
    CustomLossFunction,
    ExponentialMovingAverage,
    GradientAccumulator,
    GradientClipper,
    GradientComputationUtils,
    autograd_debugger,
    autograd_monitor,
    autograd_profiler,
    enable_autograd_detection,
)
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

Binds = Callable[..., dict[str, Any]]


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1))


INPUT, TARGET = torch.randn(16, 10), torch.randn(16, 1)
LOSS_FN = nn.MSELoss()


def norm(model: nn.Module) -> float:
    return math.hypot(*(float(p.grad.norm()) for p in model.parameters() if p.grad is not None))


def flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


def test_custom_gradient_function() -> None:
    class CustomLinear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 4, dtype=torch.float64))

        def forward(self, input_tensor: Tensor) -> Tensor:
            return CustomGradientFunction.apply(input_tensor, self.weight)

    layer = CustomLinear()
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(layer(x), F.linear(x, layer.weight))
    assert torch.autograd.gradcheck(CustomGradientFunction.apply, (x, layer.weight))
    assert torch.autograd.gradgradcheck(CustomGradientFunction.apply, (x, layer.weight))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_custom_autograd_function(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(CustomAutogradFunction.apply(x, weight), x @ weight)
    assert torch.autograd.gradcheck(CustomAutogradFunction.apply, (x, weight))
    assert torch.autograd.gradgradcheck(CustomAutogradFunction.apply, (x, weight))


@pytest.mark.parametrize("monitor", [AutogradMonitor(), autograd_monitor])
def test_monitor(monitor: AutogradMonitor, model: nn.Sequential) -> None:
    LOSS_FN(model(INPUT), TARGET).backward()
    info = monitor.monitor_gradients(model)
    assert isinstance(info["total_norm"], float)
    assert info["total_norm"] == pytest.approx(norm(model), rel=1e-5)
    assert {"computation_time", "memory"} <= info.keys()
    LOSS_FN(model(INPUT), 1e4 + TARGET).backward()
    assert monitor.monitor_gradients(model)["total_norm"] > 10.0


@pytest.mark.parametrize("profiler", [AutogradProfiler(), autograd_profiler])
def test_profiler(profiler: AutogradProfiler, model: nn.Sequential) -> None:
    loss = LOSS_FN(model(INPUT), TARGET)
    with profiler.profile_autograd("training_step"):
        loss.backward()
    summary = profiler.get_profile_summary()
    assert isinstance(summary["avg_duration"], float)
    assert 0.0 < summary["avg_duration"] < 60.0
    assert f"Average step time: {summary['avg_duration']:.4f}s"
    assert "training_step" in summary["sections"]


@pytest.mark.parametrize("debugger", [AutogradDebugger(), autograd_debugger])
def test_debugger(debugger: AutogradDebugger, model: nn.Sequential) -> None:
    LOSS_FN(model(INPUT), TARGET).backward()
    assert debugger.check_gradients(model) == {"has_issues": False, "issues": []}
    gradient = model[0].weight.grad
    assert isinstance(gradient, Tensor)
    gradient[0, 0] = float("nan")
    found = debugger.check_gradients(model)
    assert found["has_issues"] is True
    assert any("NaN" in issue for issue in found["issues"])


class Doubled(torch.autograd.Function):
    factor = 2.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2.0 * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return Doubled.factor * grad


@pytest.mark.parametrize(("factor", "right"), [(2.0, True), (5.0, False), (2.02, False)])
def test_verified_gradients(factor: float, right: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(10, 1)

        def forward(self, x: Tensor) -> Tensor:
            return Doubled.apply(self.linear(x))

    monkeypatch.setattr(Doubled, "factor", factor)
    assert AutogradDebugger().verify_gradients(Model(), LOSS_FN, INPUT, TARGET) is right


def test_verified_model(model: nn.Sequential) -> None:
    assert AutogradDebugger().verify_gradients(model, LOSS_FN, INPUT, TARGET) is True


def test_clipper(model: nn.Sequential, binds: Binds) -> None:
    binds(GradientClipper.clip_grad_norm_, ("model",), model=model, max_norm=1.0)
    LOSS_FN(model(INPUT), 1e4 + TARGET).backward()
    before = flat(p.grad for p in model.parameters())
    GradientClipper.clip_grad_norm_(model, max_norm=1.0)
    after = flat(p.grad for p in model.parameters())
    torch.testing.assert_close(after, before / before.norm(), rtol=1e-4, atol=1e-7)
    GradientClipper.clip_grad_norm_(model, max_norm=3.0)
    torch.testing.assert_close(flat(p.grad for p in model.parameters()), after)


@pytest.mark.parametrize("batches", [4, 3])
def test_accumulator(model: nn.Sequential, batches: int) -> None:
    """As many calls as steps are one step on the mean loss; so is a window that ends early."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = [(torch.randn(8, 10), torch.randn(8, 1)) for _ in range(batches)]
    mean = torch.stack([LOSS_FN(model(x), y) for x, y in loader]).mean()
    gradients = torch.autograd.grad(mean, list(model.parameters()))
    expected = [p.detach() - 0.1 * g for p, g in zip(model.parameters(), gradients, strict=True)]
    accumulator = GradientAccumulator(model)
    for x, y in loader:
        accumulator.accumulate_gradients(LOSS_FN(model(x), y), accumulation_steps=4)
    accumulator.apply_gradients(optimizer)
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value)
        assert parameter.grad is None or not parameter.grad.any()


def test_hessian_vector_product(model: nn.Sequential) -> None:
    model.double()
    x, y, parameters = INPUT.double(), TARGET.double(), list(model.parameters())
    vector = torch.randn(sum(p.numel() for p in parameters), dtype=torch.float64)
    gradient = torch.autograd.grad(LOSS_FN(model(x), y), parameters, create_graph=True)
    exact = torch.autograd.grad(flat(gradient) @ vector, parameters)
    product = AutogradOptimizer.compute_hessian_vector_product(model, LOSS_FN(model(x), y), vector)
    assert isinstance(product, Tensor)
    torch.testing.assert_close(product, flat(exact))
    parts = [
        part.view_as(p)
        for part, p in zip(vector.split([p.numel() for p in parameters]), parameters, strict=True)
    ]
    listed = AutogradOptimizer.compute_hessian_vector_product(model, LOSS_FN(model(x), y), parts)
    assert [part.shape for part in listed] == [p.shape for p in parameters]
    torch.testing.assert_close(flat(listed), flat(exact))


def test_fisher_information(model: nn.Sequential) -> None:
    loader = [(torch.randn(8, 10), torch.randn(8, 1)) for _ in range(3)]
    found = AutogradOptimizer.compute_fisher_information(model, LOSS_FN, loader)
    parameters = dict(model.named_parameters())
    assert {name: value.shape for name, value in found.items()} == {n: p.shape for n, p in parameters.items()}
    squares = [
        flat(torch.autograd.grad(LOSS_FN(model(x[None]), y[None]), list(parameters.values()))) ** 2
        for inputs, targets in loader
        for x, y in zip(inputs, targets, strict=True)
    ]
    torch.testing.assert_close(flat(found[name] for name in parameters), torch.stack(squares).mean(0))


def test_optimizer(model: nn.Sequential, binds: Binds) -> None:
    binds(
        AutogradOptimizer,
        ("model",),
        model=model,
        optimizer_class=torch.optim.AdamW,
        lr=1e-4,
        weight_decay=0.01,
    )
    optimizer = AutogradOptimizer(model=model, optimizer_class=torch.optim.AdamW, lr=1e-4, weight_decay=0.01)
    before = [p.detach().clone() for p in model.parameters()]
    stats = optimizer.step(
        loss_function=LOSS_FN,
        input_data=INPUT,
        target_data=1e3 + TARGET,
        clip_gradients=True,
        max_grad_norm=1.0,
    )
    assert {"loss", "grad_norm", "lr", "time"} <= stats.keys()
    assert stats["lr"] == 1e-4
    assert stats["grad_norm"] > 10.0
    assert norm(model) == pytest.approx(1.0, rel=1e-3)
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert 0.0 < float((parameter.detach() - value).abs().max()) < 2e-4  # AdamW goes lr a step


def test_training_loop(model: nn.Sequential, binds: Binds) -> None:
    binds(
        AutogradTrainingLoop,
        ("model", "optimizer_class", "lr"),
        model=model,
        optimizer_class=torch.optim.AdamW,
        lr=1e-4,
        weight_decay=0.01,
    )
    loop = AutogradTrainingLoop(model=model, optimizer_class=torch.optim.AdamW, lr=1e-2, weight_decay=0.01)
    loader = DataLoader(TensorDataset(torch.randn(24, 10), torch.randn(24, 1)), batch_size=8)
    device = torch.device("cpu")
    stats = loop.train_epoch(
        dataloader=loader, loss_function=LOSS_FN, device=device, clip_gradients=True, max_grad_norm=1.0
    )
    assert [type(loss) for loss in stats["losses"]] == [float] * 3
    later = [loop.train_epoch(dataloader=loader, loss_function=LOSS_FN, device=device) for _ in range(5)]
    assert sum(later[-1]["losses"]) < sum(stats["losses"])
    result = loop.validate(dataloader=loader, loss_function=LOSS_FN, device=device)
    with torch.no_grad():
        expected = LOSS_FN(model(loader.dataset[:][0]), loader.dataset[:][1])
    assert isinstance(result["validation_loss"], float)
    assert result["validation_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_anomaly_detection() -> None:
    torch.autograd.set_detect_anomaly(False)
    enable_autograd_detection()
    assert torch.is_anomaly_enabled()


def test_gradient_computation() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)

    def cube(x: Tensor) -> Tensor:
        return (x**3).sum()

    (gradient,) = GradientComputationUtils.gradient(cube(x), x)
    assert gradient.tolist() == [3.0, 12.0]
    assert GradientComputationUtils.hessian(cube, x.detach()).tolist() == [[6.0, 0.0], [0.0, 12.0]]
    assert GradientComputationUtils.jacobian(lambda x: 2 * x, x.detach()).tolist() == [[2.0, 0.0], [0.0, 2.0]]
    parts = [torch.ones(1, 2), torch.zeros(1)]
    vector = GradientComputationUtils.flatten(parts)
    assert vector.tolist() == [1.0, 1.0, 0.0]
    again = GradientComputationUtils.unflatten(vector, parts)
    assert all(torch.equal(one, other) for one, other in zip(again, parts, strict=True))
    assert GradientComputationUtils.norms(parts) == [pytest.approx(math.sqrt(2)), 0.0]
    similarity = GradientComputationUtils.cosine_similarity(
        torch.tensor([0.0, 2.0]), torch.tensor([3.0, 3.0])
    )
    assert similarity == pytest.approx(math.sqrt(0.5))


def test_per_sample_gradients(model: nn.Sequential) -> None:
    found = GradientComputationUtils.per_sample_gradients(model, LOSS_FN, INPUT, TARGET)
    for i in (0, 7):
        alone = torch.autograd.grad(
            LOSS_FN(model(INPUT[i : i + 1]), TARGET[i : i + 1]), list(model.parameters())
        )
        for (name, _), gradient in zip(model.named_parameters(), alone, strict=True):
            torch.testing.assert_close(found[name][i], gradient)


def test_moving_average() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = ExponentialMovingAverage(model, decay=0.75)
    for value in (1.0, 5.0, 9.0):
        nn.init.constant_(model.weight, value)
        average.update()
    with average.applied():
        assert model.weight.item() == pytest.approx(0.75 * (0.75 * 1.0 + 0.25 * 5.0) + 0.25 * 9.0)
    assert model.weight.item() == 9.0
    other = ExponentialMovingAverage(model, decay=0.75)
    other.load_state_dict(average.state_dict())
    with other.applied():
        assert model.weight.item() == pytest.approx(3.75)


def test_hooks(model: nn.Sequential) -> None:
    """Of gradients and activations."""
    kept = {}
    model[1].register_forward_hook(lambda module, inputs, output: kept.update(output=output))
    with AutogradHooks(model, ["1"]) as hooks:
        loss = LOSS_FN(model(INPUT), TARGET)
        (gradient,) = torch.autograd.grad(loss, kept["output"], retain_graph=True)
        loss.backward()
    activation = hooks.activations()["1"]
    assert activation.norm == pytest.approx(float(kept["output"].detach().norm()), rel=1e-5)
    assert hooks.gradients()["1"].norm == pytest.approx(float(gradient.norm()), rel=1e-5)
    model(torch.zeros(3, 10))
    assert hooks.activations()["1"] == activation  # the hooks are gone


def test_loss_function(binds: Binds) -> None:
    binds(CustomLossFunction, (), alpha=1.0, beta=0.1)
    predictions, targets = torch.randn(32, 1, requires_grad=True), torch.randn(32, 1)
    expected = F.mse_loss(predictions, targets) + 0.1 * F.l1_loss(predictions, targets)
    torch.testing.assert_close(CustomLossFunction()(predictions, targets), expected)
