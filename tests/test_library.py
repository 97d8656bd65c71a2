"""Loading, refusing with a reason, warning once; optional dependencies."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

import seo_kernels as sk
from seo_kernels import _extras, _library


def test_info_is_complete_and_ready_for_json() -> None:
    info = json.loads(json.dumps(sk.info()))
    assert info["version"] == sk.__version__
    assert info["torch"] == torch.__version__
    assert info["threads"] == torch.get_num_threads()
    assert all(arch[:2].isdigit() for arch in info["cuda_archs"])
    assert (info["cuda_reason"] is None) == _library.available("cuda")
    assert info["native"] == _library.available("cpu") == (info["reason"] is None)
    if info["native"]:
        assert info["cpu_capability"] in info["cpu_libraries"]


def test_other_devices_are_refused_with_a_reason() -> None:
    assert _library.reason(torch.device("meta")) == "this build has no kernels for meta"
    assert not _library.available("xpu")
    assert _library.reason("xpu") == "this build has no kernels for xpu"


@pytest.fixture
def library_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(_library, "_CPU_LIBRARY", tmp_path / "libseo_kernels_cpu.so")
    monkeypatch.setattr(_library, "_BUILD_FAILURE", tmp_path / "build_failure.txt")
    return tmp_path


def test_reason_of_a_missing_library(library_folder: Path) -> None:
    assert "has not been built; `make build`" in _library._load()
    (library_folder / "build_failure.txt").write_text("no C++ compiler\n")
    assert _library._load() == "no C++ compiler"


def test_reason_of_a_broken_library(library_folder: Path) -> None:
    (library_folder / "libseo_kernels_cpu.so").write_text("not a shared object")
    assert f"does not load under torch {torch.__version__}" in _library._load()


def test_reason_of_missing_gpu_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    assert _library._load_cuda().endswith("is a build without CUDA")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(_library, "_CUDA_LIBRARY", tmp_path / "libseo_kernels_cuda.so")
    assert "has not been built; `make cuda`" in _library._load_cuda()
    (tmp_path / "libseo_kernels_cuda.so").write_text("not a shared object")
    monkeypatch.setattr(_library, "_CPU_REASON", "")
    assert f"does not load under torch {torch.__version__}" in _library._load_cuda()


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((9, 0), ["75", "80", "90"], True),
        ((8, 9), ["75", "80"], True),  # a newer minor version
        ((10, 0), ["75", "90"], True),  # PTX
        ((10, 0), ["75", "90a"], True),
        ((8, 0), ["75", "86", "90"], False),
        ((7, 0), ["75", "90"], False),
        ((9, 0), ["100"], False),
        ((9, 0), [], False),
    ],
)
def test_old_gpus_are_refused(
    capability: tuple[int, int], built: list[str], runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_library, "_CUDA_REASON", "")
    monkeypatch.setattr(_library, "_gpu_reasons", {})
    monkeypatch.setattr(_library, "cuda_architectures", lambda: built)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "an old GPU")
    device = torch.device("cuda:1")
    assert _library.available(device) == runs
    assert _library.available("cuda")  # without an index: some GPU
    if not runs:
        assert (
            f"cuda:1 (an old GPU) has compute capability {capability[0]}.{capability[1]}"
            in _library.reason(device)
        )
        assert ", ".join(built) in _library.reason(device)


@pytest.mark.parametrize("compiled", [False, True])
def test_warns_once(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "_warned", False)
    monkeypatch.setattr(_library, "_CPU_REASON", "no C++ compiler")

    def serve(x: torch.Tensor) -> torch.Tensor:
        if not _library.available(x.device):
            _library.warn_once(x.device)
        return x + 1

    call = torch.compile(serve, fullgraph=True, backend="eager") if compiled else serve
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(torch.ones(2))
        call(torch.ones(2, 2))
    messages = [str(warning.message) for warning in caught if "seo_kernels" in str(warning.message)]
    assert messages == ["seo_kernels runs on its plain-torch reference, which is slow: no C++ compiler"]


def test_missing_extra_is_named() -> None:
    with pytest.raises(
        _extras.MissingExtraError, match=r"nothing_like_it.inner is needed to draw .* 'seo_kernels\[plots\]'"
    ):
        _extras.require("nothing_like_it.inner", extra="plots", purpose="draw")


def test_broken_extra_keeps_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_there.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_there_at_all'"):
        _extras.require("half_there", extra="plots", purpose="draw")


def test_uninitialised_memory_is_poisoned(poisoned_memory: None) -> None:
    assert torch.empty(100).isnan().all()


def test_what_stands_above_the_ops_is_imported_when_asked_for() -> None:
    program = (
        "import sys, seo_kernels as sk\n"
        "above = [f'seo_kernels.{name}' for name in ('diagnostics', 'models', 'training')]\n"
        "assert not [name for name in [*above, 'accelerate', 'transformers'] if name in sys.modules]\n"
        "assert sk.training is sys.modules['seo_kernels.training'] and 'models' in dir(sk)\n"
        "assert not [name for name in ('accelerate', 'transformers') if name in sys.modules]\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="'seo_kernels' has no attribute 'novelty'"):
        _ = sk.novelty
