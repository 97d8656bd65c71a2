"""Builds seo_kernels/lib/libseo_kernels_cuda.so wherever nvcc is: it takes no GPU and no CUDA build of torch.

    python csrc/cuda/build.py [FOLDER]

The library, and a JSON file of what it was compiled for, come into FOLDER (by default seo_kernels/lib).

Environment:
    SEO_KERNELS_CUDA_ARCHS    compute capabilities, "75;80;86;89;90" by default; PTX of the last one is added;
                              kernels of sm90a are compiled for 9.0 alone in any case, and run there only
    SEO_KERNELS_CUTLASS       the folder that has CuTe's headers, cute/; by default nvidia-cutlass's (PyPI)
    NVCC                      the compiler, by default nvcc on PATH
    MAX_JOBS                  how many files are compiled at a time
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths, library_paths

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "cuda"
LIBRARY = "libseo_kernels_cuda.so"
ARCHITECTURES = "75;80;86;89;90"
# which compute capability the kernels in a folder need: they are not compiled for less; "a": nor for more
FOLDERS = {"sm80": "80", "sm90": "90a"}
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"
# what is not in a CPU build of torch; the stub stands for the library that has it where there is a GPU
STUB = "int aoti_torch_get_current_cuda_stream(int device, void** stream) { return 1; }\n"


def main(folder: Path) -> None:
    nvcc = os.environ.get("NVCC") or shutil.which("nvcc")
    if not nvcc:
        raise SystemExit("seo_kernels: no nvcc on PATH; install the CUDA toolkit, or name it in NVCC")
    archs = architectures()
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "stub.c").write_text(STUB)
    (BUILD / "build.ninja").write_text(ninja_file(nvcc, archs))
    ninja = shutil.which("ninja") or str(Path(sys.executable).parent / "ninja")
    jobs = os.environ.get("MAX_JOBS", str(len(os.sched_getaffinity(0))))
    if subprocess.run([ninja, "--quiet", "-C", str(BUILD), "-j", jobs]).returncode:
        raise SystemExit(f"seo_kernels: {nvcc} failed, see above")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy2(BUILD / LIBRARY, folder / LIBRARY)
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    facts = {"architectures": archs, "nvcc": re.findall(r"release ([\d.]+)", version)[0]}
    (folder / LIBRARY).with_suffix(".json").write_text(json.dumps(facts) + "\n")


def architectures() -> list[str]:
    """Compute capabilities without the dot, ascending."""
    text = os.environ.get("SEO_KERNELS_CUDA_ARCHS") or ARCHITECTURES
    names = [name for name in re.split(r"[;, ]+", text) if name]
    if not names or not all(re.fullmatch(r"\d{2,3}a?", name) for name in names):
        raise SystemExit(f'seo_kernels: SEO_KERNELS_CUDA_ARCHS is {text!r}, expected as in "{ARCHITECTURES}"')
    return sorted(names, key=lambda name: int(name.rstrip("a")))


def cutlass_headers() -> Path:
    """The folder that has cute/."""
    named = os.environ.get("SEO_KERNELS_CUTLASS")
    package = None if named else importlib.util.find_spec("cutlass_library")
    folder = Path(named or "")
    if package is not None and package.submodule_search_locations:
        folder = Path(package.submodule_search_locations[0]) / "source" / "include"
    if not (folder / "cute" / "arch" / "mma_sm80.hpp").is_file():
        raise SystemExit(
            "seo_kernels: no headers of CuTe"
            + (f" in SEO_KERNELS_CUTLASS={named}" if named else "")
            + ": pip install --no-deps nvidia-cutlass, or name the folder of cute/ in SEO_KERNELS_CUTLASS"
        )
    return folder


def gencode(archs: list[str], least: str) -> str:
    """What nvcc compiles for: all of the architectures that are not below the least, or that one.

    For an "a" architecture: that one alone, as machine code, which no other GPU runs.
    """
    if least.endswith("a"):
        return f"-gencode=arch=compute_{least},code=sm_{least}"
    archs = [arch for arch in archs if int(arch.rstrip("a")) >= int(least)] or [least]
    code = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
    newest = archs[-1].rstrip("a")  # PTX of an "a" architecture runs on no other
    return " ".join([*code, f"-gencode=arch=compute_{newest},code=compute_{newest}"])


def object_of(source: Path) -> str:
    """Folders of kernels have files of the same names."""
    folder = source.parent.name
    return f"{folder}_{source.stem}.o" if folder in FOLDERS else f"{source.stem}.o"


def ninja_file(nvcc: str, archs: list[str]) -> str:
    """Objects of the kernels by nvcc, with what ptxas says in a .log beside; the rest by g++."""
    include = f"-I{ROOT / 'csrc'}"
    torch_include = shlex.join(part for path in include_paths() for part in ("-isystem", path))
    cuda = Path(nvcc).resolve().parent.parent
    cudart = next((str(path) for path in cuda.rglob("libcudart_static.a")), "-lcudart_static")
    libraries = " ".join(f"-L{path}" for path in library_paths())
    kernels = sorted(
        path for folder in (".", *FOLDERS) for path in (ROOT / "csrc" / "cuda" / folder).glob("*.cu")
    )
    cute = cutlass_headers()
    hosts = sorted(
        path for folder in ("torch/cuda", "params") for path in (ROOT / "csrc" / folder).glob("*.cpp")
    )
    objects = [object_of(path) for path in (*kernels, *hosts)]
    lines = [
        "rule nvcc",
        f"  command = {nvcc} -std=c++20 -O3 --expt-relaxed-constexpr -Xcompiler -fPIC,-fvisibility=hidden "
        f"{include} -isystem {cute} $code -Xptxas -v -MD -MF $out.d -c $in -o $out > $out.log 2>&1 "
        "|| (cat $out.log; false)",
        "  depfile = $out.d",
        "rule cxx",
        f"  command = g++ -std=c++20 -O2 -fPIC -fvisibility=hidden -Wall {STABLE_ABI} {include} "
        f"{torch_include} -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "rule stub",
        "  command = gcc -shared -Wl,-soname,libtorch_cuda.so $in -o $out",
        "rule link",
        f"  command = g++ -shared -Wl,-z,defs -Wl,--no-as-needed $in {libraries} -ltorch_cpu {cudart} "
        "-ldl -lrt -lpthread -o $out",
        *(
            f"build {object_of(path)}: nvcc {path}\n"
            f"  code = {gencode(archs, FOLDERS.get(path.parent.name, '0'))}"
            for path in kernels
        ),
        *(f"build {object_of(path)}: cxx {path}" for path in hosts),
        "build libtorch_cuda.so: stub stub.c",
        f"build {LIBRARY}: link {' '.join(objects)} libtorch_cuda.so",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(f"seo_kernels: CUDA kernels for {', '.join(architectures())}, against torch {torch.__version__}")
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "seo_kernels" / "lib")
