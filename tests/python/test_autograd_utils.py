"""``autograd_utils`` as documents 000 and 002 use it: each name by what it is said to do."""

import copy
from collections.abc import Iterator
from typing import Any

import autograd_utils as documented
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 1))


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(16, 10), torch.randn(16, 1)


def loss_of(model: nn.Module, pair: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(pair[0]), pair[1])


def norm_of(model: nn.Module) -> float:
    return float(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm())


def test_functions_and_their_layouts() -> None:
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(documented.CustomGradientFunction.apply(x, weight), F.linear(x, weight))
    torch.testing.assert_close(documented.CustomAutogradFunction.apply(x, weight.T), x @ weight.T)
    assert issubclass(documented.CustomAutogradFunction, torch.autograd.Function)


def test_monitor(model: nn.Module, pair: Any) -> None:
    loss_of(model, pair).backward()
    info = documented.AutogradMonitor().monitor_gradients(model)
    assert info["total_norm"] == pytest.approx(norm_of(model), rel=1e-5)
    assert {"computation_time", "memory"} <= set(info)
    again = documented.autograd_monitor.monitor_gradients(model)
    assert again["total_norm"] == pytest.approx(info["total_norm"])


def test_profiler(model: nn.Module, pair: Any) -> None:
    profiler = documented.AutogradProfiler()
    for _ in range(2):
        with profiler.profile_autograd("training_step"):
            loss_of(model, pair).backward()
    assert profiler.get_profile_summary()["avg_duration"] > 0


def test_debugger(model: nn.Module, pair: Any) -> None:
    debugger = documented.AutogradDebugger()
    loss_of(model, pair).backward()
    assert debugger.check_gradients(model) == {"has_issues": False, "issues": []}
    model[0].weight.grad[0, 0] = float("nan")
    found = debugger.check_gradients(model)
    assert found["has_issues"]
    assert any("NaN" in issue and "0.weight" in issue for issue in found["issues"])


def test_verification(model: nn.Module, pair: Any) -> None:
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return 2.2 * grad

    class WrongModel(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            result: Tensor = Wrong.apply(super().forward(input))
            return result

    debugger = documented.AutogradDebugger()
    assert debugger.verify_gradients(model, nn.MSELoss(), *pair) is True
    assert debugger.verify_gradients(WrongModel(10, 1), nn.MSELoss(), *pair) is False


def test_clipper(model: nn.Module, pair: Any) -> None:
    loss_of(model, (pair[0], pair[1] + 1e4)).backward()
    before = [p.grad.clone() for p in model.parameters()]
    documented.GradientClipper.clip_grad_norm_(model, max_norm=1.0)
    assert norm_of(model) == pytest.approx(1.0, rel=1e-4)
    ratios = torch.cat([(p.grad / b).flatten() for p, b in zip(model.parameters(), before, strict=True)])
    torch.testing.assert_close(ratios, ratios[0].expand_as(ratios))


def test_accumulator(model: nn.Module, pair: Any) -> None:
    """Three of four promised windows are still the mean of the three."""
    plain = copy.deepcopy(model)
    batches = [(torch.randn(4, 10), torch.randn(4, 1)) for _ in range(3)]
    accumulator = documented.GradientAccumulator(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in batches:
        accumulator.accumulate_gradients(loss_of(model, batch), accumulation_steps=4)
    accumulator.apply_gradients(optimizer)
    sum((loss_of(plain, batch) for batch in batches), torch.zeros(())).div(3).backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_optimizer_without_an_instance(model: nn.Module, pair: Any) -> None:
    parameters = list(model.parameters())
    vector = torch.randn(sum(p.numel() for p in parameters))
    found = documented.AutogradOptimizer.compute_hessian_vector_product(model, loss_of(model, pair), vector)
    grads = torch.autograd.grad(loss_of(model, pair), parameters, create_graph=True)
    exact = torch.autograd.grad(torch.cat([g.flatten() for g in grads]) @ vector, parameters)
    torch.testing.assert_close(found, torch.cat([e.flatten() for e in exact]), rtol=1e-4, atol=1e-5)
    fisher = documented.AutogradOptimizer.compute_fisher_information(model, nn.MSELoss(), [pair])
    assert {name: value.shape for name, value in fisher.items()} == {
        name: p.shape for name, p in model.named_parameters()
    }
    assert all(bool((value >= 0).all()) for value in fisher.values())


@pytest.mark.usefixtures("accelerate")
def test_optimizer_with_an_instance(model: nn.Module, pair: Any) -> None:
    optimizer = documented.AutogradOptimizer(
        model=model, optimizer_class=torch.optim.SGD, lr=0.1, weight_decay=0.0
    )
    plain = copy.deepcopy(model)
    stats = optimizer.step(
        loss_function=F.mse_loss, input_data=pair[0], target_data=pair[1], clip_gradients=False
    )
    loss_of(plain, pair).backward()
    torch.optim.SGD(plain.parameters(), lr=0.1).step()
    for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found, expected)
    assert {"loss", "grad_norm", "lr", "time"} <= set(stats)
    assert stats["grad_norm"] == pytest.approx(norm_of(plain), rel=1e-4)


@pytest.fixture
def accelerate() -> None:
    pytest.importorskip("accelerate")


@pytest.mark.usefixtures("accelerate")
def test_training_loop(model: nn.Module) -> None:
    loader = [(torch.randn(8, 10), torch.randn(8, 1)) for _ in range(3)]
    loop = documented.AutogradTrainingLoop(model=model, optimizer_class=torch.optim.AdamW, lr=1e-2)
    first = loop.validate(dataloader=loader, loss_function=F.mse_loss, device=torch.device("cpu"))
    stats = loop.train_epoch(dataloader=loader, loss_function=F.mse_loss, device=torch.device("cpu"))
    assert len(stats["losses"]) == 3
    for _ in range(10):
        loop.train_epoch(dataloader=loader, loss_function=F.mse_loss, device=torch.device("cpu"))
    last = loop.validate(dataloader=loader, loss_function=F.mse_loss, device=torch.device("cpu"))
    assert last["validation_loss"] < first["validation_loss"]


@pytest.fixture
def anomaly_detection() -> Iterator[None]:
    yield
    torch.autograd.set_detect_anomaly(False)


@pytest.mark.usefixtures("anomaly_detection")
def test_anomaly_detection() -> None:
    documented.enable_autograd_detection()
    assert torch.is_anomaly_enabled()


def test_names_that_are_words_only(model: nn.Module, pair: Any) -> None:
    hooks = documented.AutogradHooks(model)
    hooks.register()
    loss_of(model, pair).backward()
    assert hooks.activations()
    assert hooks.gradients()
    hooks.remove()
    flat = documented.GradientComputationUtils.flatten(list(model.parameters()))
    assert flat.numel() == sum(p.numel() for p in model.parameters())
    average = documented.ExponentialMovingAverage(model, 0.5)
    average.update()
    with average.applied() as averaged:
        assert isinstance(averaged, nn.Module)
    assert documented.CustomLossFunction()(torch.ones(3), torch.zeros(3)).item() == pytest.approx(1.1)
