"""What the compiler made of the GPU's kernels, written to benchmarks/results/cuda_static.md; takes no GPU.

    python benchmarks/cuda_static.py [--library FILE] [--output FILE]

Per kernel and architecture, read from the machine code by cuobjdump (PyPI: nvidia-cuda-cuobjdump and
nvidia-cuda-nvdisasm): registers, shared memory, how many blocks fit a multiprocessor, accesses of 16 bytes;
products on tensor cores (HMMA by warps, HGMMA by warpgroups) and copies of boxes (UTMALDG); from the logs of
the build, what was spilled to local memory, and warnings that products wait for each other. Exits with 1
where a kernel does not keep RULES, spills though it is hot, or leaves room for fewer blocks at once than it
is made for.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "seo_kernels" / "lib" / "libseo_kernels_cuda.so"
LOGS = ROOT / "build" / "cuda"  # of csrc/cuda/build.py
OUTPUT = ROOT / "benchmarks" / "results" / "cuda_static.md"
# what ptxas says where products or registers do not come out as meant
WARNINGS = ("wgmma.mma_async instructions are serialized", "setmaxnreg ignored")


@dataclass(frozen=True)
class Rule:
    """What holds for kernels by name: the first that fits.

    needs: instructions, and what each is there for. cold: of which kernels spills are of no account: float64,
    what serves odd strides, heads of more than 128.
    """

    name: str
    needs: Mapping[str, str] = field(default_factory=dict)
    cold: str = r"double|, 1>$|256(, false)?>$"


_ATTENTION_256 = r"Attention\w*<\w+, 256"
RULES = (
    Rule(
        r"(BiasAct|GatedAct)(?!.*(double|, 1>$))",
        {"LDG.128": "loads of 16 bytes", "STG.128": "stores of 16 bytes"},
    ),
    Rule(
        "sm90::",
        {"HGMMA": "products on tensor cores by warpgroups", "UTMALDG": "copies of boxes"},
        cold=_ATTENTION_256,
    ),
    Rule(r"(sm80::\w+Mma|Matmul)<", {"HMMA": "products on tensor cores"}, cold=_ATTENTION_256),
    Rule(""),
)


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


COUNTED = ("LDG.128", "STG.128", "HMMA", "HGMMA", "UTMALDG")


@dataclass
class Code:
    """One kernel for one architecture."""

    registers: int
    counts: Counter[str] = field(default_factory=Counter)  # of the instructions that are COUNTED
    spilled_bytes: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """Name and template arguments as in the source; threads and bytes of shared memory of a block.

    blocks: how many are to fit a multiprocessor at once.
    """

    name: str
    threads: int
    shared_bytes: int
    blocks: int = 1


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
        name, _, kind = instruction.partition(".")
        wide = name + ".128" if "128" in kind.split(".") else name
        if wide in COUNTED:
            found[names[symbol]][arch].counts[wide] += 1
    for arch, symbol, spilled, warnings in read_logs():
        if symbol in names and arch in found[names[symbol]]:
            code = found[names[symbol]][arch]
            code.spilled_bytes, code.warnings = spilled, warnings
    return dict(sorted(found.items(), key=lambda entry: entry[0].name))


def read_logs() -> Iterator[tuple[str, str, int, tuple[str, ...]]]:
    """What ptxas says of each kernel: bytes stored to local memory and loaded from there, and WARNINGS."""
    logs = sorted(LOGS.glob("*.log"))
    if not logs:
        raise SystemExit(f"no logs in {LOGS}: `make cuda` writes them")
    for log in logs:
        arch = symbol = ""
        lines = log.read_text().splitlines()
        warned = [(text, line) for line in lines for text in WARNINGS if text in line]
        for line in lines:
            if match := re.search(r"Compiling entry function '(\S+)' for 'sm_(\w+)'", line):
                symbol, arch = match.groups()
            elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
                texts = tuple(sorted({text for text, where in warned if symbol in where}))
                yield arch, symbol, int(match[1]) + int(match[2]), texts


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
    match = re.search(r"run_blocks<(.+), (\d+), (\d+)(?:ul)?, (\d+)>\(", text)
    if match is None:
        raise SystemExit(f"{text}: expected run_blocks<Kernel, threads, shared bytes, blocks at once>")
    name = re.sub(
        r"\((seo_kernels::cuda::)?\w+\)|seo_kernels::(cuda::)?|\(anonymous namespace\)::|_GLOBAL__N_\w+::",
        "",
        match[1],
    )
    return Kernel(name, int(match[2]), int(match[3]), int(match[4]))


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


def rule_of(kernel: Kernel) -> Rule:
    return next(rule for rule in RULES if re.match(rule.name, kernel.name))


def complaints(kernels: dict[Kernel, dict[str, Code]]) -> Iterator[str]:
    for kernel, codes in kernels.items():
        rule = rule_of(kernel)
        for arch, code in codes.items():
            where = f"on sm_{arch}"
            if code.spilled_bytes and not re.search(rule.cold, kernel.name):
                yield f"{kernel.name} spills {code.spilled_bytes} bytes {where}"
            for instruction, purpose in rule.needs.items():
                if not code.counts[instruction]:
                    yield f"{kernel.name} has no {purpose} ({instruction}) {where}"
            yield from (f"{kernel.name}: ptxas says {text} {where}" for text in code.warnings)
            # the others have less shared memory than kernels are made for
            blocks = blocks_per_multiprocessor(kernel, arch, code.registers)
            if arch in ("80", "90", "90a") and blocks < kernel.blocks:
                yield f"{kernel.name}: {blocks} blocks at once {where}, made for {kernel.blocks}"


def _ascending(archs: Iterable[str]) -> list[str]:
    return sorted(archs, key=lambda arch: (int(arch.rstrip("a")), arch))


def report(kernels: dict[Kernel, dict[str, Code]]) -> str:
    archs = _ascending({arch for codes in kernels.values() for arch in codes})
    lines = [
        "# The GPU's kernels as compiled",
        "",
        "Written by `make cuda-report`; no GPU takes part. Per architecture: registers of a thread, and the",
        "share of the threads that a multiprocessor can hold (occupancy). 16-byte accesses, products on",
        "tensor cores by warps (HMMA) and by warpgroups (HGMMA), and copies of boxes (UTMALDG) are counted",
        "in the code for the last architecture that a kernel has. Bytes that are spilled to local memory,",
        "where there are any.",
        "",
        "| kernel | threads | shared bytes | 16-byte loads, stores | HMMA, HGMMA, UTMALDG | "
        + " | ".join(f"sm_{a}" for a in archs)
        + " |",
        "| --- | --- | --- | --- | --- | " + " | ".join("---" for _ in archs) + " |",
    ]
    for kernel, codes in kernels.items():
        cells = [_cell(kernel, arch, codes.get(arch)) for arch in archs]
        counts = codes[_ascending(codes)[-1]].counts
        wide, engines = (
            ", ".join(str(counts[name]) for name in names) for names in (COUNTED[:2], COUNTED[2:])
        )
        shared = kernel.shared_bytes if kernel.shared_bytes > 1 else 0  # an empty struct has a byte
        lines.append(
            f"| `{kernel.name}` | {kernel.threads} | {shared} | {wide} | {engines} | {' | '.join(cells)} |"
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
