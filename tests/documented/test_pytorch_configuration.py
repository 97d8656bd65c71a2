"""Section 1.4: pytorch_configuration."""

import torch
from pytorch_configuration import pytorch_manager


def test_device_info() -> None:
    info = pytorch_manager.get_device_info()
    assert f"GPU memory: {info['gpu_memory_allocated_gb']:.2f} GB"
    assert f"Memory usage: {info['memory_utilization_percent']:.1f}%"
    assert info["gpu_memory_allocated_gb"] >= 0.0
    assert 0.0 <= info["memory_utilization_percent"] <= 100.0
    if not torch.cuda.is_available():
        assert info["gpu_memory_allocated_gb"] == info["memory_utilization_percent"] == 0.0


def test_memory_monitor() -> None:
    pytorch_manager.reset_monitor()
    with pytorch_manager.memory_monitor("forward_pass"):
        held = torch.ones(3_000_000)
    report = pytorch_manager.memory_report()["forward_pass"]
    assert report["calls"] == 1
    assert report["seconds"] > 0.0
    assert held.sum() == 3_000_000


def test_clear_memory() -> None:
    pytorch_manager.clear_memory()
