"""Time and memory of named sections of a program, with torch's profiler inside where it is asked for."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from seo_kernels._library import freed_results_kept
from seo_kernels.diagnostics.memory_use import memory_use
from seo_kernels.diagnostics.report_files import write_atomically
from seo_kernels.ops.checks import kind

SORT_KEYS = (
    "count",
    "cpu_time",
    "cpu_time_total",
    "self_cpu_time_total",
    "device_time",
    "device_time_total",
    "self_device_time_total",
    "cpu_memory_usage",
    "self_cpu_memory_usage",
    "device_memory_usage",
    "self_device_memory_usage",
)


@dataclass
class _Section:
    """The runs of one section so far."""

    count: int = 0
    failed: int = 0
    total: float = 0.0
    shortest: float = math.inf
    longest: float = 0.0
    growth: int = 0
    peak: int = 0

    def summary(self) -> dict[str, Any]:
        return {
            "count": self.count,
            "failed": self.failed,
            "total_duration": self.total,
            "avg_duration": self.total / self.count,
            "min_duration": self.shortest,
            "max_duration": self.longest,
            "avg_memory_growth_bytes": self.growth / self.count,
            "peak_memory_bytes": self.peak,
        }


class AutogradProfiler:
    """Times named sections; sections may lie inside each other and may be entered again and again.

    Memory is that of torch's allocator on a GPU, whose peak statistics are reset by each section; without a
    GPU it is what the process holds at the beginning and at the end of a section. One thread at a time.

    Args:
        operators: record every operator inside the outermost sections with ``torch.profiler``, for
            ``operator_table`` and ``export_chrome_trace``; of each section's name the latest run is kept.
            This slows sections down.
        record_shapes: with the operators, the shapes that they are called with; the table has a row per
        shape. profile_memory: with the operators, the memory that they allocate. with_stack: with the
        operators, the lines of the program that called them; in the trace. synchronize: wait for the GPU at
        both ends of a section, so that its time is that of the work in it.

    Raises:
        TypeError: an option is not True or False.
        ValueError: what belongs to the operators without ``operators``.

    >>> profiler = AutogradProfiler()
    >>> for _ in range(3):
    ...     with profiler.profile_autograd("product"):
    ...         _ = torch.randn(8, 8) @ torch.randn(8, 8)
    >>> summary = profiler.get_profile_summary()
    >>> summary["count"], list(summary["sections"]), summary["avg_duration"] > 0.0
    (3, ['product'], True)
    """

    def __init__(
        self,
        *,
        operators: bool = False,
        record_shapes: bool = False,
        profile_memory: bool = False,
        with_stack: bool = False,
        synchronize: bool = True,
    ) -> None:
        options = {
            "operators": operators,
            "record_shapes": record_shapes,
            "profile_memory": profile_memory,
            "with_stack": with_stack,
            "synchronize": synchronize,
        }
        for name, value in options.items():
            if not isinstance(value, bool):
                raise TypeError(f"{name} is {kind(value)}, expected True or False")
        for name in ("record_shapes", "profile_memory", "with_stack"):
            if options[name] and not operators:
                raise ValueError(f"{name} is True, expected operators=True with it: it is about operators")
        self.operators = operators
        self.record_shapes = record_shapes
        self.profile_memory = profile_memory
        self.with_stack = with_stack
        self.synchronize = synchronize
        self.reset()

    def reset(self) -> None:
        """Forget all sections.

        Raises:
            RuntimeError: inside a section.
        """
        if getattr(self, "_running", None):
            raise RuntimeError("reset inside a section, expected it outside")
        self._sections: dict[str, _Section] = {}
        self._profiles: dict[str, profile] = {}
        # of the sections that are running, outermost first: device, and the most memory in use so far
        self._running: list[tuple[torch.device | None, int]] = []

    @contextmanager
    def profile_autograd(self, name: str) -> Iterator[None]:
        """Time what happens inside. A section that raises counts, and is counted as failed as well.

        Args:
            name: of the section.

        Raises:
            TypeError, ValueError: the name is no text, or empty.
        """
        if not isinstance(name, str):
            raise TypeError(f"name is {kind(name)}, expected the name of the section")
        if not name:
            raise ValueError("name is empty, expected the name of the section")
        recorded = self._recorder() if self.operators and not self._running else None
        try:
            with ExitStack() as stack:
                if recorded is not None:
                    if self.profile_memory:
                        stack.enter_context(freed_results_kept(0))
                    stack.enter_context(recorded)
                stack.enter_context(record_function(name))
                with self._timed(name):
                    yield
        finally:
            if recorded is not None:
                self._profiles.pop(name, None)  # the latest run is the last entry
                self._profiles[name] = recorded

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        device = _gpu()
        used = self._begin_memory(device)
        failed = True
        start = self._now(device)
        try:
            yield
            failed = False
        finally:
            duration = self._now(device) - start
            now, peak = self._end_memory(device)
            section = self._sections.setdefault(name, _Section())
            section.count += 1
            section.failed += failed
            section.total += duration
            section.shortest = min(section.shortest, duration)
            section.longest = max(section.longest, duration)
            section.growth += now - used
            section.peak = max(section.peak, peak)

    def get_profile_summary(self) -> dict[str, Any]:
        """Durations in seconds, memory in bytes.

        Returns:
            "avg_duration", "total_duration" and "count" over the runs of all sections (0 before the first),
            and "sections": by name "count", "failed", "total_duration", "avg_duration", "min_duration",
            "max_duration", "avg_memory_growth_bytes" and "peak_memory_bytes".
        """
        sections = self._sections.values()
        count, total = sum(s.count for s in sections), sum(s.total for s in sections)
        return {
            "avg_duration": total / count if count else 0.0,
            "total_duration": total,
            "count": count,
            "sections": {name: section.summary() for name, section in self._sections.items()},
        }

    def operator_table(
        self, name: str | None = None, *, sort_by: str = "self_cpu_time_total", rows: int = 20
    ) -> str:
        """The operators of a section's latest run: calls, time, and memory if it was asked for.

        Args:
            name: of the section; None: the one that was recorded last.
            sort_by: one of ``SORT_KEYS``.
            rows: the most to show.

        Raises:
            TypeError, ValueError: the name, the key or the number is none.
            RuntimeError: nothing is recorded.
        """
        if sort_by not in SORT_KEYS:
            raise ValueError(f"sort_by is {sort_by!r}, expected one of {', '.join(SORT_KEYS)}")
        if not isinstance(rows, int) or isinstance(rows, bool):
            raise TypeError(f"rows is {kind(rows)}, expected an int > 0")
        if rows < 1:
            raise ValueError(f"rows is {rows}, expected an int > 0")
        averages = self._profile(name).key_averages(group_by_input_shape=self.record_shapes)
        return str(averages.table(sort_by=sort_by, row_limit=rows))

    def export_chrome_trace(self, path: str | os.PathLike[str], name: str | None = None) -> Path:
        """Write a section's latest run as a trace for chrome://tracing or Perfetto.

        Args:
            path: ends in .json, or in .json.gz to be compressed.
            name: of the section; None: the one that was recorded last.

        Returns:
            The path.

        Raises:
            ValueError: the path ends otherwise, or there is no such section.
            RuntimeError: nothing is recorded.
            OSError: the path cannot be written.
        """
        target = Path(path)
        suffix = next((end for end in (".json", ".json.gz") if target.name.endswith(end)), None)
        if suffix is None:
            raise ValueError(f"path is {str(path)!r}, expected one that ends in .json or .json.gz")
        recorded = self._profile(name)
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder) / f"trace{suffix}"
            recorded.export_chrome_trace(str(trace))
            return write_atomically(target, trace.read_bytes())

    def _recorder(self) -> profile:
        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
        return profile(
            activities=activities,
            record_shapes=self.record_shapes,
            profile_memory=self.profile_memory,
            with_stack=self.with_stack,
            acc_events=True,
        )

    def _profile(self, name: str | None) -> profile:
        if not self.operators:
            raise RuntimeError("nothing is recorded: expected AutogradProfiler(operators=True)")
        if not self._profiles:
            raise RuntimeError("nothing is recorded yet: expected a section before")
        if name is None:
            return list(self._profiles.values())[-1]
        if name not in self._profiles:
            known = ", ".join(self._profiles)
            raise ValueError(f"name is {name!r}, expected one of the outermost sections: {known}")
        return self._profiles[name]

    def _now(self, device: torch.device | None) -> float:
        if device is not None and self.synchronize:
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def _begin_memory(self, device: torch.device | None) -> int:
        """What is in use now; from here on the device's peak is this section's."""
        if device is not None:
            self._note_peak(device, torch.cuda.max_memory_allocated(device))
            torch.cuda.reset_peak_memory_stats(device)
        used = _in_use(device)
        self._running.append((device, used))
        return used

    def _end_memory(self, device: torch.device | None) -> tuple[int, int]:
        """What is in use now, and the section's peak, which is a part of the outer one's."""
        used = _in_use(device)
        highest = used if device is None else torch.cuda.max_memory_allocated(device)
        peak = max(self._running.pop()[1], highest)
        self._note_peak(device, peak)
        return used, peak

    def _note_peak(self, device: torch.device | None, peak: int) -> None:
        """For the innermost running section, if it is about that device."""
        if self._running and self._running[-1][0] == device:
            self._running[-1] = device, max(self._running[-1][1], peak)


def _gpu() -> torch.device | None:
    """The GPU that this process works on, if it does."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.device("cuda", torch.cuda.current_device())
    return None


def _in_use(device: torch.device | None) -> int:
    return memory_use(device)["process_bytes" if device is None else "device_bytes"]
