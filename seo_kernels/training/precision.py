"""What is computed in: autocast's dtype, and the scaler of the losses that float16 needs."""

from __future__ import annotations

import contextlib

import torch

DTYPES: dict[str, torch.dtype | None] = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def best_precision(device: torch.device) -> torch.dtype:
    """bfloat16, or on GPUs without it float16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return torch.float16
    return torch.bfloat16


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """Autocast to the dtype; None: nothing is cast."""
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def loss_scaler(device: torch.device, dtype: torch.dtype | None) -> torch.amp.GradScaler:
    """Scales losses where gradients are float16; else one that does nothing."""
    return torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
