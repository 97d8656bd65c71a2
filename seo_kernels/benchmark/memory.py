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
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from seo_kernels.benchmark.case import Case
from seo_kernels.benchmark.problem import Engine, Inputs, Problem, Results

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
LOWER_HIGH_WATER_MARK = "5"  # proc(5)


@dataclass(frozen=True)
class PeakMemory:
    """``tensors``: bytes of inputs, output and gradients; ``peak``: of the process while it made them."""

    tensors: int
    peak: int

    @property
    def extra(self) -> int:
        """Bytes that the step took beyond the tensors that a user holds anyway."""
        return self.peak - self.tensors


@dataclass(frozen=True)
class MemoryFigures:
    """Of ours, and of the peer that the case's memory floor names."""

    ours: PeakMemory
    peer: PeakMemory | None

    @property
    def ratio(self) -> float:
        """What the memory floor is for."""
        if self.peer is None:
            return self.ours.peak / self.ours.tensors
        return self.ours.extra / self.peer.extra


def measure_memory(case: Case) -> MemoryFigures | None:
    """Of a case with a memory floor; None for others, on GPUs, and where /proc is missing."""
    if case.memory_floor is None or case.device != "cpu" or not CLEAR_REFS.exists():
        return None
    ours = peak_memory(case.problem, case.engine)
    if case.memory_floor.peer is None:
        return MemoryFigures(ours, None)
    peer = case.peer(case.memory_floor.peer)
    return MemoryFigures(ours, peak_memory(peer.problem or case.problem, peer.engine))


def peak_memory(problem: Problem, engine: Engine) -> PeakMemory:
    """Of one step, on Linux.

    Raises:
        RuntimeError: the process failed; the message has the end of what it said.
    """
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        input=pickle.dumps((problem, engine, torch.get_num_threads())),
        capture_output=True,
        check=False,
    )
    if child.returncode != 0:
        raise RuntimeError(f"the process that measures memory failed: {child.stderr.decode()[-2000:]}")
    return PeakMemory(**json.loads(child.stdout))


def _measure_here(problem: Problem, engine: Engine) -> PeakMemory:
    small = problem.small()
    small.step(engine(small), small.make_inputs())

    before = _status("VmRSS")
    inputs = problem.make_inputs()
    CLEAR_REFS.write_text(LOWER_HIGH_WATER_MARK)
    results = problem.step(engine(problem), inputs)
    return PeakMemory(tensor_bytes(inputs, results), _status("VmHWM") - before)


def tensor_bytes(inputs: Inputs, results: Results) -> int:
    """Bytes of the tensors that a user holds anyway: leaves and output, with a backward their gradients."""
    tensors = [*inputs.leaves.values(), *results.values()]
    if inputs.grad_out is not None:
        tensors.append(inputs.grad_out)
    return sum(tensor.nbytes for tensor in tensors)


def _status(field: str) -> int:
    """Bytes."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{STATUS} has no {field}")


if __name__ == "__main__":
    problem, engine, threads = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(threads)
    json.dump(asdict(_measure_here(problem, engine)), sys.stdout)
