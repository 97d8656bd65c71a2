"""Tokens per second of a training step: this library beside PyTorch's attention, same weights, in turn."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from seo_kernels.demo.engines import fused, masked_sdpa
from seo_kernels.demo.model import Attend, ByteModel
from seo_kernels.demo.train import precision_context

TOLERANCE = 1e-3  # in float32, of the gradient's norm


class UnequalGradientsError(RuntimeError):
    """Two engines do not compute the same gradient, so their times cannot be compared."""


@dataclass(frozen=True)
class Throughput:
    """Median tokens per second of forward and backward, and how far the float32 gradients are apart."""

    fused: float
    sdpa: float
    gradient_difference: float

    @property
    def ratio(self) -> float:
        return self.fused / self.sdpa


def compare(model: ByteModel, tokens: Tensor, precision: str, rounds: int = 3) -> Throughput:
    """Time both engines in turn on tokens (B, T + 1), after a round that compares and one to warm up.

    Raises:
        UnequalGradientsError: they do not compute the same function.
    """
    _, ours_gradient = _step(model, tokens, fused, "float32")
    _, peer_gradient = _step(model, tokens, masked_sdpa, "float32")
    difference = float((ours_gradient - peer_gradient).norm() / peer_gradient.norm())
    if not difference <= TOLERANCE:
        raise UnequalGradientsError(
            f"the gradients of both engines differ by {difference:.1e}, expected at most {TOLERANCE}"
        )
    seconds: dict[Attend, list[float]] = {fused: [], masked_sdpa: []}
    for engine in seconds:
        _step(model, tokens, engine, precision)
    for _ in range(rounds):
        for engine, times in seconds.items():
            times.append(_step(model, tokens, engine, precision)[0])
    count = tokens.shape[0] * (tokens.shape[1] - 1)
    return Throughput(
        fused=count / statistics.median(seconds[fused]),
        sdpa=count / statistics.median(seconds[masked_sdpa]),
        gradient_difference=difference,
    )


def _step(model: ByteModel, tokens: Tensor, engine: Attend, precision: str) -> tuple[float, Tensor]:
    model.zero_grad()
    begun = time.perf_counter()
    with precision_context(precision):
        loss = model.loss(tokens, engine)
    loss.backward()
    seconds = time.perf_counter() - begun
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    model.zero_grad()
    return seconds, torch.cat([gradient.flatten() for gradient in gradients])
