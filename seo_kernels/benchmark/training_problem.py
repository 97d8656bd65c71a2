"""Training steps of whole models: forward, backward, AdamW."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.benchmark.gpt2 import make_gpt2
from seo_kernels.benchmark.problem import Forward, Inputs, Problem, Results, seeded_generator
from seo_kernels.benchmark.verification import WrongResultError, check_finite
from seo_kernels.models import AdvancedTransformerModel, CustomTransformer, ModelConfig

LEARNING_RATE = 1e-4
# Of a gradient, relative to its norm, or to a thousandth of the norm of all where that is larger.
ALLOWED = {torch.float32: 1e-3, torch.bfloat16: 0.15}
LEAST_SHARE = 1e-3

Loss = Callable[[Any, Mapping[str, Tensor]], Tensor]  # of the model and the leaves


class Trainee:
    """A model, its loss, and its optimizer; called with the leaves it gives the loss."""

    def __init__(self, model: nn.Module, loss: Loss, dtype: torch.dtype) -> None:
        self.model = model.train()
        self.loss = loss
        self.dtype = dtype
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)

    def __call__(self, leaves: Mapping[str, Tensor]) -> Tensor:
        autocast: AbstractContextManager[object] = nullcontext()
        if self.dtype == torch.bfloat16:
            autocast = torch.autocast("cpu", self.dtype)
        with autocast:
            return self.loss(self.model, leaves)

    def results(self, leaves: Mapping[str, Tensor]) -> Results:
        """The loss, and the gradients, which the parameters keep."""
        loss = self(leaves)
        loss.backward()
        grads = {f"d {name}": p.grad for name, p in self.model.named_parameters() if p.grad is not None}
        return {"loss": loss.detach(), **grads}

    def step(self, leaves: Mapping[str, Tensor]) -> Results:
        results = self.results(leaves)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return results

    def without_dropout(self, leaves: Mapping[str, Tensor]) -> Results:
        self.model.eval()
        results = self.results(leaves)
        self.optimizer.zero_grad()
        self.model.train()
        return results

    def exact(self) -> Trainee:
        """The same in float64."""
        return Trainee(copy.deepcopy(self.model).double(), self.loss, torch.float64)


@dataclass(frozen=True)
class TrainingProblem(Problem):
    """The weights are float32; of dtype bfloat16 it runs under autocast.

    Dropout is on in what is timed, and off where results are compared.
    """

    layers: int
    dim: int
    heads: int
    length: int
    batch: int
    vocabulary: int
    dropout: float = 0.1
    dtype: torch.dtype = torch.float32
    backward: bool = True

    @property
    def sizes(self) -> str:
        model = f"{self.layers} layers d{self.dim} H{self.heads} V{self.vocabulary}"
        return f"{model} B{self.batch} T{self.length}"

    def tokens(self) -> Tensor:
        return torch.randint(self.vocabulary, (self.batch, self.length), generator=seeded_generator())

    @abstractmethod
    def make_ours(self) -> nn.Module:
        """The same weights each time."""

    def step(self, forward: Forward, inputs: Inputs) -> Results:
        """The loss and all gradients, with which the optimizer then takes a step."""
        return trainee(forward).step(inputs.leaves)

    def small(self) -> TrainingProblem:
        return replace(self, layers=1, length=32, batch=1)


@dataclass(frozen=True)
class LanguageProblem(TrainingProblem):
    """A causal language model; contenders are different models of one size, GPT-2's.

    Each is held against itself in float64: there is nothing else that all of them should equal.

    Attributes:
        window: keys on the left that ours sees, None: all. GPT-2 always sees all.
    """

    window: int | None = None

    def make_inputs(self) -> Inputs:
        return Inputs({"tokens": self.tokens()}, None)

    def make_ours(self) -> nn.Module:
        config = ModelConfig(
            vocab_size=self.vocabulary,
            d_model=self.dim,
            n_layers=self.layers,
            n_heads=self.heads,
            max_seq_len=self.length,
            dropout=self.dropout,
            position_encoding="learnable",
            label_smoothing=0.0,
            attention_type="standard" if self.window is None else "local",
            max_relative_position=self.window or 0,
            initialization_method="normal",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return AdvancedTransformerModel(config)

    def make_gpt2(self) -> nn.Module:
        """Of this size."""
        return make_gpt2(
            layers=self.layers,
            dim=self.dim,
            heads=self.heads,
            length=self.length,
            vocabulary=self.vocabulary,
            dropout=self.dropout,
        )

    def expect(self, inputs: Inputs) -> None:
        """Each contender says it for itself."""

    def verify(self, inputs: Inputs, forward: Forward, expected: None) -> float:
        own = trainee(forward)
        exact = own.exact().without_dropout(inputs.leaves)
        return check_gradients(own.without_dropout(inputs.leaves), exact, self.dtype)


@dataclass(frozen=True)
class RelativeProblem(TrainingProblem):
    """``CustomTransformer`` with relative positions, in front of a loss that is linear in what it gives."""

    reach: int = 32

    def make_inputs(self) -> Inputs:
        shape = (self.batch, self.length, self.dim)
        target = torch.randn(shape, generator=seeded_generator()) / self.length
        return Inputs({"tokens": self.tokens(), "target": target}, None)

    def make_ours(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return CustomTransformer(
                self.vocabulary,
                self.dim,
                self.layers,
                self.heads,
                max_len=self.length,
                dropout=self.dropout,
                max_relative_position=self.reach,
            )

    def expect(self, inputs: Inputs) -> Results:
        """The model with attention in plain torch, in float64."""
        from seo_kernels.benchmark.training_engines import plain_relative

        return plain_relative(self).exact().without_dropout(inputs.leaves)

    def verify(self, inputs: Inputs, forward: Forward, expected: Results) -> float:
        return check_gradients(trainee(forward).without_dropout(inputs.leaves), expected, self.dtype)


def trainee(forward: Forward) -> Trainee:
    if not isinstance(forward, Trainee):
        raise TypeError(f"forward is {forward!r}, expected a Trainee")
    return forward


def check_gradients(results: Results, exact: Results, dtype: torch.dtype) -> float:
    """The worst error of them.

    Raises:
        WrongResultError: one is not finite, or further off than allowed.
    """
    all_of_them = sum(float(grad.double().square().sum()) for grad in exact.values()) ** 0.5
    worst = 0.0
    for name, right in exact.items():
        check_finite(name, results[name])
        size = max(float(right.norm()), LEAST_SHARE * all_of_them)
        error = float((results[name].double() - right).norm()) / size
        if not error <= ALLOWED[dtype]:
            raise WrongResultError(f"{name} is off by {error:.1e}, expected {ALLOWED[dtype]:.1e} at most")
        worst = max(worst, error)
    return worst
