"""Losses and gradients that are NaN or infinite change nothing; what does not fit is said."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training.engines import copied, engine, loader, pairs, same, small_model, squared_error

from seo_kernels.training import Clipping, EngineSettings, NonFiniteError, TrainingEngine

GOOD, BAD = pairs(4), (pairs(4)[0], torch.full((4, 2), math.nan))


def with_a_bad_gradient(model: nn.Module, batch: Any) -> Tensor:
    """A finite loss whose gradient is not: sqrt at 0, where the batch says so."""
    loss = squared_error(model, batch)
    return loss + (loss.detach() - loss).clamp(min=0.0).sqrt() if batch[0][0, 0] > 100 else loss


SPOILING = (torch.full((4, 5), 200.0), pairs(4)[1])


def state(trained: TrainingEngine) -> list[Tensor]:
    assert trained.ema is not None
    assert trained.scheduler is not None
    momentum = [value["momentum_buffer"].clone() for value in trained.optimizer.state.values()]
    rates = [torch.tensor(trained.scheduler.get_last_lr())]
    return [*copied(trained.module), *copied(trained.ema.averaged), *momentum, *rates]


def everything(**changes: Any) -> TrainingEngine:
    def halving(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)

    model = small_model(norm=True)
    options: dict[str, Any] = {"ema_decay": 0.9, "scheduler": halving, "clipping": Clipping(), **changes}
    return engine(model, loss=with_a_bad_gradient, **options)


@pytest.mark.parametrize("bad", [BAD, SPOILING], ids=["loss", "gradient"])
@pytest.mark.parametrize("anomaly", [False, True])
def test_a_skipped_step_changes_nothing(bad: Any, anomaly: bool) -> None:
    trained = everything()
    trained.step(GOOD)
    before = state(trained)
    if anomaly and bad is SPOILING:
        pytest.skip("torch raises in backward itself, as it is asked to")
    said = "the loss of batch 1 is nan" if bad is BAD else r"the gradient's norm is nan, by '0\.weight'"
    with torch.autograd.set_detect_anomaly(anomaly), pytest.warns(RuntimeWarning, match=said):
        result = trained.step(bad)
    assert (result.updated, result.skipped) == (False, True)
    assert same(before, state(trained))
    assert trained.position.skips == 1
    assert trained.step(GOOD).updated
    assert not same(before, state(trained))
    assert trained.position.skips == 0


@pytest.mark.parametrize("bad", [BAD, SPOILING], ids=["loss", "gradient"])
def test_a_step_that_stops(bad: Any) -> None:
    trained = everything(non_finite="stop", accumulation_steps=2)
    trained.step(GOOD)
    trained.step(GOOD)
    before = state(trained)
    trained.step(GOOD)
    with pytest.raises(NonFiniteError, match="training stops, nothing was updated") as caught:
        trained.step(bad)
    assert caught.value.result is not None
    assert caught.value.result.skipped
    assert same(before, state(trained))
    trained.step(GOOD)
    assert trained.step(GOOD).updated


def test_a_window_without_its_bad_batch() -> None:
    """The update is that of the other batches; the batch itself leaves no trace in running statistics."""
    model, other = small_model(norm=True).double(), small_model(norm=True).double()
    batches = [pairs(4, seed, torch.float64) for seed in range(3)]
    bad = (batches[0][0], batches[0][1] / 0.0)
    trained = engine(model, accumulation_steps=4)
    with pytest.warns(RuntimeWarning, match="the loss of batch 1 is inf"):
        results = [trained.step(batch) for batch in (batches[0], bad, batches[1], batches[2])]
    assert [result.skipped for result in results] == [False, True, False, False]
    assert [result.updated for result in results] == [False, False, False, True]
    engine(other, accumulation_steps=3).train_epoch(batches)
    torch.testing.assert_close(copied(model), copied(other), rtol=1e-12, atol=1e-14)


def test_an_epoch_with_bad_batches() -> None:
    trained = engine()
    with pytest.warns(RuntimeWarning, match="updates nothing"):
        epoch = trained.train_epoch([GOOD, BAD, GOOD])
    assert (epoch.updates, epoch.skipped, math.isnan(epoch.losses[1])) == (2, 1, True)
    assert math.isfinite(epoch.loss)
    with pytest.warns(RuntimeWarning):
        assert math.isnan(trained.train_epoch([BAD]).loss)


def test_too_many_skips() -> None:
    trained = engine(max_consecutive_skips=2)
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(NonFiniteError, match="2 batches in a row updated nothing"),
    ):
        trained.train_epoch([GOOD, BAD, GOOD, BAD, BAD, GOOD])


def test_a_scale_that_is_too_large_is_lowered_silently() -> None:
    trained = engine(mixed_precision="fp16", non_finite="stop", ema_decay=0.5)
    trained.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = copied(trained.module)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        result = trained.step(GOOD)
    assert (result.updated, result.skipped) == (False, True)
    assert same(before, copied(trained.module))
    assert trained.scaler.get_scale() == 2.0**39
    trained.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    trained.loss_of_batch = with_a_bad_gradient
    with pytest.raises(NonFiniteError, match="the gradient's norm is"):
        trained.step(SPOILING)


class Lacking(nn.Module):
    """Nothing to train."""

    def forward(self, x: Tensor) -> Tensor:
        return x


MODEL = small_model()
SGD = torch.optim.SGD(MODEL.parameters())


def made(model: Any = MODEL, optimizer: Any = SGD, loss: Any = squared_error, **options: Any) -> Any:
    return TrainingEngine(model, optimizer, loss, **options)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: made("model"), TypeError, "model is a str"),
        (lambda: made(optimizer="sgd"), TypeError, "optimizer is a str"),
        (lambda: made(loss=1), TypeError, "loss_of_batch is an int"),
        (lambda: made(settings={}), TypeError, "settings is a dict, expected an EngineSettings"),
        (lambda: made(scheduler=1), TypeError, "scheduler is an int"),
        (
            lambda: made(scheduler=torch.optim.lr_scheduler.StepLR(torch.optim.SGD(MODEL.parameters()), 1)),
            ValueError,
            "scheduler is of another optimizer",
        ),
        (lambda: made(monitor=print), TypeError, "monitor is a builtin_function_or_method"),
        (lambda: made(Lacking()), ValueError, "model, a Lacking, has no parameter that requires a gradient"),
        (
            lambda: made(nn.Linear(2, 2).requires_grad_(False)),
            ValueError,
            "model, a Linear, has no parameter that requires",
        ),
        (lambda: made(small_model()), ValueError, "optimizer has 4 parameters that are not the model's"),
        (
            lambda: made(settings=EngineSettings(gradient_checkpointing=True)),
            ValueError,
            "gradient_checkpointing is True, expected a model with",
        ),
        (lambda: engine().step((torch.zeros(0, 5), torch.zeros(0, 2))), ValueError, "has no rows"),
        (lambda: engine(loss=lambda m, b: 1.0).step(GOOD), TypeError, "the loss is a float"),
        (lambda: engine(loss=lambda m, b: m(b[0])).step(GOOD), ValueError, r"the loss has shape \(4, 2\)"),
        (lambda: engine(loss=lambda m, b: b[0].mean()).step(GOOD), ValueError, "requires no gradient"),
        (
            lambda: engine(loss=lambda m, b: (m(b[0]).mean(), [1])).step(GOOD),
            TypeError,
            "the metrics are a list",
        ),
        (
            lambda: engine(loss=lambda m, b: (m(b[0]).mean(), {"a": b[0]})).step(GOOD),
            ValueError,
            r"the metric 'a' has shape \(4, 5\)",
        ),
        (
            lambda: engine(loss=lambda m, b: (m(b[0]).mean(), {"a": "b"})).step(GOOD),
            TypeError,
            "the metric 'a' is a str",
        ),
        (
            lambda: engine(loss=lambda m, b: (m(b[0]).mean(), {"loss": 1})).step(GOOD),
            ValueError,
            "a metric is named 'loss'",
        ),
        (lambda: engine().train_epoch([]), ValueError, "loader yields nothing, expected at least one batch"),
        (lambda: engine().train_epoch(3), TypeError, r"loader is an int \(3\)"),
        (lambda: engine().evaluate(iter([])), ValueError, "loader yields nothing"),
        (lambda: engine().fit(loader(), epochs=0), ValueError, "epochs is 0"),
        (lambda: engine().fit(loader(), patience=2), ValueError, "patience is 2 without validation"),
        (lambda: engine().fit(loader(), loader(), patience=0), ValueError, "patience is 0"),
        (lambda: engine().fit(loader(), min_delta=-1.0), ValueError, r"min_delta is -1\.0"),
        (lambda: engine().fit(loader(), resume=True), ValueError, "resume is True without checkpoint_folder"),
        (lambda: EngineSettings(mixed_precision="fp8"), ValueError, "mixed_precision is 'fp8'"),
        (lambda: EngineSettings(accumulation_steps=0), ValueError, "accumulation_steps is 0"),
        (lambda: EngineSettings(clipping=1.0), TypeError, "clipping is a float"),  # type: ignore[arg-type]
        (lambda: Clipping("norms"), ValueError, "mode is 'norms'"),
        (lambda: Clipping("norm", 0.0), ValueError, r"limit is 0\.0"),
        (lambda: EngineSettings(non_finite="raise"), ValueError, "non_finite is 'raise'"),
        (lambda: EngineSettings(max_consecutive_skips=0), ValueError, "max_consecutive_skips is 0"),
        (lambda: EngineSettings(ema_decay=1.5), ValueError, r"ema_decay is 1\.5"),
        (lambda: EngineSettings(schedule_unit="batch"), ValueError, "schedule_unit is 'batch'"),
        (lambda: EngineSettings(progress=1), TypeError, "progress is an int"),  # type: ignore[arg-type]
        (lambda: EngineSettings(checkpoint_every=0), ValueError, "checkpoint_every is 0"),
        (lambda: EngineSettings(history_length=0), ValueError, "history_length is 0"),
        (lambda: EngineSettings(seed=2**32), ValueError, "expected a seed below"),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_batch_of_the_wrong_shape_is_named_and_nothing_is_lost() -> None:
    trained = engine(accumulation_steps=2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        trained.train_epoch([GOOD, GOOD, GOOD, (torch.zeros(4, 6), GOOD[1])])
    notes = getattr(caught.value, "__notes__", ["in batch 3 of epoch 0, a batch of shapes (4, 6), (4, 2)"])
    assert notes == ["in batch 3 of epoch 0, a batch of shapes (4, 6), (4, 2)"]
    assert trained.position.updates == 1
    epoch = trained.train_epoch([GOOD, GOOD])  # a new one: nothing is left of the window that was open
    twin = engine(accumulation_steps=2)
    twin.train_epoch([GOOD, GOOD])
    twin.train_epoch([GOOD, GOOD])
    assert (epoch.updates, epoch.epoch) == (1, 0)
    assert same(copied(trained.module), copied(twin.module))
