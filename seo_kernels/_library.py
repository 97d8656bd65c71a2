"""The compiled library: loaded when this module is imported, and if that fails, why.

Everything that asks whether a kernel serves asks here.
"""

import warnings
from pathlib import Path
from typing import Any

import torch

_FOLDER = Path(__file__).parent / "lib"
_CPU_LIBRARY = _FOLDER / "libseo_kernels_cpu.so"
_BUILD_FAILURE = _FOLDER / "build_failure.txt"


def _load() -> str:
    """Load the library, which registers ``torch.ops.seo_kernels``; "" or why that is not possible."""
    if not _CPU_LIBRARY.exists():
        if _BUILD_FAILURE.exists():
            return _BUILD_FAILURE.read_text().strip()
        return f"{_CPU_LIBRARY} has not been built; `make build` or `pip install .` builds it"
    try:
        torch.ops.load_library(_CPU_LIBRARY)
    except OSError as error:
        return f"{_CPU_LIBRARY} does not load under torch {torch.__version__}: {error}"
    return ""


_CPU_REASON = _load()
_warned = False


def available(device_type: str) -> bool:
    """Whether compiled kernels serve tensors on this type of device ("cpu", "cuda", ...)."""
    return device_type == "cpu" and not _CPU_REASON


def reason(device_type: str = "cpu") -> str:
    """Why no compiled kernel serves this type of device; "" where one does."""
    if device_type == "cpu":
        return _CPU_REASON
    return f"this build has no kernels for {device_type}"


@torch.compiler.assume_constant_result  # under torch.compile it runs once, while tracing
def warn_once(device_type: str = "cpu") -> None:
    """Say that the plain-torch reference serves, and why: once per process."""
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        f"seo_kernels runs on its plain-torch reference, which is slow: {reason(device_type)}",
        RuntimeWarning,
        stacklevel=3,
    )


def info() -> dict[str, Any]:
    """What is built and what it runs on, ready for JSON.

    Returns:
        version, torch (its version), native (whether the compiled library serves), reason (why not, or None),
        cpu_capability (the instruction set in use, or None), cpu_libraries (the instruction sets built),
        cuda_archs (the GPU architectures built), threads (of torch's pool), compiler (or None).

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
        "cuda_archs": [],
        "threads": torch.get_num_threads(),
        "compiler": _compiler(),
    }


def _compiler() -> str | None:
    try:
        from seo_kernels import _C
    except ImportError:  # wheels come without it
        return None
    return str(_C.build_info()["compiler"])
