"""What the manager reports and sets, on a machine without a GPU."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from seo_kernels.training import peak_memory
from seo_kernels.training.torch_manager import RecommendedSettings, TorchManager, pytorch_manager

linux = pytest.mark.skipif(not peak_memory.CLEAR_REFS.exists(), reason="peaks are known on Linux")


@pytest.fixture
def manager() -> TorchManager:
    return TorchManager("cpu")


@pytest.fixture
def matmul_precision() -> Iterator[None]:
    """What is set is set back."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def test_device_information_is_numbers_everywhere() -> None:
    info = pytorch_manager.get_device_info()
    for name in ("gpu_memory_allocated_gb", "gpu_memory_reserved_gb", "gpu_memory_total_gb"):
        assert math.isfinite(info[name])
    assert 0.0 <= info["memory_utilization_percent"] <= 100.0
    assert info["process_memory_gb"] > 0.01
    assert info["system_memory_gb"] > info["process_memory_gb"]
    assert info["threads"] == torch.get_num_threads()
    if not torch.cuda.is_available():
        assert info["gpu_memory_allocated_gb"] == info["memory_utilization_percent"] == 0.0
        assert pytorch_manager.device == torch.device("cpu")


# in MiB; what is written leaves the process when it is freed, while what malloc gives may stay for later
_MEASURE = """
import json, mmap
import torch
from seo_kernels.training.peak_memory import memory_in_use
from seo_kernels.training.torch_manager import TorchManager

def written(mebibytes):
    return torch.frombuffer(mmap.mmap(-1, mebibytes << 20), dtype=torch.uint8).fill_(1)

manager = TorchManager("cpu")
written(1)
with manager.memory_monitor("one") as one:
    large = written(48)
    kept = written(16)
    del large
with manager.memory_monitor("outer") as outer:
    large = written(64)
    del large
    with manager.memory_monitor("inner") as inner:
        small = written(16)
        del small
blocks = [torch.ones(1 << 14) for _ in range(1024)]  # 64 KiB each: malloc keeps them
before = memory_in_use(manager.device)
blocks.clear()
cleared = manager.clear_memory()
figures = {
    "one": one.peak_gb * 1024,
    "one stays": one.change_gb * 1024,
    "outer": outer.peak_gb * 1024,
    "inner": inner.peak_gb * 1024,
    "given back": (before - memory_in_use(manager.device)) / 2**20,
    "in use": cleared["in_use_gb"] * 1024,
}
print(json.dumps(figures))
"""


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    """Of a process of its own: in another one, whatever earlier tests left may go at any time."""
    run = subprocess.run([sys.executable, "-c", _MEASURE], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@linux
def test_the_memory_of_a_block(figures: dict[str, float]) -> None:
    """64 MiB at most at a time, 16 MiB of which stay."""
    assert figures["one"] == pytest.approx(64, abs=8)
    assert figures["one stays"] == pytest.approx(16, abs=8)


@linux
def test_blocks_within_each_other(figures: dict[str, float]) -> None:
    """What was large before the inner block began is not lost to the outer one."""
    assert figures["outer"] == pytest.approx(64, abs=8)
    assert figures["inner"] == pytest.approx(16, abs=8)


@linux
def test_clearing_gives_memory_back(figures: dict[str, float]) -> None:
    assert figures["given back"] > 32
    assert figures["in use"] > 0


def test_the_report_of_blocks(manager: TorchManager) -> None:
    for _ in range(3):
        with manager.memory_monitor("a"):
            pass
    with pytest.raises(ZeroDivisionError), manager.memory_monitor("b"):
        _ = 1 // 0
    report = manager.memory_report()
    assert {name: figures["calls"] for name, figures in report.items()} == {"a": 3, "b": 1}
    assert all(figures["seconds"] >= 0 for figures in report.values())
    manager.reset_monitor()
    assert manager.memory_report() == {}


def test_where_the_system_does_not_tell(manager: TorchManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "CLEAR_REFS", peak_memory.Path("/proc/nowhere/clear_refs"))
    with manager.memory_monitor("a"):
        pass
    assert math.isnan(manager.memory_report()["a"]["peak_gb"])


@pytest.mark.usefixtures("matmul_precision")
def test_matmul_precision(manager: TorchManager) -> None:
    torch.set_float32_matmul_precision("highest")
    assert manager.set_matmul_precision("medium") == "highest"
    assert torch.get_float32_matmul_precision() == "medium"
    assert manager.get_device_info()["matmul_precision"] == "medium"
    with pytest.raises(ValueError, match="precision is 'low', expected one of highest, high, medium"):
        manager.set_matmul_precision("low")


def test_autocast(manager: TorchManager) -> None:
    layer, x = nn.Linear(4, 4), torch.randn(2, 4)
    dtypes = {}
    for name in ("bf16", "fp16", "no"):
        with manager.autocast(name):
            dtypes[name] = layer(x).dtype
    assert dtypes == {"bf16": torch.bfloat16, "fp16": torch.float16, "no": torch.float32}
    with pytest.raises(ValueError, match="precision is 'int8'"):
        manager.autocast("int8")


def test_channels_last(manager: TorchManager) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(4, 4, 3), nn.Conv1d(4, 4, 3), nn.Linear(4, 4))
    assert manager.channels_last(model) is model
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    batch = {"images": torch.randn(2, 3, 8, 8), "ids": torch.ones(2, 3, 8, 8, dtype=torch.int64), "n": [2]}
    moved = manager.to_channels_last(batch)
    assert moved["images"].is_contiguous(memory_format=torch.channels_last)
    assert moved["ids"].is_contiguous()
    assert moved["n"] == [2]
    assert model[0](moved["images"]).is_contiguous(memory_format=torch.channels_last)


def test_compile_shares_parameters(manager: TorchManager) -> None:
    model, x = nn.Linear(4, 4), torch.randn(2, 4)
    compiled = manager.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()
    assert model.weight.grad is not None
    with pytest.raises(TypeError, match=r"model is a function, expected a torch.nn.Module"):
        manager.compile(lambda x: x)  # type: ignore[arg-type]


def test_recommended_settings(manager: TorchManager) -> None:
    text, images = nn.Linear(4, 4), nn.Sequential(nn.Conv2d(3, 4, 3))
    settings = manager.recommended_settings(images)
    assert settings.channels_last
    assert not manager.recommended_settings(text).channels_last
    assert settings.mixed_precision in ("no", "bf16")
    assert not settings.pin_memory
    assert set(settings.reasons) == set(settings.__dataclass_fields__) - {"reasons"}
    assert f"channels_last = {settings.channels_last}" in str(settings)


@pytest.mark.usefixtures("matmul_precision")
def test_settings_are_applied(manager: TorchManager) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    settings = RecommendedSettings("no", "medium", True, False, 0, False)
    assert manager.apply(model, settings) is model
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.get_float32_matmul_precision() == "medium"
    with pytest.raises(TypeError, match="settings is a dict"):
        manager.apply(model, {})  # type: ignore[arg-type]


def test_devices_that_are_not_here() -> None:
    with pytest.raises(TypeError, match="device is an int"):
        TorchManager(0)  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="device is cuda:0, but torch sees no GPU here"):
            TorchManager("cuda:0")
