"""How the GPU's kernels are compiled, and what came out where they have been: no GPU takes part."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    loaded = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.fixture(scope="module")
def build() -> ModuleType:
    return module(ROOT / "csrc" / "cuda" / "build.py")


@pytest.fixture(scope="module")
def cuda_static() -> ModuleType:
    return module(ROOT / "benchmarks" / "cuda_static.py")


def test_a_tier_is_not_compiled_for_less(build: ModuleType) -> None:
    assert "sm_75" in build.gencode(["75", "80", "90"], "0")
    for archs in (["75", "80", "90a"], ["75"]):
        code = build.gencode(archs, "80")
        assert "75" not in code
        assert "arch=compute_80,code=sm_80" in code
    assert "compute_90,code=compute_90" in build.gencode(["75", "80", "90a"], "80")


@pytest.mark.parametrize("archs", [["75", "80", "90"], ["90"], ["90a"], ["80"], ["90", "120"]])
def test_a_tier_of_one_architecture_is_compiled_for_no_other(build: ModuleType, archs: list[str]) -> None:
    assert build.gencode(archs, "90a") == "-gencode=arch=compute_90a,code=sm_90a"


def test_every_source_has_an_object_of_its_own(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = tmp_path / "cute" / "arch" / "mma_sm80.hpp"
    header.parent.mkdir(parents=True)
    header.touch()
    monkeypatch.setenv("SEO_KERNELS_CUTLASS", str(tmp_path))
    lines = build.ninja_file("nvcc", ["75", "80"]).splitlines()
    kernels = {line.split()[1]: lines[n + 1] for n, line in enumerate(lines) if ": nvcc " in line}
    sources = list((ROOT / "csrc" / "cuda").rglob("*.cu"))
    assert len(kernels) == len(sources)
    assert "sm_75" in kernels["attention_forward.o:"]
    assert "sm_75" not in kernels["sm80_attention_forward.o:"]
    assert "sm_80" not in kernels["sm90_matmul.o:"]
    assert "sm_90a" in kernels["sm90_matmul.o:"]


def test_missing_headers_are_an_error(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEO_KERNELS_CUTLASS", str(tmp_path))
    with pytest.raises(SystemExit, match="pip install --no-deps nvidia-cutlass"):
        build.cutlass_headers()


def test_complaints(cuda_static: ModuleType) -> None:
    name = "sm80::AttentionForwardMma<BFloat16, 128, 0>"
    right = cuda_static.Code(registers=176, tensor_products=10)
    kernel = cuda_static.Kernel(name, 128, 49_680)
    assert list(cuda_static.complaints({kernel: {"80": right}})) == []
    for code, shared, complaint in (
        (cuda_static.Code(registers=176), 49_680, "has no products on tensor cores on sm_80"),
        (cuda_static.Code(176, tensor_products=1, spilled_bytes=8), 49_680, "spills 8 bytes on sm_80"),
        (right, 100_000, "1 blocks at once on sm_80, made for 2"),
    ):
        (found,) = cuda_static.complaints({cuda_static.Kernel(name, 128, shared): {"80": code}})
        assert complaint in found


def test_what_was_compiled(cuda_static: ModuleType) -> None:
    """Where `make cuda` has built them: products on tensor cores, no spills, blocks as meant."""
    if not cuda_static.LIBRARY.exists() or not list(cuda_static.LOGS.glob("*.log")):
        pytest.skip("`make cuda` has not been run")
    try:
        kernels = cuda_static.read_library(cuda_static.LIBRARY)
    except SystemExit as why:
        pytest.skip(str(why))
    assert any(kernel.name.startswith(cuda_static.TENSOR_CORES) for kernel in kernels)
    assert list(cuda_static.complaints(kernels)) == []
