"""Figures as CSV and JSON, with everything that they depend on."""

from __future__ import annotations

import csv
import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch

import seo_kernels as sk
from seo_kernels.benchmark.comparison import Comparison, Figures
from seo_kernels.benchmark.measuring import fma_peak, peak_rate

Row = dict[str, Any]


def environment(device: str = "cpu") -> Row:
    """The machine and the versions that the figures hold for."""
    facts = sk.info()
    return {
        "device": device,
        **(_gpu() if device == "cuda" else {}),
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "cpu_capability": facts["cpu_capability"],
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "seo_kernels": facts["version"],
        "compiler": facts["compiler"],
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "fma_peak_float32_gflops": fma_peak(torch.float32),
        "fma_peak_bfloat16_gflops": fma_peak(torch.bfloat16),
    }


def _gpu() -> Row:
    facts = torch.cuda.get_device_properties(0)
    return {
        "gpu": facts.name,
        "gpu_compute_capability": f"{facts.major}.{facts.minor}",
        "gpu_multiprocessors": facts.multi_processor_count,
        "gpu_memory_bytes": facts.total_memory,
        "cuda": torch.version.cuda,
        "cuda_archs": " ".join(sk.info()["cuda_archs"]),
        "product_float32_gflops": peak_rate(torch.float32, "cuda"),
        "product_bfloat16_gflops": peak_rate(torch.bfloat16, "cuda"),
    }


def machine_name(device: str = "cpu") -> str:
    """For files that hold this machine's figures: ``"amd-epyc-avx512_bf16"``, ``"nvidia-h200"``."""
    if device == "cuda":
        return "-".join(re.findall(r"[a-z0-9]+", torch.cuda.get_device_name(0).lower()))
    words = re.sub(r"\((R|TM)\)|\bProcessor\b|\bCPU\b|@.*", " ", _cpu_model())
    return "-".join([*re.findall(r"[a-z0-9]+", words.lower()), str(sk.info()["cpu_capability"])])


def describe_case(comparison: Comparison) -> Row:
    """What the case is, its floors, and its memory.

    ``memory_ratio`` is peak memory over the bytes of the tensors; where ``memory_beside`` is a peer, what is
    beyond those bytes over what the peer takes beyond its own.
    """
    case, memory = comparison.case, comparison.memory
    peer = None if memory is None else memory.peer
    return {
        "case": case.name,
        "title": case.title,
        "share_floor": case.share_floor,
        "copy_floor": case.copy_floor,
        "memory_floor": None if case.memory_floor is None else case.memory_floor.amount,
        "memory_beside": None if case.memory_floor is None else case.memory_floor.beside,
        "memory_ratio": None if memory is None else memory.ratio,
        "memory_peak_bytes": None if memory is None else memory.ours.peak,
        "memory_tensors_bytes": None if memory is None else memory.ours.tensors,
        "memory_peer_peak_bytes": None if peer is None else peer.peak,
        "memory_peer_tensors_bytes": None if peer is None else peer.tensors,
        "refused": comparison.refused,
        "skipped": comparison.skipped,
    }


def describe_figures(figures: Figures) -> Row:
    """A contender: what it computed, its quantiles, and for a peer how much faster ours is.

    ``ratio`` is the peer's median time over ours, or our rate over the peer's where its floor is of rates;
    ``ratio_floor`` what is asked of it, and ``measured`` the same in the words of ``floor``.
    """
    contender, timing = figures.contender, figures.timing
    problem, floor = contender.problem, contender.floor
    quantiles = dict.fromkeys(("rounds", "min_ms", "q10_ms", "q25_ms", "median_ms", "q75_ms", "q90_ms"))
    reached = None
    if floor is not None and figures.speedup is not None:
        reached = figures.speedup >= floor.speedup
    return {
        "contender": contender.name,
        "sizes": problem.sizes,
        "dtype": problem.dtype_name,
        **problem.details,
        "backward": problem.backward,
        **(quantiles if timing is None else asdict(timing)),
        "error": contender.error,
        "gflops": figures.gflops,
        "share_of_peak": figures.share_of_peak,
        "copy_bandwidth_gbytes": figures.copy_bandwidth,
        "share_of_copy": figures.share_of_copy,
        "ratio": figures.speedup,
        "ratio_floor": None if floor is None else floor.speedup,
        "floor": None if floor is None else floor.text,
        "measured": None if floor is None or figures.speedup is None else floor.describe(figures.speedup),
        "floor_reached": reached,
        "missing": contender.missing,
    }


def as_json(comparisons: Sequence[Comparison], device: str = "cpu") -> dict[str, Any]:
    """{"environment": {...}, "cases": [{..., "contenders": [{...}, ...]}, ...]}"""
    cases = [
        {**describe_case(comparison), "contenders": [describe_figures(f) for f in comparison.figures]}
        for comparison in comparisons
    ]
    return {"environment": environment(device), "cases": cases}


def write_json(path: Path, comparisons: Sequence[Comparison], device: str = "cpu") -> None:
    path.write_text(json.dumps(as_json(comparisons, device), indent=1) + "\n")


def write_csv(path: Path, comparisons: Sequence[Comparison], device: str = "cpu") -> None:
    """A line per case and contender; the environment is repeated in each."""
    report = as_json(comparisons, device)
    rows: list[Row] = []
    for case in report["cases"]:
        contenders = case.pop("contenders") or [{}]  # a case without figures has a line too
        rows += [{**case, **contender, **report["environment"]} for contender in contenders]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
