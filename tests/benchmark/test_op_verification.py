"""Ops and models: a wrong result is refused, wherever it is wrong; dropout is verified with equal bits."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from seo_kernels.benchmark import (
    activation_engines,
    linear_engines,
    loss_engines,
    model_engines,
)
from seo_kernels.benchmark.activation_problem import ActivationProblem
from seo_kernels.benchmark.linear_problem import LinearProblem
from seo_kernels.benchmark.loss_problem import LossProblem
from seo_kernels.benchmark.model_problem import ModelProblem, Training
from seo_kernels.benchmark.problem import Engine, Forward, Problem
from seo_kernels.benchmark.verification import WrongResultError

LORA = LinearProblem(70, 40, 30, rank=4, frozen=True)
DROPPING = replace(LORA, dropout_p=0.3)
MODEL = ModelProblem(layers=2, dim=16, heads=2, length=9, batch=2, vocabulary=30, rank=2)
PROBLEMS: dict[str, tuple[Problem, Engine]] = {
    "linear": (LinearProblem(70, 40, 30, activation="gelu"), linear_engines.linear),
    "lora": (LORA, linear_engines.lora_linear),
    "dropout": (DROPPING, linear_engines.lora_linear),
    "bias_act": (ActivationProblem(70, 40, "gelu"), activation_engines.fused),
    "gated_act": (ActivationProblem(70, 40, "silu", gated=True), activation_engines.fused),
    "loss": (LossProblem(700, 40, 90), loss_engines.fused),
}
GRADIENTS = [
    (name, leaf)
    for name, (problem, _) in PROBLEMS.items()
    for leaf, tensor in problem.make_inputs().leaves.items()
    if tensor.requires_grad
]

Spoil = Callable[[Tensor], Tensor]


class SpoiledBackward(torch.autograd.Function):
    """The identity, whose gradient goes through ``spoil``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, spoil: Spoil) -> Tensor:
        ctx.spoil = spoil
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.spoil(grad.clone()), None


def last_entry(x: Tensor) -> Tensor:
    """One of them is off by what a row is long."""
    flat = x.flatten().clone()
    flat[-1] += x.norm() / max(len(x), 1) ** 0.5 if x.ndim else 0.001 * x
    return flat.view_as(x)


def not_a_number(x: Tensor) -> Tensor:
    return x * torch.nan


def check(problem: Problem, engine: Engine, result: Spoil | None = None, **gradients: Spoil) -> float:
    inputs = problem.make_inputs()
    honest = engine(problem)

    def forward(leaves: Mapping[str, Tensor]) -> Tensor:
        spoiled = {name: SpoiledBackward.apply(leaves[name], spoil) for name, spoil in gradients.items()}
        out = honest({**leaves, **spoiled})
        return out if result is None else result(out)

    return problem.verify(inputs, forward, problem.expect(inputs))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PROBLEMS)
def test_right_results_pass(name: str, dtype: torch.dtype) -> None:
    problem, engine = PROBLEMS[name]
    assert isinstance(problem, LinearProblem | ActivationProblem | LossProblem)
    assert check(replace(problem, dtype=dtype), engine) < (1e-5 if dtype == torch.float32 else 2e-2)


@pytest.mark.parametrize("spoil", [last_entry, not_a_number])
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_wrong_output_is_refused(name: str, spoil: Spoil) -> None:
    with pytest.raises(WrongResultError, match=r"^out "):
        check(*PROBLEMS[name], spoil)


@pytest.mark.parametrize("spoil", [last_entry, not_a_number])
@pytest.mark.parametrize(("name", "leaf"), GRADIENTS)
def test_a_wrong_gradient_is_refused(name: str, leaf: str, spoil: Spoil) -> None:
    with pytest.raises(WrongResultError, match=rf"^d {leaf} "):
        check(*PROBLEMS[name], **{leaf: spoil})


def test_torch_dropout_is_verified_with_its_own_bits() -> None:
    assert check(replace(DROPPING, torch_bits=True), linear_engines.peft_formula) < 1e-6
    for problem, engine in (
        (DROPPING, linear_engines.peft_formula),
        (replace(DROPPING, torch_bits=True), linear_engines.lora_linear),
    ):
        with pytest.raises(WrongResultError, match=r"^out "):
            check(problem, engine)


def test_a_dropout_that_is_left_out_is_refused() -> None:
    def forgetful(problem: LinearProblem) -> Forward:
        return linear_engines.lora_linear(replace(problem, dropout_p=0.0))

    with pytest.raises(WrongResultError, match=r"^out "):
        check(DROPPING, forgetful)


def test_verification_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    check(DROPPING, linear_engines.lora_linear)
    assert torch.equal(before, torch.get_rng_state())


def test_torch_linear_knows_gelu_only() -> None:
    with pytest.raises(ValueError, match="activation is 'silu', expected None or 'gelu'"):
        linear_engines.torch_linear(LinearProblem(1, 1, 1, activation="silu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wrong_adapters_of_a_model_are_refused(dtype: torch.dtype) -> None:
    pytest.importorskip("transformers")
    problem = replace(MODEL, dtype=dtype)
    inputs = problem.make_inputs()
    expected = problem.expect(inputs)
    assert len(expected.exact) == 1 + 2 * 4 * problem.layers

    assert problem.verify(inputs, model_engines.ours(problem), expected) < 0.1
    training = model_engines.ours(problem)
    training.adapters["transformer.h.1.mlp.c_proj.lora_b"].data[3] *= 2
    with pytest.raises(WrongResultError):
        problem.verify(inputs, training, expected)
    training = model_engines.ours(problem)
    spoiled = training.adapters["transformer.h.0.attn.c_attn.lora_a"]
    spoiled.register_hook(lambda grad: grad * 1.2)
    with pytest.raises(WrongResultError, match=r"^d transformer.h.0.attn.c_attn.lora_a has a row"):
        problem.verify(inputs, training, expected)


def test_a_training_step_trains_the_adapters_only() -> None:
    pytest.importorskip("transformers")
    training: Training = model_engines.ours(MODEL)
    before = {name: value.clone() for name, value in training.model.state_dict().items()}
    MODEL.step(training, MODEL.make_inputs())
    after = training.model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name for name in before if "lora_" in name}
    with pytest.raises(TypeError, match="expected a Training"):
        MODEL.step(lambda leaves: leaves["tokens"], MODEL.make_inputs())
