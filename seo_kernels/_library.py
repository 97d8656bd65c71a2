"""The compiled libraries: loaded when this module is imported, and if that fails, why.

Everything that asks whether a kernel serves asks here.
"""

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent / "lib"
_CPU_LIBRARY = _FOLDER / "libseo_kernels_cpu.so"
_CUDA_LIBRARY = _FOLDER / "libseo_kernels_cuda.so"
_CUDA_FACTS = _FOLDER / "libseo_kernels_cuda.json"  # what csrc/cuda/build.py built
_BUILD_FAILURE = _FOLDER / "build_failure.txt"


def _load() -> str:
    """Load the library, which registers ``torch.ops.seo_kernels``; "" or why that is not possible."""
    if not _CPU_LIBRARY.exists():
        if _BUILD_FAILURE.exists():
            return _BUILD_FAILURE.read_text().strip()
        return f"{_CPU_LIBRARY} has not been built; `make build` or `pip install .` builds it"
    return _load_file(_CPU_LIBRARY)


def _load_cuda() -> str:
    """Load the kernels for GPUs, beside the ops of the first library; "" or why that is not possible."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA"
    if not _CUDA_LIBRARY.exists():
        return (
            f"{_CUDA_LIBRARY} has not been built; `make cuda` or SEO_KERNELS_CUDA=1 pip install . builds it"
        )
    return _CPU_REASON or _load_file(_CUDA_LIBRARY)


def _load_file(library: Path) -> str:
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"{library} does not load under torch {torch.__version__}: {error}"
    return ""


_CPU_REASON = _load()
_CUDA_REASON = _load_cuda()
_gpu_reasons: dict[int, str] = {}  # of those asked for
_warned = False


@contextlib.contextmanager
def freed_results_kept(most: int) -> Iterator[None]:
    """Within, at most this many bytes of the CPU kernels' freed results wait for the next ones.

    What waited beyond goes back to the system. Results that lie in memory of this kind are unknown to
    torch's profiler: with 0 it knows all of them.
    """
    if _CPU_REASON:
        yield
        return
    before = torch.ops.seo_kernels.keep_freed_results(most)
    try:
        yield
    finally:
        torch.ops.seo_kernels.keep_freed_results(before)


def available(device: torch.device | str) -> bool:
    """Whether compiled kernels serve tensors on this device ("cpu", "cuda", torch.device("cuda:1"), ...)."""
    return not reason(device)


def reason(device: torch.device | str = "cpu") -> str:
    """Why no compiled kernel serves this device; "" where one does. A type stands for all its devices."""
    kind = device if isinstance(device, str) else device.type
    if kind == "cpu":
        return _CPU_REASON
    if kind != "cuda":
        return f"this build has no kernels for {kind}"
    index = None if isinstance(device, str) else device.index
    return _CUDA_REASON if _CUDA_REASON or index is None else _gpu_reason(index)


@torch.compiler.assume_constant_result
def _gpu_reason(index: int) -> str:
    """Why the kernels that were built do not run on this GPU."""
    if index not in _gpu_reasons:
        capability = torch.cuda.get_device_capability(index)
        built = cuda_architectures()
        name = f"cuda:{index} ({torch.cuda.get_device_name(index)})"
        _gpu_reasons[index] = (
            ""
            if _runs_on(capability, built)
            else f"{name} has compute capability {capability[0]}.{capability[1]}, and the kernels were built "
            f"for {', '.join(built)}: name it in SEO_KERNELS_CUDA_ARCHS and build again"
        )
    return _gpu_reasons[index]


def cuda_architectures() -> list[str]:
    """What the kernels for GPUs were compiled for, ascending; PTX of the last one serves newer ones."""
    return list(json.loads(_CUDA_FACTS.read_text())["architectures"]) if _CUDA_FACTS.exists() else []


def _runs_on(capability: tuple[int, int], built: list[str]) -> bool:
    """Code runs on its own major version from its minor version on, and PTX on whatever is newer."""
    archs = [(int(name[:-1]), int(name[-1])) for name in (entry.rstrip("a") for entry in built)]
    same = any(arch[0] == capability[0] and arch[1] <= capability[1] for arch in archs)
    return same or (bool(archs) and archs[-1] <= capability)


@torch.compiler.assume_constant_result  # under torch.compile it runs once, while tracing
def warn_once(device: torch.device | str = "cpu") -> None:
    """Say that the plain-torch reference serves, and why: once per process."""
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        f"seo_kernels runs on its plain-torch reference, which is slow: {reason(device)}",
        RuntimeWarning,
        stacklevel=3,
    )


def info() -> dict[str, Any]:
    """What is built and what it runs on, ready for JSON.

    Returns:
        version, torch (its version), native (whether the compiled library serves), reason (why not, or None),
        cpu_capability (the instruction set in use, or None), cpu_libraries (the instruction sets built),
        cuda_archs (the GPU architectures built), cuda_reason (why GPUs are not served, or None), threads (of
        torch's pool), compiler (or None).

    >>> info()["threads"] == torch.get_num_threads()
    True
    """
    from seo_kernels import __version__

    native = available("cpu")
    prefix = f"{_CPU_LIBRARY.stem}_"
    return {
        "version": __version__,
        "torch": str(torch.__version__),
        "native": native,
        "reason": _CPU_REASON or None,
        "cpu_capability": torch.ops.seo_kernels.cpu_capability() if native else None,
        "cpu_libraries": sorted(path.stem.removeprefix(prefix) for path in _FOLDER.glob(f"{prefix}*.so")),
        "cuda_archs": cuda_architectures(),
        "cuda_reason": _CUDA_REASON or None,
        "threads": torch.get_num_threads(),
        "compiler": _compiler(),
    }


def _compiler() -> str | None:
    try:
        from seo_kernels import _C
    except ImportError:  # wheels come without it
        return None
    return str(_C.build_info()["compiler"])
