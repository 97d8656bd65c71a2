"""Two processes with half of each batch are one process with all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from training.engines import copied, loader, pairs
from training.two_processes import EPOCHS, ROWS, in_double, made, one_of_two


def test_two_processes(tmp_path: Path) -> None:
    # the store is here, at a port that it chose itself: as torchrun's agent has one for its processes
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    torch.multiprocessing.spawn(one_of_two, (store.port, str(tmp_path)), nprocs=2)  # type: ignore[attr-defined]
    found = [torch.load(tmp_path / f"{index}.pt", weights_only=True) for index in range(2)]
    whole = made(in_double())
    history = whole.fit(loader(ROWS, 4), loader(10, 2), EPOCHS)
    ends = made(in_double())
    for first in (1, 3):
        ends.step(pairs(4, first))
        ends.step(pairs(4, first + 1), last=True)
    for each in found:
        # in turn batches of 2 go to either process: 4 rows are one batch of the other loader
        assert each["losses"] == pytest.approx(history.losses, rel=1e-12)
        torch.testing.assert_close(each["model"], copied(whole.module), rtol=1e-12, atol=1e-14)
        for one, other in zip(each["validation"], history.epochs, strict=True):
            assert one == pytest.approx(other.validation, rel=1e-12)
        assert each["skipped"]
        assert all(map(torch.equal, each["model"], each["kept"]))
        assert each["left out"]
        torch.testing.assert_close(each["ends"], copied(ends.module), rtol=1e-12, atol=1e-14)
        assert each["resumed"] == each["uninterrupted"]
        assert "loader is a list, expected a torch DataLoader, for 2 processes" in each["list"]
