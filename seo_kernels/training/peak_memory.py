"""How much memory a stretch of code needed, measured in this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from seo_kernels._library import freed_results_kept
from seo_kernels.diagnostics.memory_use import memory_use

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
LOWER_HIGH_WATER_MARK = "5"  # proc(5)


@dataclass(eq=False)
class MemoryUse:
    """What ``measured_memory`` found; filled in at its end.

    Args:
        before, after: bytes in use: of tensors on a GPU; resident in the process on the CPU.
        peak: the most bytes in use at once, less ``before``; None where the system can't tell.
    """

    before: int = 0
    after: int = 0
    peak: int | None = None


@contextlib.contextmanager
def measured_memory(device: torch.device) -> Iterator[MemoryUse]:
    """Memory of the block: of PyTorch's allocator on a GPU, of the process's pages on the CPU.

    On Linux, memory that is free already goes back to the system first, so that taking it again counts, and
    the process's high-water mark (VmHWM) starts anew. Elsewhere the peak on the CPU stays None. Blocks may
    lie within each other.
    """
    release_memory(device)
    _note_peaks(device)
    use = MemoryUse(before=memory_in_use(device))
    if _reset_peak(device):
        use.peak = 0
    _measuring.append((device, use))
    try:
        yield use
    finally:
        _note_peaks(device)
        _measuring.remove((device, use))
        use.after = memory_in_use(device)


_measuring: list[tuple[torch.device, MemoryUse]] = []  # the blocks that have begun


def _note_peaks(device: torch.device) -> None:
    """Into every block that has begun: the peak is about to be reset, or asked for."""
    for where, use in _measuring:
        if where == device and use.peak is not None:
            use.peak = max(use.peak, _peak(device) - use.before)


def peak_is_known(device: torch.device) -> bool:
    """Whether ``measured_memory`` finds a peak: on GPUs, and of a process on Linux."""
    return device.type == "cuda" or os.access(CLEAR_REFS, os.W_OK)


def memory_in_use(device: torch.device) -> int:
    """Bytes: of tensors on a GPU, resident in this process on the CPU."""
    used = memory_use(device)
    return used["device_bytes" if device.type == "cuda" else "process_bytes"]


def release_memory(device: torch.device) -> None:
    """Give back to the system what allocators keep for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with freed_results_kept(0):
        pass
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def system_memory() -> int:
    """Bytes of memory that the machine has; 0 where the system doesn't tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def _reset_peak(device: torch.device) -> bool:
    """Whether the peak is known from here on."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        CLEAR_REFS.write_text(LOWER_HIGH_WATER_MARK)
    except OSError:
        return False
    return True


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _high_water_mark()


def _high_water_mark() -> int:
    """Bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no VmHWM")
