"""The optimizer wrapper and the training loop are the plain loop; schedules are their formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training.engines import copied, loader, pairs, same, small_model

from seo_kernels.training import AutogradOptimizer, AutogradTrainingLoop, EngineSettings, NonFiniteError
from seo_kernels.training.schedules import warmup_schedule

MSE = nn.MSELoss()


def plain(
    model: nn.Module, batches: list[Any], clip: float | None, state: Any = None
) -> tuple[list[float], list[float], Any]:
    """AdamW, written out; from the optimizer's state that an epoch left to the next."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    if state is not None:
        optimizer.load_state_dict(state)
    losses, norms = [], []
    for x, y in batches:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), math.inf if clip is None else clip)))
        optimizer.step()
        losses.append(loss.item())
    return losses, norms, optimizer.state_dict()


@pytest.mark.parametrize("clip", [None, 0.1])
def test_steps_of_the_optimizer(clip: float | None) -> None:
    model, other = small_model(), small_model()
    optimizer = AutogradOptimizer(model, torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    batches = [pairs(4, seed) for seed in range(3)]
    found = [
        optimizer.step(
            loss_function=MSE,
            input_data=x,
            target_data=y,
            clip_gradients=clip is not None,
            max_grad_norm=1.0 if clip is None else clip,
        )
        for x, y in batches
    ]
    losses, norms, _ = plain(other, batches, clip)
    torch.testing.assert_close(copied(model), copied(other))
    assert [each["loss"] for each in found] == pytest.approx(losses)
    assert [each["grad_norm"] for each in found] == pytest.approx(norms, rel=1e-5)
    assert {each["lr"] for each in found} == {0.01}
    assert all(each["time"] > 0 and each["updated"] and not each["skipped"] for each in found)
    left = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
    assert left == pytest.approx(min(norms[-1], clip or math.inf), rel=1e-5)


def test_the_optimizer_with_other_inputs_and_settings() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5, 2))

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return scale * (x @ self.weight)

    x, y = pairs(4)
    scale = torch.full((4, 1), 2.0)
    expected = F.mse_loss(2.0 * (x @ torch.ones(5, 2)), y).item()
    for given in ((x, scale), [x, scale], {"x": x, "scale": scale}):
        optimizer = AutogradOptimizer(Two(), settings=EngineSettings(accumulation_steps=2))
        first, second = (optimizer.step(MSE, given, y) for _ in range(2))
        assert first["loss"] == second["loss"] == pytest.approx(expected)
        assert (first["updated"], second["updated"]) == (0.0, 1.0)
    stopping = AutogradOptimizer(small_model(), settings=EngineSettings(non_finite="stop"))
    with pytest.raises(NonFiniteError, match="the loss of batch 0 is nan"):
        stopping.step(MSE, x * math.nan, y)


def test_tools_of_the_second_order() -> None:
    model = small_model().double()
    inputs, targets = pairs(6, dtype=torch.float64)
    parameters = list(model.parameters())
    size = sum(p.numel() for p in parameters)
    vector = torch.randn(size, dtype=torch.float64)
    product = AutogradOptimizer.compute_hessian_vector_product(model, MSE(model(inputs), targets), vector)
    gradient = torch.autograd.grad(MSE(model(inputs), targets), parameters, create_graph=True)
    flat = torch.cat([g.flatten() for g in gradient])
    exact = torch.autograd.grad(flat @ vector, parameters)
    assert isinstance(product, Tensor)
    torch.testing.assert_close(product, torch.cat([g.flatten() for g in exact]))
    fisher = AutogradOptimizer.compute_fisher_information(model, MSE, [(inputs, targets)])
    assert {name: value.shape for name, value in fisher.items()} == {
        name: p.shape for name, p in model.named_parameters()
    }
    sampled = AutogradOptimizer.compute_fisher_information(
        model, MSE, [(inputs, targets)], monte_carlo=True, draws=2
    )
    assert all(bool((value >= 0).all()) for value in sampled.values())


def test_the_loop() -> None:
    model, other = small_model(), small_model()
    loop = AutogradTrainingLoop(model=model, optimizer_class=torch.optim.AdamW, lr=0.01, weight_decay=0.1)
    state = None
    for _ in range(2):
        found = loop.train_epoch(
            dataloader=loader(),
            loss_function=MSE,
            device=torch.device("cpu"),
            clip_gradients=True,
            max_grad_norm=0.1,
        )
        losses, norms, state = plain(other, list(loader()), 0.1, state)
        assert found["losses"] == pytest.approx(losses, rel=1e-5)
        assert found["grad_norms"] == pytest.approx(norms, rel=1e-4)
        assert (found["updates"], found["skipped"], found["lr"]) == (6, 0, 0.01)
    torch.testing.assert_close(copied(model), copied(other))
    before = copied(model)
    value = loop.validate(dataloader=loader(), loss_function=MSE, device="cpu")["validation_loss"]
    inputs, targets = pairs(23)
    assert value == pytest.approx(F.mse_loss(other(inputs), targets).item(), rel=1e-5)
    assert same(before, copied(model))
    assert loop.model is model


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second device")
def test_a_device_that_the_model_moves_to() -> None:
    loop = AutogradTrainingLoop(small_model(), settings=EngineSettings(ema_decay=0.9))
    loop.train_epoch(loader(), MSE)
    loop.engine.move_to(torch.device("cuda"))
    assert {p.device.type for p in loop.model.parameters()} == {"cuda"}
    kept = [value for state in loop.optimizer.state.values() for value in state.values()]
    assert {value.device.type for value in kept if value.dim()} == {"cuda"}
    assert loop.train_epoch(loader(), MSE)["updates"] == 6


MODEL = small_model()
LOOP = AutogradTrainingLoop(MODEL)
X, Y = pairs(4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: AutogradOptimizer("model"), TypeError, "model is a str"),  # type: ignore[arg-type]
        (lambda: AutogradOptimizer(nn.Tanh()), ValueError, "model, a Tanh, has no parameter that requires"),
        (lambda: AutogradOptimizer(MODEL, "AdamW"), TypeError, "optimizer_class is a str"),  # type: ignore[arg-type]
        (lambda: AutogradOptimizer(MODEL, lr=0.0), ValueError, r"lr is 0\.0"),
        (lambda: AutogradOptimizer(MODEL, weight_decay=-1.0), ValueError, r"weight_decay is -1\.0"),
        (lambda: AutogradOptimizer(MODEL).step(1, X, Y), TypeError, "loss_function is an int"),  # type: ignore[arg-type]
        (
            lambda: AutogradOptimizer(MODEL).step(MSE, X, Y[:3]),
            ValueError,
            r"input has shape \(4, 5\), the",
        ),
        (
            lambda: AutogradOptimizer(MODEL).step(nn.MSELoss(reduction="none"), X, Y),
            ValueError,
            r"the loss has shape \(4, 2\)",
        ),
        (lambda: AutogradOptimizer(MODEL).step(MSE, X, Y, 1), TypeError, "clip_gradients is an int"),  # type: ignore[arg-type]
        (
            lambda: AutogradOptimizer(MODEL).step(MSE, X, Y, max_grad_norm=0.0),
            ValueError,
            r"max_grad_norm is 0\.0",
        ),
        (lambda: LOOP.train_epoch([], MSE), ValueError, "loader yields nothing"),
        (lambda: LOOP.train_epoch([X], MSE), TypeError, "the batch is a Tensor, expected a pair"),
        (lambda: LOOP.train_epoch([(X, Y, Y)], MSE), TypeError, "the batch is 3 parts, expected a pair"),
        (lambda: LOOP.train_epoch([(X[:, :3], Y)], MSE), RuntimeError, "cannot be multiplied"),
        (lambda: LOOP.train_epoch([(X, Y)], MSE, device=1), TypeError, "device is an int"),  # type: ignore[arg-type]
        (lambda: LOOP.validate([], MSE), ValueError, "loader yields nothing"),
        (lambda: warmup_schedule(LOOP.optimizer, "cosin"), ValueError, "schedule is 'cosin'"),
        (lambda: warmup_schedule(LOOP.optimizer, "linear"), ValueError, "num_training_steps is None"),
        (lambda: warmup_schedule(LOOP.optimizer, "linear", 5, 5), ValueError, "warmup_steps is 5, expected"),
        (lambda: warmup_schedule(LOOP.optimizer, "constant", -1), ValueError, "warmup_steps is -1"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 4])
def test_schedules(schedule: str, warmup: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_schedule(optimizer, schedule, warmup, 20)
    found = []
    for _ in range(23):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    after = {
        "constant": lambda k: 2.0,
        "linear": lambda k: 2.0 * (1 - k / (20 - warmup)),
        "cosine": lambda k: 1.0 + math.cos(math.pi * k / (20 - warmup)),
    }[schedule]
    expected = [2.0 * (k + 1) / warmup for k in range(warmup)] + [after(k) for k in range(20 - warmup)]
    expected += [2.0 if schedule == "constant" else 0.0] * 3
    assert found == pytest.approx(expected, abs=1e-12)
