"""``TorchManager``: the device, its memory, and what torch is told about precision, layout and compiling."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from seo_kernels.nn.sizes import check_choice
from seo_kernels.ops.checks import kind
from seo_kernels.training.peak_memory import (
    MemoryUse,
    measured_memory,
    memory_in_use,
    release_memory,
    system_memory,
)

GIGABYTE = 2**30
MATMUL_PRECISIONS = ("highest", "high", "medium")
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}  # by dimensions of a weight or a batch

M = TypeVar("M", bound=nn.Module)


@dataclass
class MonitoredBlock:
    """What ``memory_monitor`` saw of the blocks of one name.

    Args:
        name: of the blocks.
        calls: how many have ended.
        seconds: of all of them together.
        peak_gb: the largest of any, above what was in use before it; NaN where the system can't tell.
        change_gb: of the last one, in use after it less in use before it.
    """

    name: str
    calls: int = 0
    seconds: float = 0.0
    peak_gb: float = 0.0
    change_gb: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.calls} calls, {self.seconds / max(self.calls, 1):.4f} s each, "
            f"peak {self.peak_gb:.3f} GB, change {self.change_gb:+.3f} GB"
        )


@dataclass(frozen=True)
class RecommendedSettings:
    """What suits a device and a model by what they are; ``autotune`` measures instead.

    Args:
        mixed_precision: "no", "bf16" or "fp16".
        matmul_precision: of float32, "highest", "high" or "medium".
        channels_last: the model has convolutions over images or volumes.
        compile: what ``torch.compile`` needs is there.
        num_workers, pin_memory: of a ``DataLoader``.
        reasons: one for each of these, by name.
    """

    mixed_precision: str
    matmul_precision: str
    channels_last: bool
    compile: bool
    num_workers: int
    pin_memory: bool
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join(f"{name} = {getattr(self, name)}: {reason}" for name, reason in self.reasons.items())


class TorchManager:
    """Device, memory, precision, layout and compilation of a program.

    Args:
        device: "cpu", "cuda", ...; None: the first GPU where there is one, else the CPU.

    Attributes:
        device: a ``torch.device``.

    Raises:
        TypeError, RuntimeError: no device, or one that is not here.

    >>> manager = TorchManager("cpu")
    >>> with manager.memory_monitor("product"):
    ...     _ = torch.randn(64, 64) @ torch.randn(64, 64)
    >>> manager.memory_report()["product"]["calls"]
    1
    """

    def __init__(self, device: str | torch.device | None = None) -> None:
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if not isinstance(device, (str, torch.device)):
            raise TypeError(f"device is {kind(device)}, expected a name such as 'cpu', or a torch.device")
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"device is {self.device}, but torch sees no GPU here")
        self._blocks: dict[str, MonitoredBlock] = {}

    # Device and memory

    def get_device_info(self) -> dict[str, Any]:
        """What the device is and how full it is; what only a GPU has is 0.0 where there is none.

        Returns:
            "device", "device_name", "torch_version", "gpu_count", "gpu_memory_allocated_gb",
            "gpu_memory_reserved_gb", "gpu_memory_total_gb", "memory_utilization_percent" (of the GPU's
            memory, by anybody), "process_memory_gb" (resident), "system_memory_gb", "threads",
            "matmul_precision", "supports_bf16". GB are 2^30 bytes.
        """
        gpu = self.device.type == "cuda"
        free, total = torch.cuda.mem_get_info(self.device) if gpu else (0, 0)
        return {
            "device": str(self.device),
            "device_name": torch.cuda.get_device_name(self.device) if gpu else _cpu_name(),
            "torch_version": torch.__version__,
            "gpu_count": torch.cuda.device_count(),
            "gpu_memory_allocated_gb": torch.cuda.memory_allocated(self.device) / GIGABYTE if gpu else 0.0,
            "gpu_memory_reserved_gb": torch.cuda.memory_reserved(self.device) / GIGABYTE if gpu else 0.0,
            "gpu_memory_total_gb": total / GIGABYTE,
            "memory_utilization_percent": 100.0 * (total - free) / total if total else 0.0,
            "process_memory_gb": memory_in_use(torch.device("cpu")) / GIGABYTE,
            "system_memory_gb": system_memory() / GIGABYTE,
            "threads": torch.get_num_threads(),
            "matmul_precision": torch.get_float32_matmul_precision(),
            "supports_bf16": self._computes_in_bf16(),
        }

    @contextlib.contextmanager
    def memory_monitor(self, name: str) -> Iterator[MonitoredBlock]:
        """Time and memory of a block of code; ``memory_report`` has the figures of all names.

        It waits for the GPU and gives unused memory back before the block, which takes milliseconds: it is
        for blocks of that size and larger.

        Yields:
            The figures of this name, those of this block among them once it has ended.
        """
        if not isinstance(name, str):
            raise TypeError(f"name is {kind(name)}, expected a str")
        block = self._blocks.setdefault(name, MonitoredBlock(name))
        use = MemoryUse()
        seconds = 0.0
        try:
            with measured_memory(self.device) as use:
                start = time.perf_counter()
                try:
                    yield block
                finally:
                    if self.device.type == "cuda":
                        torch.cuda.synchronize(self.device)
                    seconds = time.perf_counter() - start
        finally:
            block.calls += 1
            block.seconds += seconds
            block.change_gb = (use.after - use.before) / GIGABYTE
            peak = float("nan") if use.peak is None else use.peak / GIGABYTE
            block.peak_gb = max(peak, block.peak_gb)

    def memory_report(self) -> dict[str, dict[str, float]]:
        """For each name: "calls", "seconds" (the mean), "peak_gb" and "change_gb"; see ``MonitoredBlock``."""
        return {
            name: {
                "calls": block.calls,
                "seconds": block.seconds / max(block.calls, 1),
                "peak_gb": block.peak_gb,
                "change_gb": block.change_gb,
            }
            for name, block in self._blocks.items()
        }

    def reset_monitor(self) -> None:
        """Forget what was monitored."""
        self._blocks.clear()

    def clear_memory(self) -> dict[str, float]:
        """Collect garbage, and give back what PyTorch and the C library keep for later.

        Returns:
            "freed_gb" (reserved on the GPU, resident on the CPU) and "in_use_gb" of what is left.
        """
        before = self._held()
        gc.collect()
        release_memory(self.device)
        after = self._held()
        return {"freed_gb": max(0, before - after) / GIGABYTE, "in_use_gb": after / GIGABYTE}

    # Settings

    def set_matmul_precision(self, precision: str) -> str:
        """How exact float32 matrix products are, of the whole process: see torch's function of this name.

        Returns:
            What it was before.
        """
        check_choice("precision", precision, MATMUL_PRECISIONS)
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(precision)
        return before

    def autocast(self, precision: str = "bf16") -> torch.autocast:
        """A context manager: "bf16" or "fp16" autocasts on this device, "no" does not."""
        check_choice("precision", precision, ("no", *AUTOCAST))
        return torch.autocast(self.device.type, AUTOCAST.get(precision), enabled=precision != "no")

    def channels_last(self, model: M) -> M:
        """Lay out the weights of 2-d (or 3-d) convolutions channels last, in place.

        Returns:
            The model. Batches want the same layout: ``to_channels_last``.
        """
        _check_module(model)
        for module in model.modules():
            dim = _convolution_dim(module)
            if dim in LAYOUTS:
                convert: Any = module.to  # its overloads leave the keyword out
                convert(memory_format=LAYOUTS[dim])
        return model

    def to_channels_last(self, value: Any) -> Any:
        """A batch whose floating tensors (B, C, H, W) and (B, C, D, H, W) are laid out channels last.

        Args:
            value: a tensor, or mappings, lists and tuples of tensors; what is none stays as it is.
        """
        if isinstance(value, Tensor):
            fits = value.dim() in LAYOUTS and value.is_floating_point()
            return value.contiguous(memory_format=LAYOUTS[value.dim()]) if fits else value
        if isinstance(value, Mapping):
            return {key: self.to_channels_last(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(self.to_channels_last(entry) for entry in value)
        return value

    def compile(self, model: nn.Module, **options: Any) -> nn.Module:
        """The model under ``torch.compile``, which takes the options; its parameters are shared.

        Raises:
            TypeError: no module.
        """
        _check_module(model)
        compiled: Any = torch.compile(model, **options)
        return compiled

    def recommended_settings(self, model: nn.Module | None = None) -> RecommendedSettings:
        """What suits this device, and the model where one is given; every choice comes with its reason."""
        if model is not None:
            _check_module(model)
        gpu, bf16 = self.device.type == "cuda", self._computes_in_bf16()
        layouts = {_convolution_dim(module) for module in model.modules()} if model is not None else set()
        channels_last = bool(layouts & set(LAYOUTS))
        able, why = _can_compile(gpu)
        cores = os.cpu_count() or 1
        precision = "bf16" if bf16 else ("fp16" if gpu else "no")
        return RecommendedSettings(
            mixed_precision=precision,
            matmul_precision="high" if gpu else "highest",
            channels_last=channels_last,
            compile=able,
            num_workers=max(0, min(4, cores - 1)),
            pin_memory=gpu,
            reasons={
                "mixed_precision": f"{self.device} has {'' if bf16 else 'no '}bfloat16 instructions",
                "matmul_precision": "TF32 on the tensor cores" if gpu else "this device has no TF32",
                "channels_last": (
                    "there are convolutions over images or volumes"
                    if channels_last
                    else "no such convolution"
                ),
                "compile": why,
                "num_workers": f"{cores} cores, one of them for the training itself",
                "pin_memory": "copies to the GPU overlap" if gpu else "nothing is copied to a GPU",
            },
        )

    def apply(self, model: nn.Module, settings: RecommendedSettings | None = None) -> nn.Module:
        """Move the model to the device and set what ``settings`` (None: the recommended ones) say of it.

        Returns:
            The model, compiled where they say so. Mixed precision is up to ``autocast``, around calls.
        """
        settings = self.recommended_settings(model) if settings is None else settings
        if not isinstance(settings, RecommendedSettings):
            raise TypeError(f"settings is {kind(settings)}, expected RecommendedSettings or None")
        _check_module(model)
        self.set_matmul_precision(settings.matmul_precision)
        model = model.to(self.device)
        if settings.channels_last:
            model = self.channels_last(model)
        return self.compile(model) if settings.compile else model

    def _held(self) -> int:
        gpu = self.device.type == "cuda"
        return torch.cuda.memory_reserved(self.device) if gpu else memory_in_use(self.device)

    def _computes_in_bf16(self) -> bool:
        """Whether products in bfloat16 are done by instructions of their own."""
        if self.device.type == "cuda":
            return torch.cuda.is_bf16_supported()
        return _cpu_has("amx_bf16") or _cpu_has("avx512_bf16")


pytorch_manager = TorchManager()


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model is {kind(model)}, expected a torch.nn.Module")


def _convolution_dim(module: nn.Module) -> int:
    """The dimensions of a convolution's own weight; 0 for anything else."""
    return module.weight.dim() if isinstance(module, nn.modules.conv._ConvNd) else 0


def _can_compile(gpu: bool) -> tuple[bool, str]:
    if gpu:
        able = torch.utils._triton.has_triton()
        return able, "Triton is there" if able else "Triton is not installed"
    compiler = next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)
    return compiler is not None, f"{compiler} is there" if compiler else "there is no C++ compiler"


def _cpu_capabilities() -> dict[str, Any]:
    found: Any = getattr(torch.cpu, "get_capabilities", dict)
    return found()


def _cpu_has(name: str) -> bool:
    return bool(_cpu_capabilities().get(name, False))


def _cpu_name() -> str:
    return str(_cpu_capabilities().get("cpu_name", "cpu"))
