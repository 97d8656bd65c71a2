"""Peak memory of one step, measured in a process of its own.

The child loads everything and takes a small step of the same kind, so that libraries and threads are in
place, and notes its resident memory (VmRSS). Then it makes the inputs, has Linux lower the high-water mark
(VmHWM) to what is resident, takes one step, and holds the results. Peak memory is the high-water mark less
the resident memory noted before: inputs, results, and whatever else the step needed, as physical pages.

On a GPU the allocator of PyTorch knows: the same, in this process.
"""

from __future__ import annotations

import functools
import json
import pickle
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from seo_kernels._extras import MissingExtraError
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
    """Of a case with a memory floor; None for others, where /proc is missing, and beside an absent peer."""
    if case.memory_floor is None or (case.device == "cpu" and not CLEAR_REFS.exists()):
        return None
    measure = peak_memory if case.device == "cpu" else functools.partial(_gpu_memory, device=case.device)
    ours = measure(case.problem, case.engine)
    if case.memory_floor.peer is None:
        return MemoryFigures(ours, None)
    peer = case.peer(case.memory_floor.peer)
    try:
        return MemoryFigures(ours, measure(peer.problem or case.problem, peer.engine))
    except MissingExtraError:
        return None


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


def _gpu_memory(problem: Problem, engine: Engine, device: str) -> PeakMemory:
    with torch.device(device):
        small = problem.small()
        small.step(engine(small), small.make_inputs())  # the library's own memory is there from now on
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        inputs = problem.make_inputs()
        forward = engine(problem)
        torch.cuda.reset_peak_memory_stats()
        results = problem.step(forward, inputs)
        torch.cuda.synchronize()
        return PeakMemory(tensor_bytes(inputs, results), torch.cuda.max_memory_allocated() - before)


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
