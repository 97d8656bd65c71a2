"""How the GPU's kernels are compiled, and what came out where they have been: no GPU takes part."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
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


@pytest.mark.parametrize(
    ("name", "instructions"),
    [
        ("sm80::AttentionForwardMma<BFloat16, 128, 0>", "HMMA"),
        ("sm80::AttentionBiasGradientsMma<BFloat16, 128, 1>", "HMMA"),
        ("sm80::AttentionMaskGradientMma<Float16, 64, 2>", "HMMA"),
        ("sm80::LoraDownMma<Float16, 16, true>", "HMMA"),
        ("Matmul<BFloat16, false, true, StoreProduct<BFloat16>>", "HMMA"),
        ("sm90::MatmulWgmma<BFloat16, false, true, StoreProduct<BFloat16>>", "HGMMA UTMALDG"),
        ("sm90::AttentionForwardWgmma<Float16, 128, 0>", "HGMMA UTMALDG"),
        ("BiasAct<BFloat16, 8>", "LDG.128 STG.128"),
    ],
)
def test_complaints(cuda_static: ModuleType, name: str, instructions: str) -> None:
    needed = instructions.split()
    kernel = cuda_static.Kernel(name, 128, 49_680, 2)

    def found(code: object, kernel: object = kernel) -> list[str]:
        return list(cuda_static.complaints({kernel: {"90a": code}}))

    right = Counter(needed)
    assert found(cuda_static.Code(176, right)) == []
    for instruction in needed:
        (complaint,) = found(cuda_static.Code(176, Counter(set(needed) - {instruction})))
        assert f"({instruction}) on sm_90a" in complaint
    assert found(cuda_static.Code(176, right, spilled_bytes=8)) == [f"{name} spills 8 bytes on sm_90a"]
    (complaint,) = found(cuda_static.Code(176, right, warnings=cuda_static.WARNINGS[:1]))
    assert "ptxas says wgmma" in complaint
    (complaint,) = found(cuda_static.Code(176, right), cuda_static.Kernel(name, 128, 120_000, 2))
    assert complaint.endswith("1 blocks at once on sm_90a, made for 2")


@pytest.mark.parametrize(
    "name",
    [
        "sm80::NarrowTable<BFloat16, float>",
        "sm80::LoraOperand<BFloat16>",
        "sm80::AttentionSinkGradients",
        "BiasAct<BFloat16, 1>",
        "GatedAct<double, 2>",
    ],
)
def test_what_needs_nothing(cuda_static: ModuleType, name: str) -> None:
    assert cuda_static.rule_of(cuda_static.Kernel(name, 128, 0)).needs == {}


@pytest.mark.parametrize(
    ("name", "cold"),
    [
        ("sm80::AttentionForwardMma<BFloat16, 256, 0>", True),
        ("sm80::AttentionForwardMma<BFloat16, 128, 0>", False),
        ("AttentionForward<float, 256>", True),
        ("AttentionForward<float, 128>", False),
        ("LogSumExp<double>", True),
        ("BiasAct<BFloat16, 1>", True),
    ],
)
def test_spills_count_where_it_is_hot(cuda_static: ModuleType, name: str, cold: bool) -> None:
    kernel = cuda_static.Kernel(name, 128, 0)
    enough = Counter(cuda_static.COUNTED)
    complaints = cuda_static.complaints({kernel: {"80": cuda_static.Code(64, enough, spilled_bytes=4)}})
    assert (list(complaints) == []) is cold


def test_what_ptxas_says(cuda_static: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.o.log").write_text(
        "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due "
        "to insufficient register resources for the wgmma pipeline crossing function boundary '_Zone'\n"
        "ptxas info    : Compiling entry function '_Zone' for 'sm_90a'\n"
        "    0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n"
        "ptxas info    : Compiling entry function '_Zother' for 'sm_90a'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    )
    monkeypatch.setattr(cuda_static, "LOGS", tmp_path)
    assert list(cuda_static.read_logs()) == [
        ("90a", "_Zone", 12, cuda_static.WARNINGS[:1]),
        ("90a", "_Zother", 0, ()),
    ]


def test_what_was_compiled(cuda_static: ModuleType) -> None:
    """Where `make cuda` has built them: products on tensor cores, no spills, blocks as meant."""
    if not cuda_static.LIBRARY.exists() or not list(cuda_static.LOGS.glob("*.log")):
        pytest.skip("`make cuda` has not been run")
    try:
        kernels = cuda_static.read_library(cuda_static.LIBRARY)
    except SystemExit as why:
        pytest.skip(str(why))
    for tier in ("sm80::", "sm90::"):
        assert any(kernel.name.startswith(tier) for kernel in kernels)
    assert list(cuda_static.complaints(kernels)) == []
