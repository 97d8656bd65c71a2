"""What autotune reports is what happened, and the model does not notice."""

import contextlib
import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seo_kernels.training import autotuning as tuning
from seo_kernels.training.autotuning import autotune, resized
from seo_kernels.training.peak_memory import CLEAR_REFS, MemoryUse
from seo_kernels.training.tuning_report import TrainingSettings, TuningReport, TuningRow

linux = pytest.mark.skipif(not CLEAR_REFS.exists(), reason="peaks are known on Linux")
EAGER: dict[str, Any] = {"compile": [False], "repeats": 1}


class Checkpointable(nn.Module):
    """Layers whose inputs alone are kept with checkpointing."""

    def __init__(self, layers: int = 2, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.GELU(), nn.GELU()) for _ in range(layers)
        )
        self.checkpointed = False

    def gradient_checkpointing_enable(self) -> None:
        self.checkpointed = True

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            if self.checkpointed:
                x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)
            else:
                x = layer(x)
        return x


def test_every_setting_has_a_row() -> None:
    report = autotune(Checkpointable(), torch.randn(8, 16), batch_sizes=[2, 8, 16], **EAGER)
    tried = [(r.settings.mixed_precision, r.settings.gradient_checkpointing) for r in report.rows[:4]]
    assert tried == [("no", False), ("bf16", False), ("no", True), ("bf16", True)]
    assert all(row.reason is None and row.settings.batch_size == 8 for row in report.rows[:4])
    others = [row.settings for row in report.rows[4:]]
    assert [settings.batch_size for settings in others] == [2, 16, 2, 16]
    assert report.best is not None
    assert report.best.seconds_per_row == min(row.seconds_per_row or 1e9 for row in report.rows)


def test_the_model_and_random_states_stay_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.BatchNorm1d(4)).eval()
    model(torch.randn(3, 4)).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradient, batch = model[0].weight.grad.clone(), torch.randn(8, 4)
    state = torch.get_rng_state()
    autotune(model, batch, **EAGER)
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert torch.equal(model[0].weight.grad, gradient)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


_PEAKS = """
import json
import torch
from torch import nn
from seo_kernels.training.autotuning import autotune
report = autotune(
    nn.Linear(16, 1024), torch.randn(10240, 16), loss=lambda model, batch: model(batch).sum(),
    batch_sizes=[10240, 20480], checkpointing=[False], precisions=["no"], compile=[False], repeats=1,
)
print(json.dumps([row.peak_bytes for row in report.rows]))
"""


@linux
def test_memory_is_that_of_the_tensors() -> None:
    """The output takes 40 MiB. In a new process: in an old one, memory that is free already serves again."""
    run = subprocess.run([sys.executable, "-c", _PEAKS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    once, twice = json.loads(run.stdout)
    assert 39 <= once / 2**20 < 90
    assert 39 <= (twice - once) / 2**20 < 90


def test_what_stays_between_steps_counts() -> None:
    """Parameters, a buffer, and the two moments and the step count of each parameter."""
    model = nn.Linear(10, 10)
    model.register_buffer("scale", torch.ones(5))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 10)).sum().backward()
    optimizer.step()
    assert tuning._held_bytes(model, optimizer) == 4 * (3 * 110 + 5 + 2)
    peak = autotune(model, torch.randn(2, 10), checkpointing=[False], **EAGER).rows[0].peak_bytes
    assert peak is None or peak >= 4 * (3 * 110 + 5 + 2)


def test_a_limit_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two settings one is over it; the other goes first when batch sizes are tried."""
    peaks = iter([3000, 1000, 500, 9000])

    @contextlib.contextmanager
    def pretended(device: torch.device) -> Iterator[MemoryUse]:
        yield MemoryUse(peak=next(peaks))

    monkeypatch.setattr(tuning, "measured_memory", pretended)
    monkeypatch.setattr(tuning, "_held_bytes", lambda model, optimizer: 500)
    report = autotune(
        Checkpointable(), torch.randn(8, 16), precisions=["no"], batch_sizes=[4], memory_limit=2000, **EAGER
    )
    assert [row.peak_bytes for row in report.rows] == [3500, 1500, 1000, 9500]
    over = "over the memory limit"
    assert [row.reason for row in report.rows] == [over, None, None, over]
    assert [row.settings.gradient_checkpointing for row in report.rows] == [False, True, True, False]
    assert report.best in (report.rows[1], report.rows[2])


@linux
@pytest.mark.slow
def test_a_limit_makes_checkpointing_the_choice() -> None:
    """Twelve tensors of 40 MiB are kept without, three with checkpoints, and four while a layer is redone."""
    report = autotune(
        Checkpointable(3, width=32),
        torch.randn(327680, 32),
        precisions=["no"],
        batch_sizes=[327680, 256],
        memory_limit=440 * 2**20,
        **EAGER,
    )
    plain, checkpointed, small, *_ = report.rows
    assert (plain.reason, checkpointed.reason, small.reason) == ("over the memory limit", None, None)
    assert plain.peak_bytes is not None
    assert plain.peak_bytes > 480 * 2**20
    assert small.settings.gradient_checkpointing  # the better of the two is tried with other sizes first


def test_what_fails_is_a_row_with_its_reason() -> None:
    class Stubborn(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("no autocast here\nmore about it")
            return super().forward(input)

    report = autotune(Stubborn(4, 4), torch.randn(8, 4), batch_sizes=[8], **EAGER)
    reasons = {(r.settings.mixed_precision, r.settings.gradient_checkpointing): r.reason for r in report.rows}
    assert reasons == {
        ("no", False): None,
        ("bf16", False): "RuntimeError: no autocast here",
        ("no", True): "the model has no gradient_checkpointing_enable()",
        ("bf16", True): "the model has no gradient_checkpointing_enable()",
    }
    assert report.best is report.rows[0]
    lost = autotune(nn.Linear(4, 4), torch.full((8, 4), float("nan")), checkpointing=[False], **EAGER)
    assert {row.reason for row in lost.rows} == {"the loss is nan"}
    assert lost.best is None


def test_compiled_settings_come_last(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    report = autotune(nn.Linear(4, 4), torch.randn(8, 4), checkpointing=[False], batch_sizes=[2], repeats=1)
    assert [row.settings.compile for row in report.rows] == [False] * 4 + [True] * 2
    assert {row.settings.mixed_precision for row in report.rows[4:]} == {"no", "bf16"}
    assert len(compiled) == 2
    best = min(report.rows[:4], key=lambda row: row.seconds_per_row or 1e9).settings
    assert report.rows[4].settings == replace(best, compile=True)
    alone = autotune(nn.Linear(4, 4), torch.randn(8, 4), compile=[True], checkpointing=[False], repeats=1)
    assert all(row.settings.compile for row in alone.rows)


def test_the_time_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that moves with the model's calls alone: the first settings take three of them."""
    now = 100.0

    class Slow(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            nonlocal now
            now += 2.0
            return super().forward(input)

    monkeypatch.setattr(tuning, "time", SimpleNamespace(perf_counter=lambda: now))
    report = autotune(Slow(4, 4), torch.randn(8, 4), checkpointing=[False], time_budget=5.0, **EAGER)
    assert (report.rows[0].reason, report.rows[0].first_step_seconds) == (None, 2.0)
    assert {row.reason for row in report.rows[1:]} == {"not tried: the time budget of 5 s is spent"}


def test_losses() -> None:
    batch = {"x": torch.randn(8, 4), "labels": torch.randn(8, 4)}
    seen = []

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        seen.append(len(batch["labels"]))
        return (model(batch["x"]) - batch["labels"]).square().mean()

    report = autotune(nn.Linear(4, 4), batch, loss=loss, checkpointing=[False], batch_sizes=[24], **EAGER)
    assert report.best is not None
    assert set(seen) == {8, 24}
    words = autotune(nn.Embedding(3, 2), torch.tensor([0, 1]), checkpointing=[False], **EAGER)
    assert words.best is not None
    refused = autotune(nn.Linear(4, 4), torch.randn(8, 4), loss=lambda model, batch: model(batch), **EAGER)
    assert "ValueError" in (refused.rows[0].reason or "")


def test_batches_of_other_sizes() -> None:
    batch = (torch.tensor([[1, 2], [3, 4], [5, 6]]), {"mask": torch.ones(3), "table": torch.ones(7)}, "text")
    ids, others, text = resized(batch, 4)
    assert ids.tolist() == [[1, 2], [3, 4], [5, 6], [1, 2]]
    assert (len(others["mask"]), len(others["table"]), text) == (4, 7, "text")
    assert resized(batch, 1)[0].tolist() == [[1, 2]]


def test_the_report() -> None:
    settings = TrainingSettings("bf16", True, False, 8)
    rows = (
        TuningRow(settings, 2e-6, 3 * 2**20, 0.5),
        TuningRow(TrainingSettings("no", False, True, 8), reason="BackendCompilerFailed: no compiler"),
    )
    report = TuningReport(rows, 4 * 2**20)
    assert report.best is rows[0]
    text = str(report)
    for words in ("Training steps within 4.0 MiB", "bf16", "2.0", "3.0", "best", "no compiler"):
        assert words in text
    assert report.as_dicts()[0] == {
        "mixed_precision": "bf16",
        "gradient_checkpointing": True,
        "compile": False,
        "batch_size": 8,
        "seconds_per_row": 2e-6,
        "peak_bytes": 3 * 2**20,
        "first_step_seconds": 0.5,
        "reason": None,
    }
    engine = settings.engine_settings(accumulation_steps=3)
    assert (engine.mixed_precision, engine.gradient_checkpointing, engine.accumulation_steps) == (
        "bf16",
        True,
        3,
    )


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"precisions": ["int8"]}, ValueError, r"precisions\[0\] is 'int8'"),
        ({"precisions": []}, ValueError, "precisions is empty"),
        ({"checkpointing": True}, TypeError, r"checkpointing is a bool \(True\), expected a list"),
        ({"compile": [1]}, TypeError, r"compile\[0\] is an int"),
        ({"batch_sizes": [0]}, ValueError, r"batch_sizes\[0\] is 0"),
        ({"memory_limit": 0}, ValueError, "memory_limit is 0"),
        ({"repeats": 0}, ValueError, "repeats is 0"),
        ({"time_budget": 0.0}, ValueError, "time_budget is 0"),
        ({"loss": "mse"}, TypeError, "loss is a str"),
        ({"batch": torch.zeros(0, 4)}, ValueError, "no rows"),
        ({"batch": "text"}, ValueError, "without tensors"),
        ({"model": nn.Tanh()}, ValueError, "without a trainable parameter"),
    ],
)
def test_arguments_that_do_not_fit(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"model": nn.Linear(4, 4), "batch": torch.randn(8, 4), **arguments}
    with pytest.raises(error, match=message):
        autotune(given.pop("model"), given.pop("batch"), **given)


def test_a_limit_where_peaks_are_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "peak_is_known", lambda device: False)
    with pytest.raises(ValueError, match="does not tell peak memory"):
        autotune(nn.Linear(4, 4), torch.randn(8, 4), memory_limit=10**9)
