"""What each of two processes does that train one model together."""

from typing import Any

import torch
import torch.distributed as dist
from diagnostics.watching_models import Net, loss_of, nan_where_large, total
from torch.nn.parallel import DistributedDataParallel

from seo_kernels.diagnostics.autograd_monitor import AutogradMonitor
from seo_kernels.diagnostics.gradient_analysis import GradientAnalysisConfig
from seo_kernels.diagnostics.gradient_monitor import GradientMonitor
from seo_kernels.diagnostics.gradient_monitoring import GradientMonitoring

PROCESSES = 2


def data(rank: int, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(10 * step + rank)
    x = torch.randn(4, 8, generator=generator)
    return 1e6 * x if (rank, step) == (1, 2) else x  # in the second process only, in the third step


def work(rank: int, folder: str) -> None:
    """Watch three steps, and write what was seen."""
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", PROCESSES)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)
    net = Net(blocks=2)
    net.spoil(1, nan_where_large)
    model = DistributedDataParallel(net, bucket_cap_mb=0.001)  # several buckets
    hooked, asked, reduced = GradientMonitor(model), AutogradMonitor(), []
    hooked.register_hooks()
    for step in range(3):
        model.zero_grad()
        loss_of(model, data(rank, step)).backward()
        reduced.append(total(net))
        asked.monitor_gradients(model)
    written = hooked.save_report(f"{folder}/report.json")
    beside = GradientMonitoring(GradientAnalysisConfig(compute_hessian=False, gradient_norm_threshold=1e9))
    result = beside.monitor_training_step(
        model=model, loss_function=_mean, input_data=data(rank, 2), target_data=None, step=0
    )
    found: dict[str, Any] = {
        "hooked": hooked.history.totals,
        "asked": asked.history.totals,
        "reduced": reduced,
        "first": str(hooked.log.all[0]),
        "names": list(hooked.get_gradient_summary()["parameter_norms"]),
        "written": written is not None,
        "beside": result["issues"],
        "beside_written": beside.save_monitoring_report(f"{folder}/beside.txt") is not None,
    }
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _mean(output: torch.Tensor, target: None) -> torch.Tensor:
    return 0.1 * output.square().mean()
