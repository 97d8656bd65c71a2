"""What the compiler made of the GPU's kernels, written to benchmarks/results/cuda_static.md; takes no GPU.

    python benchmarks/cuda_static.py [--library FILE] [--output FILE]

Per kernel and architecture, read from the machine code by cuobjdump (PyPI: nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm): registers, shared memory, how many blocks fit a multiprocessor, accesses of 16 bytes;
products on tensor cores; from the logs of the build, what was spilled to local memory. Exits with 1 where a
hot kernel spills, an elementwise one does not load and store 16 bytes at a time, or one for tensor cores has
no such products, or room for fewer blocks at once than it is made for. Hot are those of float32 and 16 bits
that take several entries at a time, for heads of up to 128: not float64, not what serves odd strides.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "seo_kernels" / "lib" / "libseo_kernels_cuda.so"
LOGS = ROOT / "build" / "cuda"  # of csrc/cuda/build.py
OUTPUT = ROOT / "benchmarks" / "results" / "cuda_static.md"
ELEMENTWISE = ("BiasAct", "GatedAct")
TENSOR_CORES = "sm80::Attention"
BLOCKS = 2  # of heads up to 128 without relative tables, on the architectures whose shared memory allows it


@dataclass(frozen=True)
class Multiprocessor:
    """What the blocks of one multiprocessor share (CUDA C++ Programming Guide, compute capabilities)."""

    threads: int
    blocks: int
    shared_bytes: int
    registers: int = 65536


MULTIPROCESSORS = {
    "75": Multiprocessor(1024, 16, 64 << 10),
    "80": Multiprocessor(2048, 32, 164 << 10),
    "86": Multiprocessor(1536, 16, 100 << 10),
    "89": Multiprocessor(1536, 24, 100 << 10),
    "90": Multiprocessor(2048, 32, 228 << 10),
}
RESERVED_SHARED = 1 << 10  # of each block from compute capability 8.0 on
REGISTER_UNIT = 256  # a warp's registers are allocated in such units


@dataclass
class Code:
    """One kernel for one architecture."""

    registers: int
    wide_loads: int = 0
    wide_stores: int = 0
    tensor_products: int = 0
    spilled_bytes: int = 0


@dataclass(frozen=True)
class Kernel:
    """Name and template arguments as in the source; threads and bytes of shared memory of a block."""

    name: str
    threads: int
    shared_bytes: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--library", type=Path, default=LIBRARY)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    if not options.library.exists():
        raise SystemExit(f"--library is {options.library}, which is not there: `make cuda` builds it")
    kernels = read_library(options.library)
    options.output.write_text(report(kernels))
    faults = list(complaints(kernels))
    print(f"{options.output}: {len(kernels)} kernels", *faults, sep="\n")
    return 1 if faults else 0


def read_library(library: Path) -> dict[Kernel, dict[str, Code]]:
    """Every kernel of the library, and its code by architecture ("90")."""
    found: dict[Kernel, dict[str, Code]] = defaultdict(dict)
    names: dict[str, Kernel] = {}
    for arch, symbol, code in read_resources(library):
        names[symbol] = kernel_of(symbol)
        found[names[symbol]][arch] = code
    for arch, symbol, instruction in read_instructions(library):
        code = found[names[symbol]][arch]
        code.wide_loads += instruction.startswith("LDG") and ".128" in instruction
        code.wide_stores += instruction.startswith("STG") and ".128" in instruction
        code.tensor_products += instruction.startswith("HMMA")
    for arch, symbol, spilled in read_spills():
        if arch in found.get(names.get(symbol), {}):
            found[names[symbol]][arch].spilled_bytes = spilled
    return dict(sorted(found.items(), key=lambda entry: entry[0].name))


def read_spills() -> Iterator[tuple[str, str, int]]:
    """Bytes that ptxas says it stored to local memory and loaded from there for want of registers."""
    logs = sorted(LOGS.glob("*.log"))
    if not logs:
        raise SystemExit(f"no logs in {LOGS}: `make cuda` writes them")
    for log in logs:
        arch = symbol = ""
        for line in log.read_text().splitlines():
            if match := re.search(r"Compiling entry function '(\S+)' for 'sm_(\w+)'", line):
                symbol, arch = match.groups()
            elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
                yield arch, symbol, int(match[1]) + int(match[2])


def read_resources(library: Path) -> Iterator[tuple[str, str, Code]]:
    arch = symbol = ""
    for line in cuobjdump("--dump-resource-usage", library):
        if match := re.search(r"^arch = sm_(\w+)", line):
            arch = match[1]
        elif match := re.search(r"Function (\S+):", line):
            symbol = match[1]
        elif match := re.search(r"REG:(\d+)", line):
            yield arch, symbol, Code(int(match[1]))


def read_instructions(library: Path) -> Iterator[tuple[str, str, str]]:
    arch = symbol = ""
    for line in cuobjdump("--dump-sass", library):
        if match := re.search(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+ )?([A-Z][\w.]+)", line):
            yield arch, symbol, match[1]
        elif match := re.search(r"^arch = sm_(\w+)", line):
            arch = match[1]
        elif match := re.search(r"Function : (\S+)", line):
            symbol = match[1]


def cuobjdump(option: str, library: Path) -> Iterator[str]:
    """The lines that it prints; it is looked for on PATH, then among the installed packages."""
    folders = sorted(Path(sysconfig.get_path("purelib"), "nvidia").glob("*/bin"))
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, folders)])
    program = shutil.which("cuobjdump", path=path)
    if program is None or shutil.which("nvdisasm", path=path) is None:
        raise SystemExit("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    command = [program, option, str(library)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": path}
    ) as run:
        assert run.stdout is not None
        yield from run.stdout
    if run.returncode:
        raise SystemExit(f"{' '.join(command)} failed")


def kernel_of(symbol: str) -> Kernel:
    text = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout
    match = re.search(r"run_blocks<(.+), (\d+), (\d+)(?:ul)?>\(", text)
    if match is None:
        raise SystemExit(f"{text}: expected run_blocks<Kernel, threads, shared bytes>")
    name = re.sub(
        r"\((seo_kernels::cuda::)?\w+\)|seo_kernels::(cuda::)?|\(anonymous namespace\)::|_GLOBAL__N_\w+::",
        "",
        match[1],
    )
    return Kernel(name, int(match[2]), int(match[3]))


def blocks_per_multiprocessor(kernel: Kernel, arch: str, registers: int) -> int:
    """How many blocks run side by side on one multiprocessor."""
    has = MULTIPROCESSORS[arch.rstrip("a")]
    warps = -(-kernel.threads // 32)
    of_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    shared = kernel.shared_bytes + (RESERVED_SHARED if int(arch.rstrip("a")) >= 80 else 0)
    return min(
        has.blocks,
        has.threads // (32 * warps),
        has.registers // (of_warp * warps),
        has.shared_bytes // max(shared, 1),
    )


def complaints(kernels: dict[Kernel, dict[str, Code]]) -> Iterator[str]:
    for kernel, codes in kernels.items():
        if not _is_hot(kernel.name):
            continue
        for arch, code in codes.items():
            if code.spilled_bytes:
                yield f"{kernel.name} spills {code.spilled_bytes} bytes on sm_{arch}"
            if kernel.name.startswith(ELEMENTWISE) and not (code.wide_loads and code.wide_stores):
                yield f"{kernel.name} moves less than 16 bytes at a time on sm_{arch}"
    yield from _tensor_core_complaints(kernels)


def _is_hot(name: str) -> bool:
    if name.startswith(TENSOR_CORES):
        return "256" not in name
    return "double" not in name and not name.endswith((", 1>", "256>", "256, false>"))


def _tensor_core_complaints(kernels: dict[Kernel, dict[str, Code]]) -> Iterator[str]:
    for kernel, codes in kernels.items():
        if not kernel.name.startswith(TENSOR_CORES):
            continue
        for arch, code in codes.items():
            if not code.tensor_products:
                yield f"{kernel.name} has no products on tensor cores on sm_{arch}"
            blocks = blocks_per_multiprocessor(kernel, arch, code.registers)
            meant = arch in ("80", "90") and "256" not in kernel.name and not kernel.name.endswith("2>")
            if meant and blocks < BLOCKS:
                yield f"{kernel.name}: {blocks} blocks at once on sm_{arch}, made for {BLOCKS}"


def report(kernels: dict[Kernel, dict[str, Code]]) -> str:
    archs = sorted(
        {arch for codes in kernels.values() for arch in codes}, key=lambda arch: int(arch.rstrip("a"))
    )
    newest = archs[-1]
    lines = [
        "# The GPU's kernels as compiled",
        "",
        "Written by `make cuda-report`; no GPU takes part. Per architecture: registers of a thread, and the",
        "share of the threads that a multiprocessor can hold (occupancy). 16-byte accesses, and products on",
        f"tensor cores (HMMA), are counted in the code for sm_{newest}. Bytes that are spilled to local",
        "memory, where there are any.",
        "",
        "| kernel | threads | shared bytes | 16-byte loads, stores | tensor products | "
        + " | ".join(f"sm_{a}" for a in archs)
        + " |",
        "| --- | --- | --- | --- | --- | " + " | ".join("---" for _ in archs) + " |",
    ]
    for kernel, codes in kernels.items():
        cells = [_cell(kernel, arch, codes.get(arch)) for arch in archs]
        code = codes.get(newest)
        wide = f"{code.wide_loads}, {code.wide_stores}" if code else "-"
        shared = kernel.shared_bytes if kernel.shared_bytes > 1 else 0  # an empty struct has a byte
        products = code.tensor_products if code else "-"
        lines.append(
            f"| `{kernel.name}` | {kernel.threads} | {shared} | {wide} | {products} | {' | '.join(cells)} |"
        )
    return "\n".join(lines) + "\n"


def _cell(kernel: Kernel, arch: str, code: Code | None) -> str:
    if code is None:
        return "-"
    blocks = blocks_per_multiprocessor(kernel, arch, code.registers)
    share = blocks * kernel.threads / MULTIPROCESSORS[arch.rstrip("a")].threads
    spills = f", spills {code.spilled_bytes} bytes" if code.spilled_bytes else ""
    return f"{code.registers}, {100 * share:.0f} %{spills}"


if __name__ == "__main__":
    sys.exit(main())
