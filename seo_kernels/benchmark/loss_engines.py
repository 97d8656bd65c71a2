"""Losses on this library and on torch."""

from __future__ import annotations

from torch.nn import functional as F

import seo_kernels as sk
from seo_kernels._extras import require
from seo_kernels.benchmark.loss_problem import LossProblem
from seo_kernels.benchmark.problem import Forward


def fused(problem: LossProblem) -> Forward:
    """``sk.linear_cross_entropy``."""
    return lambda leaves: sk.linear_cross_entropy(leaves["hidden"], leaves["weight"], leaves["target"])


def separate(problem: LossProblem) -> Forward:
    """``F.cross_entropy`` of the logits that ``F.linear`` gives."""
    return lambda leaves: F.cross_entropy(F.linear(leaves["hidden"], leaves["weight"]), leaves["target"])


def liger(problem: LossProblem) -> Forward:
    """Liger-Kernel's fused linear cross entropy."""
    ops = require("liger_kernel.ops.fused_linear_cross_entropy", extra="peers", purpose="run beside Liger")
    function = ops.LigerFusedLinearCrossEntropyFunction
    return lambda leaves: function.apply(leaves["hidden"], leaves["weight"], leaves["target"])[0]
