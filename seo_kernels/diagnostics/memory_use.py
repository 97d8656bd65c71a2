"""How much memory is in use, without waiting for a device."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

STATM = Path("/proc/self/statm")  # proc(5): pages; the second number is what is resident


def memory_use(device: torch.device | None = None) -> dict[str, int]:
    """Bytes in use.

    Args:
        device: of a GPU also what torch's allocator has given out there.

    Returns:
        "process_bytes": resident memory of this process (where the system does not tell, its peak), and on a
        GPU "device_bytes" and "device_peak_bytes".

    >>> memory_use()["process_bytes"] > 0
    True
    """
    used = {"process_bytes": _resident()}
    if device is not None and device.type == "cuda":
        used["device_bytes"] = torch.cuda.memory_allocated(device)
        used["device_peak_bytes"] = torch.cuda.max_memory_allocated(device)
    return used


def _resident() -> int:
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource  # not there on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
