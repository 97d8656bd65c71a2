"""Two processes, one model: gradients are the reduced ones, findings those of all, the report is one."""

import json
from pathlib import Path

import pytest
import torch
from diagnostics.watching_models import Net, loss_of, total
from diagnostics.watching_processes import PROCESSES, data, work
from torch import nn

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch is built without distributed"
)


def test_of_two_processes(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=PROCESSES)  # type: ignore[attr-defined]
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES))
    torch.manual_seed(0)
    net: nn.Module = Net(blocks=2)
    for step in range(2):  # the mean of both is the gradient of both batches together
        net.zero_grad()
        loss_of(net, torch.cat([data(0, step), data(1, step)])).backward()
        for found in (first, second):
            for which in ("hooked", "asked", "reduced"):
                assert found[which][step] == pytest.approx(total(net), rel=1e-4), which
    assert all(map(torch.isnan, torch.tensor([first["hooked"][2], first["asked"][2]])))
    assert first["names"] == [name for name, _ in net.named_parameters()]
    assert first["first"] == second["first"]
    assert (
        "at step 2; it began in module blocks.1.up, as NaN in the forward pass, in process 1"
        in first["first"]
    )
    assert (first["written"], second["written"]) == (True, False)
    assert json.loads((tmp_path / "report.json").read_text())["steps_seen"] == 3
    assert first["beside"] == second["beside"]
    assert any("in process 1" in issue and "blocks.1.up" in issue for issue in first["beside"])
    assert (first["beside_written"], second["beside_written"]) == (True, False)
