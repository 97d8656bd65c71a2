"""What each of two processes does; a module of its own, so that new processes can import it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import torch
from training.engines import copied, engine, loader, pairs, small_model, squared_error

from seo_kernels.training import TrainingEngine

ROWS, EPOCHS = 24, 2


def made(loss: Any = squared_error) -> TrainingEngine:
    return engine(small_model().double(), loss=loss, accumulation_steps=3, ema_decay=0.9)


def in_double(loss: Any = squared_error) -> Any:
    return lambda model, batch: loss(model, (batch[0].double(), batch[1].double()))


def own_half(seed: int, index: int) -> Any:
    """This process's rows of ``pairs(4, seed)``."""
    inputs, targets = pairs(4, seed)
    return inputs[2 * index : 2 * index + 2], targets[2 * index : 2 * index + 2]


def one_of_two(index: int, port: int, folder: str) -> None:
    """Train in this process as torchrun would start it, and write what became of it."""
    os.environ.update(
        RANK=str(index),
        LOCAL_RANK=str(index),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",
        ACCELERATE_USE_CPU="true",
        OMP_NUM_THREADS="1",
    )
    torch.set_num_threads(1)
    trained = made(in_double())
    assert trained.processes.count == 2
    assert isinstance(trained.model, torch.nn.parallel.DistributedDataParallel)
    history = trained.fit(loader(ROWS, 2), loader(10, 2), EPOCHS, checkpoint_folder=Path(folder) / "own")
    result: dict[str, Any] = {
        "losses": history.losses,
        "validation": [epoch.validation for epoch in history.epochs],
        "model": copied(trained.module),
    }
    bad = (pairs(2)[0], pairs(2)[1] * (float("nan") if index == 1 else 1.0))
    result["skipped"] = trained.step(bad).skipped
    result["kept"] = copied(trained.module)

    # windows that end where no one knew it before: unexpectedly, and with a batch that is left out
    ends = made(in_double())
    ends.step(own_half(1, index))
    ends.step(own_half(2, index))
    ends.finish_window()
    ends.step(own_half(3, index))
    ends.step(own_half(4, index))
    result["left out"] = ends.step(bad).skipped
    result["ends"] = copied(ends.module)

    # a crash in the middle of a shuffled epoch, between two updates
    left = 5

    def crashing(model: Any, batch: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyError
        return in_double()(model, batch)

    def shuffled() -> Any:
        return loader(ROWS, 2, shuffle=True)

    torch.manual_seed(3)
    whole = made(in_double())
    seen = whole.fit(shuffled(), epochs=EPOCHS).losses
    torch.manual_seed(3)
    place = Path(folder) / "crash"
    with contextlib.suppress(KeyError):
        made(crashing).fit(shuffled(), epochs=EPOCHS, checkpoint_folder=place)
    torch.manual_seed(index)
    resumed = made(in_double())
    resumed.fit(shuffled(), epochs=EPOCHS, checkpoint_folder=place, resume=True)
    result["resumed"], result["uninterrupted"] = resumed.history.losses, seen
    try:
        trained.train_epoch([pairs(2)])
    except TypeError as error:
        result["list"] = str(error)
    torch.save(result, Path(folder) / f"{index}.pt")
    torch.distributed.destroy_process_group()
