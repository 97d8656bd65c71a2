"""Which of torch's function transforms are active around a call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def transformed() -> bool:
    """Whether ``torch.func`` transforms or forward mode are active: they see through a Function only."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def differentiated(*operands: Any) -> bool:
    """Whether what is computed of the operands may be differentiated or transformed in turn."""
    if torch.is_grad_enabled() or transformed():
        return True
    # batched gradients (``is_grads_batched``) show in their tensors only
    tensors = [operand for operand in operands if isinstance(operand, Tensor)]
    return any(map(torch._C._functorch.is_legacy_batchedtensor, tensors))
