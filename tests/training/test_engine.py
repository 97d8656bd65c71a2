"""Steps and epochs of the engine against plain torch loops."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training.engines import copied, engine, loader, pairs, same, small_model, squared_error

from seo_kernels._extras import MissingExtraError
from seo_kernels.diagnostics.autograd_monitor import AutogradMonitor
from seo_kernels.training import Clipping, EngineSettings, TrainingEngine


def plain(model: nn.Module, batches: list[Any], clip: float | None = None) -> list[float]:
    """SGD with momentum, written out."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = squared_error(model, batch)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("clip", [None, 0.05])
def test_an_epoch_is_the_plain_loop(clip: float | None) -> None:
    model, other = small_model(), small_model()
    trained = engine(model, clipping=None if clip is None else Clipping("norm", clip))
    epoch = trained.train_epoch(loader())
    expected = plain(other, list(loader()), clip)
    torch.testing.assert_close(copied(model), copied(other))
    assert epoch.losses == pytest.approx(expected, rel=1e-6)
    assert epoch.loss == pytest.approx(sum(4 * x for x in expected[:5]) / 23 + 3 * expected[5] / 23, rel=1e-6)
    assert (epoch.updates, epoch.skipped, epoch.learning_rate) == (6, 0, 0.05)
    assert trained.history.losses == epoch.losses
    assert len(trained.history.steps) == 6


@pytest.mark.parametrize(("rows", "size", "steps"), [(24, 4, 3), (23, 4, 3), (21, 4, 4), (3, 2, 5)])
@pytest.mark.parametrize("known", [True, False])
def test_accumulation_is_the_large_batch(rows: int, size: int, steps: int, known: bool) -> None:
    """Also where the last window has fewer batches, and the last batch fewer rows."""
    model, other = small_model().double(), small_model().double()
    inputs, targets = pairs(rows, dtype=torch.float64)
    small = list(zip(inputs.split(size), targets.split(size), strict=True))
    large = list(zip(inputs.split(size * steps), targets.split(size * steps), strict=True))
    epoch = engine(model, accumulation_steps=steps).train_epoch(small if known else iter(small))
    plain(other, large)
    torch.testing.assert_close(copied(model), copied(other), rtol=1e-12, atol=1e-14)
    assert (len(epoch.losses), epoch.updates) == (len(small), len(large))


def test_results_of_steps() -> None:
    model = small_model()
    trained = engine(model, accumulation_steps=2, clipping=Clipping("value", 0.01))
    batches = list(loader())
    first, second = trained.step(batches[0]), trained.step(batches[1])
    assert (first.updated, first.skipped, math.isnan(first.grad_norm)) == (False, False, True)
    assert (second.updated, second.skipped, second.rows) == (True, False, 4)
    left = [p.grad for p in model.parameters() if p.grad is not None]
    assert max(float(g.abs().max()) for g in left) == pytest.approx(0.01)
    twin = small_model()
    (0.5 * (squared_error(twin, batches[0]) + squared_error(twin, batches[1]))).backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in twin.parameters() if p.grad is not None))
    assert second.grad_norm == pytest.approx(norm, rel=1e-5)
    assert trained.finish_window() is None
    trained.step(batches[2])
    rest = trained.finish_window()
    assert rest is not None
    assert rest.updated
    assert (trained.position.updates, trained.position.windows, trained.position.batches) == (2, 2, 3)
    trained.clipping = None  # it may be exchanged
    assert trained.step(batches[3], last=True).updated


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_precision(precision: str, dtype: torch.dtype) -> None:
    """Engines of several precisions live in one process; parameters stay float32, norms are unscaled."""
    model, exact = small_model(), engine()
    seen: list[torch.dtype] = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))  # type: ignore[index]
    mixed = engine(model, mixed_precision=precision)
    assert mixed.scaler.is_enabled() == (precision == "fp16")
    for batch in list(loader())[:3]:
        one, other = mixed.step(batch), exact.step(batch)
        assert one.updated
        assert one.loss == pytest.approx(other.loss, rel=0.05)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=0.05)
    assert mixed.evaluate(loader())["loss"] == pytest.approx(exact.evaluate(loader())["loss"], rel=0.05)
    assert set(seen) == {dtype}
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    torch.testing.assert_close(copied(model), copied(exact.module), rtol=0.1, atol=0.01)


def test_schedules() -> None:
    def halving(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    each = engine(scheduler=halving, accumulation_steps=2)
    results = [each.step(batch).learning_rate for batch in list(loader())[:5]]
    assert results == [0.05, 0.05, 0.025, 0.025, 0.0125]
    by_epoch = engine(scheduler=halving, schedule_unit="epoch")
    assert [by_epoch.train_epoch(loader()).learning_rate for _ in range(3)] == [0.05, 0.025, 0.0125]


@pytest.mark.parametrize("validated", [True, False])
def test_a_schedule_by_plateau(validated: bool) -> None:
    def plateau(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0, threshold=0.99)

    trained = engine(scheduler=plateau)
    for _ in range(2):
        trained.train_epoch(loader(), loader(8) if validated else None)
    assert trained.learning_rate == pytest.approx(0.005)
    assert isinstance(trained.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    epochs = trained.history.epochs
    expected = (
        [e.validation["loss"] for e in epochs if e.validation] if validated else [e.loss for e in epochs]
    )
    assert trained.scheduler.best == expected[0]


def test_moving_average() -> None:
    model, other = small_model(), small_model()
    trained = engine(model, ema_decay=0.5)
    expected: list[Tensor] = []
    for batch in list(loader())[:3]:
        trained.step(batch)
        now = [p.detach().clone() for p in model.parameters()]
        expected = [(e + p) / 2 for e, p in zip(expected or now, now, strict=True)]
    with torch.no_grad():
        for p, e in zip(other.parameters(), expected, strict=True):
            p.copy_(e)
    before = copied(model)
    assert trained.evaluate([pairs(6)])["loss"] == pytest.approx(squared_error(other, pairs(6)).item())
    assert same(before, copied(model))


def test_metrics_and_evaluation() -> None:
    def with_error(model: nn.Module, batch: Any) -> Any:
        outputs = model(batch[0])
        return F.mse_loss(outputs, batch[1]), {"error": (outputs - batch[1]).abs().mean(), "two": 2}

    model = small_model(dropout=0.5, norm=True)
    trained = engine(model, loss=with_error)
    epoch = trained.train_epoch(loader())
    assert set(epoch.metrics) == {"error", "two"}
    assert epoch.metrics["two"] == pytest.approx(2.0)
    model.train()
    model[2].eval()  # type: ignore[index]
    before, modes = copied(model), [module.training for module in model.modules()]
    state = torch.get_rng_state()
    found = trained.evaluate(loader(shuffle=True))
    assert torch.equal(state, torch.get_rng_state())
    assert same(before, copied(model))
    assert [module.training for module in model.modules()] == modes
    model.eval()
    inputs, targets = pairs(23)
    expected = {
        "loss": F.mse_loss(model(inputs), targets).item(),
        "error": (model(inputs) - targets).abs().mean().item(),
        "two": 2.0,
    }
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_monitor_sees_each_update_unscaled_and_unclipped() -> None:
    monitor = AutogradMonitor()
    trained = engine(
        monitor=monitor, mixed_precision="fp16", accumulation_steps=2, clipping=Clipping("norm", 1e-3)
    )
    results = [trained.step(batch) for batch in list(loader())[:4]]
    assert monitor.history.steps == [0, 1]
    norms = [result.grad_norm for result in results if result.updated]
    assert monitor.history.totals == norms
    assert min(norms) > 0.1


def test_a_seed() -> None:
    losses = []
    for seed in (3, 3, 4):
        trained = engine(small_model(dropout=0.5), seed=seed)
        losses.append(trained.train_epoch(loader(shuffle=True)).losses)
    assert losses[0] == losses[1] != losses[2]


def test_gradient_checkpointing() -> None:
    class Checkpointed(nn.Linear):
        enabled = False

        def gradient_checkpointing_enable(self) -> None:
            self.enabled = True

    model = Checkpointed(5, 2)
    engine(model, gradient_checkpointing=True)
    assert model.enabled


def test_a_compiled_model() -> None:
    model, other = small_model(), small_model()
    compiled: Any = torch.compile(model, backend="eager")
    trained = engine(compiled)
    assert trained.module is model
    trained.train_epoch(loader())
    plain(other, list(loader()))
    torch.testing.assert_close(copied(model), copied(other))


def test_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for force in (False, True):
        if force:
            monkeypatch.setenv("FORCE_COLOR", "1")
        TrainingEngine(model, optimizer, squared_error).train_epoch(loader())
        shown = capsys.readouterr().err
        assert ("6/6" in shown) == force
    hidden = TrainingEngine(model, optimizer, squared_error, settings=EngineSettings(progress=False))
    hidden.train_epoch(loader())
    assert capsys.readouterr().err == ""


def test_accelerate_is_needed_to_train_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r"accelerate is needed to train a model.*kernels\[train\]"):
        engine()


def test_a_launch_with_another_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    import accelerate

    class Launched(accelerate.Accelerator):
        mixed_precision = "bf16"

    monkeypatch.setattr(accelerate, "Accelerator", Launched)
    assert engine(mixed_precision="bf16").precision == torch.bfloat16
    with pytest.raises(ValueError, match=r"launched with mixed_precision='bf16', the settings have 'no'"):
        engine()
