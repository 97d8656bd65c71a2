"""What a crash interrupts goes on exactly as if there had been none; files are whole or not there."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from training.engines import copied, engine, loader, pairs, same, small_model, squared_error

from seo_kernels.training import Clipping, TrainingEngine
from seo_kernels.training.checkpoints import read_checkpoint, write_checkpoint

EPOCHS, ROWS = 3, 23  # 6 batches of 4 in an epoch


class Crash(Exception):
    """Of a loss that is asked once too often."""


class CrashingAt:
    """Squared error with noise of python and numpy, until its n-th training batch."""

    def __init__(self, at: int | None) -> None:
        self.left = at

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        if model.training:
            if self.left == 0:
                raise Crash
            self.left = None if self.left is None else self.left - 1
        noise = random.random() + np.random.rand()  # noqa: NPY002
        return squared_error(model, (batch[0] + 0.1 * noise, batch[1]))


class Augmented(Dataset[Any]):
    """Rows with noise, drawn where they are loaded."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = pairs(ROWS)
        return inputs[index] + 0.1 * torch.randn(5), targets[index]


class Stream(IterableDataset[Any]):
    """Of unknown length."""

    def __iter__(self) -> Iterator[Any]:
        return iter([(x + torch.randn(5), y) for x, y in zip(*pairs(ROWS), strict=True)])


def own_generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


LOADERS: dict[str, Callable[[], Any]] = {
    "in order": loader,
    "shuffled": lambda: loader(shuffle=True),
    "shuffled by its own": lambda: loader(shuffle=True, generator=own_generator()),
    "drawn by its own": lambda: loader(
        sampler=torch.utils.data.RandomSampler(range(ROWS), replacement=True, generator=own_generator())
    ),
    "augmented": lambda: DataLoader(Augmented(), 4, shuffle=True),
    "stream": lambda: DataLoader(Stream(), 4),
    "list": lambda: list(loader()),
}


def scheduler(optimizer: Any) -> Any:
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=100)


def made(at: int | None = None, seed: int = 7, **changes: Any) -> TrainingEngine:
    model = small_model(dropout=0.3, norm=True)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    options: dict[str, Any] = {
        "scheduler": scheduler,
        "accumulation_steps": 2,
        "ema_decay": 0.9,
        "clipping": Clipping("norm", 0.5),
        "checkpoint_every": 1,
        **changes,
    }
    return engine(model, loss=CrashingAt(at), **options)


def interrupted(folder: Path, kind: str, at: list[int], **changes: Any) -> TrainingEngine:
    """Crashes at these batches after each resume, then finishes; every time with other seeds and loaders."""
    for count, left in enumerate([*at, None]):
        trained = made(left, seed=7 if count == 0 else 100 + count, **changes)
        try:
            trained.fit(
                LOADERS[kind](), loader(8, shuffle=True), EPOCHS, checkpoint_folder=folder, resume=True
            )
        except Crash:
            continue
    return trained


@pytest.mark.parametrize("kind", LOADERS)
def test_the_losses_are_those_of_an_uninterrupted_training(kind: str, tmp_path: Path) -> None:
    whole = made()
    whole.fit(LOADERS[kind](), loader(8, shuffle=True), EPOCHS)
    draws = random.Random(kind)
    at = [draws.randrange(1, 9), draws.randrange(4, 9)]
    resumed = interrupted(tmp_path, kind, at)
    assert resumed.history.losses == whole.history.losses, at
    assert len(whole.history.losses) == 6 * EPOCHS
    assert same(copied(resumed.module), copied(whole.module))
    assert resumed.ema is not None
    assert whole.ema is not None
    assert same(copied(resumed.ema.averaged), copied(whole.ema.averaged))
    for one, other in zip(resumed.history.epochs, whole.history.epochs, strict=True):
        assert (one.loss, one.metrics, one.updates, one.learning_rate, one.validation) == (
            other.loss,
            other.metrics,
            other.updates,
            other.learning_rate,
            other.validation,
        )
    assert [step.loss for step in resumed.history.steps] == whole.history.losses


@pytest.mark.parametrize("at", range(1, 18))
def test_a_crash_at_any_batch(at: int, tmp_path: Path) -> None:
    whole = made()
    whole.fit(loader(shuffle=True), loader(8, shuffle=True), EPOCHS)
    resumed = interrupted(tmp_path, "shuffled", [at])
    assert resumed.history.losses == whole.history.losses


@pytest.mark.parametrize(
    "changes",
    [
        {"mixed_precision": "fp16"},
        {"mixed_precision": "bf16", "checkpoint_every": 2, "accumulation_steps": 1},
        {"checkpoint_every": None},
        {"schedule_unit": "epoch"},
        {"scheduler": lambda o: torch.optim.lr_scheduler.ReduceLROnPlateau(o, patience=0)},
        {"scheduler": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3)},
        {
            "scheduler": lambda o: torch.optim.lr_scheduler.SequentialLR(
                o,
                [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.MultiStepLR(o, [1, 2])],
                [3],
            )
        },
    ],
    ids=lambda settings: "-".join(settings),
)
def test_settings_that_go_on(changes: dict[str, Any], tmp_path: Path) -> None:
    whole = made(**changes)
    whole.fit(loader(shuffle=True), loader(8, shuffle=True), EPOCHS)
    resumed = interrupted(tmp_path, "shuffled", [9], **changes)
    assert resumed.history.losses == whole.history.losses
    assert resumed.scaler.state_dict() == whole.scaler.state_dict()


def test_a_window_that_is_open(tmp_path: Path) -> None:
    """Also with a gradient that spoils the window after the resume: buffers go back to where it opened."""
    batches = [*list(loader())[:5], (torch.full((4, 5), math.inf), pairs(4)[1])]
    for count in range(1, 5):
        whole = made(accumulation_steps=3)
        losses = [whole.step(batch).loss for batch in batches[:5]]
        first = made(accumulation_steps=3)
        for batch in batches[:count]:
            first.step(batch)
        first.save_checkpoint(tmp_path)
        second = made(seed=1, accumulation_steps=3)
        second.load_checkpoint(tmp_path)
        assert [second.step(batch).loss for batch in batches[count:5]] == losses[count:]
        with pytest.warns(RuntimeWarning):
            whole.step(batches[5])
        with pytest.warns(RuntimeWarning):
            second.step(batches[5])
        assert same(copied(first.module), copied(first.module))
        assert same(copied(second.module), copied(whole.module))


SCRIPT = """
import os, random, signal, sys
from pathlib import Path
import torch
from training.engines import loader
from training.test_engine_resume import EPOCHS, made

left, save = int(sys.argv[2]), torch.save

def killed(state, file):
    global left
    left -= 1
    if left == 0:
        file.write(b"PK half of it")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    save(state, file)

torch.save = killed
torch.set_num_threads(1)
made().fit(loader(shuffle=True), loader(8, shuffle=True), EPOCHS, checkpoint_folder=sys.argv[1])
"""


@pytest.mark.parametrize("at", [2, 5, 8])  # the first after the start, the first of the best, one in between
def test_a_process_that_is_killed_while_it_writes(at: int, tmp_path: Path) -> None:
    whole = made()
    whole.fit(loader(shuffle=True), loader(8, shuffle=True), EPOCHS)
    tests = str(Path(__file__).parents[1])
    found = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), str(at)], cwd=tests, check=False)
    assert found.returncode == -9
    assert list(tmp_path.glob(".*.part"))
    resumed = made(seed=1)
    resumed.load_checkpoint(tmp_path)
    assert resumed.position.batches == {2: 0, 5: 6, 8: 8}[at]
    resumed.fit(
        loader(shuffle=True), loader(8, shuffle=True), EPOCHS, checkpoint_folder=tmp_path, resume=True
    )
    assert resumed.history.losses == whole.history.losses
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "checkpoint.pt"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = made()
    trained.train_epoch(loader())
    path = trained.save_checkpoint(tmp_path)
    before = path.read_bytes()
    trained.train_epoch(loader())

    def half(state: Any, file: Any) -> None:
        file.write(before[: len(before) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", half)
        with pytest.raises(OSError, match=r"checkpoint\.pt.*No space left"):
            trained.save_checkpoint(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["checkpoint.pt"]
    assert path.read_bytes() == before
    trained.train_epoch(loader())  # and goes on


def test_what_a_file_holds(tmp_path: Path) -> None:
    trained = made()
    trained.fit(loader(), loader(8), 2, checkpoint_folder=tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    other = small_model(norm=True)
    other.load_state_dict(state["model"])
    assert same(copied(other), copied(trained.module))
    assert state["position"]["epoch"] == 2


def test_early_stopping_and_the_best_parameters(tmp_path: Path) -> None:
    losses = iter([3.0, 2.0, 2.5, 1.99, 2.2, 1.0])

    class Validated(TrainingEngine):
        def evaluate(self, loader: Any) -> dict[str, float]:
            seen.append(copied(self.module))
            return {"loss": next(losses)}

    seen: list[list[Tensor]] = []
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trained = Validated(model, optimizer, squared_error)
    history = trained.fit(loader(), loader(), 6, patience=3, min_delta=0.1, checkpoint_folder=tmp_path)
    assert (len(history.epochs), history.best_epoch, history.best_validation_loss) == (5, 1, 2.0)
    assert history.stopped_early
    trained.load_best(tmp_path)
    assert same(copied(model), seen[1])
    again = engine()
    assert len(again.fit(loader(), loader(), 6, 3, checkpoint_folder=tmp_path, resume=True).epochs) == 5
    more = engine()
    assert len(more.fit(loader(), loader(), 6, checkpoint_folder=tmp_path, resume=True).epochs) == 6


def test_fitting_again_adds_epochs() -> None:
    trained = engine()
    assert len(trained.fit(loader(), epochs=2).epochs) == 2
    assert len(trained.fit(loader(), epochs=2).epochs) == 4


def test_what_stops_training_is_saved_before(tmp_path: Path) -> None:
    trained = engine(non_finite="stop")
    good, bad = pairs(4), (pairs(4)[0], torch.full((4, 2), math.nan))
    with pytest.raises(RuntimeError, match="the loss of batch 2 is nan"):
        trained.fit([good, good, bad, good], epochs=1, checkpoint_folder=tmp_path)
    resumed = engine(non_finite="stop")
    epoch = resumed.fit([good, good, bad, good], epochs=1, checkpoint_folder=tmp_path, resume=True).epochs[0]
    assert (epoch.updates, epoch.skipped, len(epoch.losses)) == (3, 1, 4)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    asked = CrashingAt(0)  # nothing is trained before
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inner"):
        with pytest.raises(OSError, match=f"checkpoint_folder is {folder}, expected a folder"):
            engine(loss=asked).fit(loader(), checkpoint_folder=folder)
    with pytest.raises(TypeError, match=r"checkpoint_folder is an int \(3\)"):
        engine(loss=asked).fit(loader(), checkpoint_folder=3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at"):
        engine().load_checkpoint(tmp_path)
    engine().save_checkpoint(tmp_path)
    with pytest.raises(FileExistsError, match="has a checkpoint, expected resume=True or another folder"):
        engine(loss=asked).fit(loader(), checkpoint_folder=tmp_path)


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    path = made().save_checkpoint(tmp_path)
    content = path.read_bytes()
    for broken in (b"", b"text", content[: len(content) // 2]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="is no checkpoint that can be read"):
            made().load_checkpoint(tmp_path)
    torch.save({"model": {}}, path)
    with pytest.raises(ValueError, match="expected a checkpoint of format 1"):
        made().load_checkpoint(tmp_path)
    path.write_bytes(content)
    for changes, message in (
        ({"accumulation_steps": 3}, "training with accumulation_steps=2, expected the settings' 3"),
        ({"mixed_precision": "bf16"}, "training with mixed_precision='no'"),
        ({"ema_decay": None}, r"training with ema_decay=0\.9"),
        ({"scheduler": None}, "training with a scheduler, this engine is without"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**changes).load_checkpoint(tmp_path)
    for model, message in (
        (small_model(), r"another model: it has '1\.weight' and 4 more"),
        (nn.Sequential(*small_model(norm=True), nn.Linear(2, 2)), r"it lacks '4\.weight' and 1 more"),
        (
            nn.Sequential(nn.Linear(6, 8), *list(small_model(norm=True))[1:]),
            r"'0\.weight' has shape \(8, 5\), expected \(8, 6\)",
        ),
    ):
        trained = engine(model, ema_decay=0.9, accumulation_steps=2, scheduler=scheduler)
        before = copied(trained.module)
        with pytest.raises(ValueError, match=message):
            trained.load_checkpoint(tmp_path)
        assert same(before, copied(trained.module))


def test_a_loader_that_is_another(tmp_path: Path) -> None:
    trained = made(6)
    with pytest.raises(Crash):
        trained.fit(loader(40), epochs=1, checkpoint_folder=tmp_path)
    with pytest.raises(ValueError, match="loader yields 2 batches, expected 6, done at the checkpoint"):
        made().fit(loader(8), epochs=1, checkpoint_folder=tmp_path, resume=True)


def test_a_state_that_cannot_be_read_safely(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\] is a Crash, expected tensors, numbers or text"):
        write_checkpoint(tmp_path / "x.pt", {"a": [1, Crash()]})
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "x.pt")
