"""Peak memory of one step, measured in a process of its own.

The child loads everything and takes a small step of the same kind, so that libraries and threads are in
place, and notes its resident memory (VmRSS). Then it makes the inputs, has Linux lower the high-water mark
(VmHWM) to what is resident, takes one step, and holds the results. Peak memory is the high-water mark less
the resident memory noted before: inputs, results, and whatever else the step needed, as physical pages.
"""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

import seo_kernels as sk
from seo_kernels.benchmark.engines import fused
from seo_kernels.benchmark.problems import Problem, make_inputs, step, tensor_bytes

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
LOWER_HIGH_WATER_MARK = "5"  # proc(5)
SMALL = 256  # rows of the step that is taken first


@dataclass(frozen=True)
class PeakMemory:
    """``tensors``: bytes of inputs, output and gradients; ``peak``: of the process while it made them."""

    tensors: int
    peak: int

    @property
    def ratio(self) -> float:
        return self.peak / self.tensors


def peak_memory(problem: Problem) -> PeakMemory | None:
    """Of one step of ``sk.attention``; None where there is no /proc to read it from."""
    if not CLEAR_REFS.exists():
        return None
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        input=pickle.dumps((problem, torch.get_num_threads())),
        capture_output=True,
        check=False,
    )
    if child.returncode != 0:
        raise RuntimeError(f"the process that measures memory failed: {child.stderr.decode()[-2000:]}")
    return PeakMemory(**json.loads(child.stdout))


def _measure_here(problem: Problem) -> PeakMemory:
    rows, columns = min(SMALL, problem.query_length), min(SMALL, problem.key_length)
    small = replace(problem, query_length=rows, key_length=columns, pattern=sk.Dense())
    inputs = make_inputs(small)
    step(small, fused(small), inputs.leaves, inputs.grad_out)
    del inputs

    before = _status("VmRSS")
    inputs = make_inputs(problem)
    CLEAR_REFS.write_text(LOWER_HIGH_WATER_MARK)
    step(problem, fused(problem), inputs.leaves, inputs.grad_out)
    return PeakMemory(tensor_bytes(problem), _status("VmHWM") - before)


def _status(field: str) -> int:
    """Bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no {field}")


if __name__ == "__main__":
    problem, threads = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(threads)
    json.dump(asdict(_measure_here(problem)), sys.stdout)
