"""Which of torch's function transforms are active around a call."""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether ``torch.func`` transforms or forward mode are active: they see through a Function only."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
