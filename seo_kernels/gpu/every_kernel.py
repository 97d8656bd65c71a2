"""A small call of every op, forward and backward, on every tier of kernels: what compute-sanitizer watches.

compute-sanitizer --tool memcheck python -m seo_kernels.gpu.every_kernel
"""

from __future__ import annotations

import itertools
import os
import sys

import torch

from seo_kernels.diagnostics.checked_op import CheckedOp, Feature
from seo_kernels.diagnostics.gradient_cases import ops
from seo_kernels.gpu.parts import TIER, TIERS

DTYPES = (torch.float32, torch.bfloat16)


def run_feature(op: CheckedOp, feature: Feature, dtype: torch.dtype, device: str) -> None:
    """Forward and backward at a size of several tiles."""
    problem = feature.problem("odd", device)
    inputs = {
        name: value.to(device, torch.float32 if name in feature.wide else dtype).requires_grad_()
        for name, value in problem.inputs.items()
    }
    outputs = problem.call(op.function, inputs)
    weights = [torch.ones_like(output) for output in outputs]
    torch.autograd.grad(outputs, list(inputs.values()), weights)


def main(device: str = "cuda") -> int:
    """The number of calls goes to standard output."""
    calls = 0
    for tier, op in itertools.product(("simt", *TIERS), ops().values()):
        os.environ[TIER] = tier
        for feature, dtype in itertools.product(op.features, DTYPES):
            run_feature(op, feature, dtype, device)
            calls += 1
    if device == "cuda":
        torch.cuda.synchronize()
    print(f"{calls} calls, forward and backward")
    return 0


if __name__ == "__main__":
    sys.exit(main())
