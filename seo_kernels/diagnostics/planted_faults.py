"""Faults planted on purpose into a small transformer: the watchers have to find and name each of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seo_kernels.diagnostics.autograd_debugger import AutogradDebugger
from seo_kernels.diagnostics.autograd_monitor import AutogradMonitor
from seo_kernels.diagnostics.findings import Finding, Kind
from seo_kernels.diagnostics.gradient_monitor import GradientMonitor
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.transformer_layer import TransformerLayer
from seo_kernels.nn.typed_attention import TypedAttention

VOCABULARY, WIDTH, LAYERS, BATCH, LENGTH = 32, 16, 3, 4, 8
LEARNING_RATE = 1e-3
PLACE = "layers.1.feed_forward.down"
STEP = 7
HEALTHY_STEPS = 1000
HEALTHY = "none"

Spoil = Callable[[Tensor], Tensor]  # from the sound output of a layer to what it gives


@dataclass(frozen=True)
class Fault:
    """From step ``STEP`` on the layer ``PLACE`` does something else with its output.

    Attributes:
        name: what is wrong, in words.
        kinds: of findings about that layer, either of which is right.
        spoil: the fault.
        traced: the layer has to be named as where NaN or Inf began, by every finding of that step.
    """

    name: str
    kinds: tuple[Kind, ...]
    spoil: Spoil
    traced: bool = False


@dataclass(frozen=True)
class FaultResult:
    """A line of the table: what was planted where, what was found, and whether that is right."""

    fault: str
    planted_in: str
    found: str
    passed: bool


class FaultyLinear(Linear):
    """A linear layer with a fault, which is off until ``spoil`` is set."""

    spoil: Spoil | None = None

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        out: Tensor = super().forward(input)
        return out if self.spoil is None else self.spoil(out)


class WronglyDifferentiated(Linear):
    """A linear layer whose weight's gradient is 1 % too large."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return super().forward(input) + _Surplus.apply(input, self.weight)


class FaultModel(nn.Module):
    """Tokens (B, T) -> logits (B, T, V): three transformer layers of width 16, without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.layers = nn.ModuleList(_layer() for _ in range(LAYERS))
        self.head = Linear(WIDTH, VOCABULARY)
        self.set_submodule(PLACE, FaultyLinear(4 * WIDTH, WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) -> (B, T, V)."""
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x)
        return logits

    def plant(self, spoil: Spoil | None) -> None:
        """Switch the fault on, or with None off."""
        layer = self.get_submodule(PLACE)
        assert isinstance(layer, FaultyLinear)
        layer.spoil = spoil


def run_selftest(healthy_steps: int = HEALTHY_STEPS) -> list[FaultResult]:
    """Plant every fault, watch ``healthy_steps`` sound steps, and say what was found.

    Nothing outside changes, random numbers included. Takes some seconds.
    """
    with _apart():
        results = [run_fault(fault) for fault in FAULTS]
        return [*results, run_wrong_backward(), run_healthy(healthy_steps)]


def run_fault(fault: Fault) -> FaultResult:
    """Train until the fault strikes; both watchers have to see it then, and nothing before."""
    training = Training()
    for step in range(STEP + 1):
        training.model.plant(fault.spoil if step == STEP else None)
        training.step()
    named = [finding for finding in training.findings if finding.parameter.startswith(f"{PLACE}.")]
    found = next((finding for finding in named if finding.kind in fault.kinds), None)
    passed = found is not None and all(finding.step == STEP for finding in training.findings)
    if fault.traced:
        broken = [finding for finding in training.findings if finding.kind in ("nan", "inf")]
        passed = passed and training.findings[0] is broken[0] and {f.module for f in broken} == {PLACE}
    seen = {(finding.kind, finding.parameter) for finding in training.asked.log.all}
    passed = passed and found is not None and (found.kind, found.parameter) in seen
    shown = found or next(iter(training.findings), "nothing")
    return FaultResult(fault.name, f"{PLACE} at step {STEP}", str(shown), passed)


def run_wrong_backward() -> FaultResult:
    """A custom backward that is wrong: finite differences have to name its parameter, and no other there.

    The other layers are frozen: finite differences take their time.
    """
    model = FaultModel()
    model.set_submodule(PLACE, WronglyDifferentiated(4 * WIDTH, WIDTH))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(PLACE.rpartition(".")[0]))
    tokens, targets = _batch(torch.Generator().manual_seed(1))
    errors = AutogradDebugger().gradient_errors(model, _loss, tokens, targets)
    wrong = [error for error in errors if not error.passed]
    passed = [error.parameter for error in wrong] == [f"{PLACE}.weight"]
    found = "; ".join(str(error) for error in wrong) or "nothing"
    return FaultResult("backward that is 1 % off", PLACE, found, passed)


def run_healthy(steps: int) -> FaultResult:
    """A sound training of the same model: neither watcher may find anything."""
    training = Training()
    for _ in range(steps):
        training.step()
    findings = [*training.findings, *training.asked.log.all]
    found = str(findings[0]) if findings else "nothing"
    return FaultResult(HEALTHY, f"{steps} healthy steps", found, not findings)


class Training:
    """The model in training, watched by both watchers at every step.

    The targets are a function of the tokens, but for a quarter that are random: there is always a gradient.
    """

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = FaultModel()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        self.generator = torch.Generator().manual_seed(0)
        self.asked = AutogradMonitor()
        self.hooked = GradientMonitor(self.model)
        self.hooked.register_hooks()

    @property
    def findings(self) -> list[Finding]:
        """Of the watcher with hooks, by first appearance."""
        return self.hooked.log.all

    def step(self) -> float:
        """One update; the loss."""
        tokens, targets = _batch(self.generator)
        self.optimizer.zero_grad()
        loss = _loss(self.model(tokens), targets)
        loss.backward()
        self.asked.monitor_gradients(self.model)
        self.optimizer.step()
        return loss.item()


def _layer() -> TransformerLayer:
    attention = TypedAttention(WIDTH, 2, dropout=0.0, causal=True)
    return TransformerLayer(attention, dropout=0.0, activation="relu")


def _batch(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator, device="cpu")
    noise = torch.randint(VOCABULARY, (BATCH, LENGTH), generator=generator, device="cpu")
    noisy = torch.rand((BATCH, LENGTH), generator=generator, device="cpu") < 0.25
    return tokens, torch.where(noisy, noise, (5 * tokens + 3) % VOCABULARY)


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@contextmanager
def _apart() -> Iterator[None]:
    """On the CPU, with random numbers of its own, and one thread: more would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"), torch.enable_grad():
            torch.manual_seed(0)
            yield
    finally:
        torch.set_num_threads(threads)


class _ChangedGradient(torch.autograd.Function):
    """What comes in goes out; the gradient is changed on its way back."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, change: Spoil) -> Tensor:
        ctx.change = change
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.change(grad), None


class _Surplus(torch.autograd.Function):
    """Zeros, with a gradient for the weight that nothing accounts for."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(input)
        return input.new_zeros(*input.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (input,) = ctx.saved_tensors
        return None, 0.01 * grad.flatten(0, -2).T @ input.flatten(0, -2)


def _first_entry(value: float) -> Spoil:
    def put(out: Tensor) -> Tensor:
        first = torch.zeros_like(out, dtype=torch.bool)
        first.view(-1)[0] = True
        return torch.where(first, value, out)

    return put


def _first_row(value: float) -> Spoil:
    def put(grad: Tensor) -> Tensor:
        changed = grad.clone()
        changed[0, 0] = value
        return changed

    return put


def _with_gradient(change: Spoil) -> Spoil:
    def put(out: Tensor) -> Tensor:
        changed: Tensor = _ChangedGradient.apply(out, change)
        return changed

    return put


FAULTS = (
    Fault("NaN in a layer's output", ("nan",), _first_entry(math.nan), traced=True),
    Fault("Inf in a layer's output", ("nan", "inf"), _first_entry(math.inf), traced=True),
    Fault("NaN in a layer's backward", ("nan",), _with_gradient(_first_row(math.nan)), traced=True),
    Fault("Inf in a layer's backward", ("inf",), _with_gradient(_first_row(math.inf)), traced=True),
    Fault("exploding layer", ("explosion",), _with_gradient(lambda grad: grad * 1e6)),
    Fault("vanishing layer", ("vanishing",), _with_gradient(lambda grad: grad * 1e-12)),
    Fault("detached branch", ("missing",), Tensor.detach),
    Fault("dead ReLU", ("dead",), lambda out: F.relu(out - 1e6)),
)
