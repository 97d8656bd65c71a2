"""Right models agree with finite differences whatever they are made of; slightly wrong ones do not."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import seo_kernels as sk
from seo_kernels.diagnostics.autograd_debugger import AutogradDebugger
from seo_kernels.diagnostics.gradient_errors import GradientError, gradient_errors

verify = AutogradDebugger().verify_gradients


def mlp(activation: nn.Module, *between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(10, 16), *between, activation, nn.Linear(16, 1))


class Recurrent(nn.LSTM):
    def forward(self, input: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(input)[0][..., :1].mean(1)


class Attention(nn.Module):
    """Our kernels: fused attention with relative tables, a linear with its activation."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(10, 24)
        self.table = nn.Parameter(torch.randn(7, 8) / 3)
        self.out = nn.Parameter(torch.randn(1, 8) / 3)

    def forward(self, input: Tensor) -> Tensor:
        query, key, value = self.project(input)[None, None].chunk(3, -1)
        relative = sk.RelativePosition(key=self.table, value=self.table)
        mixed = sk.attention(query, key, value, relative=relative, pattern=sk.Local(3))
        return sk.linear(mixed[0, 0], self.out, activation="gelu")


class Rounding(nn.Module):
    """Computes a part in float32, whatever dtype the rest has."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(10, 8), nn.Linear(8, 1)

    def forward(self, input: Tensor) -> Tensor:
        return self.outer(F.softmax(self.inner(input).float(), -1).to(input.dtype))


class Counting(nn.Linear):
    """Another function at each call, by a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__(10, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1.0
        return super().forward(input) * self.calls


class Insisting(nn.Sequential):
    """Takes float32 and nothing else."""

    def forward(self, input: Tensor) -> Tensor:
        assert input.dtype == torch.float32
        return super().forward(input)


RIGHT: dict[str, Callable[[], nn.Module]] = {
    "tanh": lambda: mlp(nn.Tanh()),
    "relu": lambda: mlp(nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)),
    "layer norm": lambda: mlp(nn.GELU(), nn.LayerNorm(16)),
    "batch norm": lambda: mlp(nn.ReLU(), nn.BatchNorm1d(16)),
    "batch norm, eval": lambda: mlp(nn.ReLU(), nn.BatchNorm1d(16)).eval(),
    "dropout": lambda: mlp(nn.ReLU(), nn.Dropout(0.5)),
    "dropout, eval": lambda: mlp(nn.ReLU(), nn.Dropout(0.5)).eval(),
    "recurrent": lambda: nn.Sequential(nn.Unflatten(1, (5, 2)), Recurrent(2, 4, batch_first=True)),
    "attention": Attention,
    "counting": Counting,
    "float64": lambda: mlp(nn.Tanh()).double(),
    "bfloat16": lambda: mlp(nn.Tanh()).bfloat16(),
    "float32 inside": Rounding,
    "float32 only": lambda: Insisting(*mlp(nn.Tanh())),
    "float32 only, relu": lambda: Insisting(*mlp(nn.ReLU())),
}


def data(model: nn.Module) -> tuple[Tensor, Tensor]:
    dtype = next(model.parameters()).dtype
    return torch.randn(12, 10).to(dtype), torch.randn(12, 1).to(dtype)


@pytest.mark.parametrize("name", RIGHT)
def test_right_models(name: str) -> None:
    model = RIGHT[name]()
    errors = gradient_errors(model, nn.MSELoss(), *data(model))
    assert [str(error) for error in errors if not error.passed] == []
    assert [error.parameter for error in errors] == [parameter for parameter, _ in model.named_parameters()]
    assert all(error.compared == min(4, error.entries + 2) for error in errors)
    dtype = "float32" if "only" in name else "float64"
    assert {error.difference_dtype for error in errors} == {dtype}


class Scaled(torch.autograd.Function):
    """The identity; its gradient is multiplied by ``factor``, where a dtype is named only at that one."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, factor: Any, dtype: torch.dtype | None) -> Tensor:
        ctx.factor = factor if dtype in (None, input.dtype) else 1.0
        return input.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        factor = ctx.factor
        return gradient * (factor.to(gradient) if isinstance(factor, Tensor) else factor), None, None


class Wrong(nn.Module):
    """One parameter of four has a gradient that is wrong."""

    def __init__(self, factor: Any, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(10, 16), nn.Linear(16, 1)
        self.factor, self.dtype = factor, dtype

    def forward(self, input: Tensor) -> Tensor:
        weight = Scaled.apply(self.first.weight, self.factor, self.dtype)
        return self.second(torch.relu(F.linear(input, weight, self.first.bias)))


def one_entry(factor: float) -> Tensor:
    factors = torch.ones(16, 10)
    factors[7, 7] = factor
    return factors


@pytest.mark.parametrize(
    ("factor", "dtype"),
    [
        (2.5, None),
        (1.01, None),
        (0.99, None),
        (1.0001, None),
        (0.0, None),
        (-1.0, None),
        (float("nan"), None),
        (1.01, torch.float32),
        (1.01, torch.float64),
        (one_entry(1.01), None),
    ],
    ids=lambda value: "one entry" if isinstance(value, Tensor) else str(value),
)
def test_a_wrong_gradient_is_found_and_named(factor: Any, dtype: torch.dtype | None) -> None:
    model = Wrong(factor, dtype)
    input, target = data(model)
    (wrong,) = (error for error in gradient_errors(model, nn.MSELoss(), input, target) if not error.passed)
    assert wrong.parameter == "first.weight"
    if wrong.error < float("inf"):  # NaN is found in both dtypes
        assert wrong.gradient_dtype == ("float32" if dtype == torch.float32 else "float64")
    assert wrong.error > wrong.allowed
    if isinstance(factor, float) and factor == 1.01:
        assert wrong.error == pytest.approx(0.01, rel=0.01)
    assert f"first.weight: {wrong.gradient_dtype} gradient disagrees" in str(wrong)
    assert not verify(model, nn.MSELoss(), input, target)
    assert verify(Wrong(1.0), nn.MSELoss(), input, target)


def test_wrong_by_a_per_cent_where_float64_is_impossible() -> None:
    class OnlyFloat32(Wrong):
        def forward(self, input: Tensor) -> Tensor:
            assert input.dtype == torch.float32
            return super().forward(input)

    input, target = data(OnlyFloat32(1.0))
    assert verify(OnlyFloat32(1.0), nn.MSELoss(), input, target)
    (wrong,) = (e for e in gradient_errors(OnlyFloat32(1.02), nn.MSELoss(), input, target) if not e.passed)
    assert (wrong.parameter, wrong.difference_dtype) == ("first.weight", "float32")


def test_a_detached_branch_is_found() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(10, 1), nn.Linear(10, 1)

        def forward(self, input: Tensor) -> Tensor:
            return self.left(input) + self.right(input).detach()

    model = Detached()
    errors = gradient_errors(model, nn.MSELoss(), *data(model))
    wrong = {error.parameter for error in errors if not error.passed}
    assert wrong == {"right.weight", "right.bias"}


def test_relu_at_exactly_zero() -> None:
    """Rows of padding, biases that start at 0: autograd's choice of the derivative there is right."""
    model = mlp(nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
    input, target = data(model)
    input[:6] = 0.0
    assert verify(model, nn.MSELoss(), input, target)


def test_gradients_that_are_nothing_but_rounding() -> None:
    """A bias in front of batch normalisation, the keys' bias in attention: the loss ignores them."""
    model = nn.Sequential(nn.Unflatten(1, (5, 2)), nn.TransformerEncoderLayer(2, 1, 4, batch_first=True))
    model = nn.Sequential(*model, nn.Flatten(), nn.Linear(10, 6), nn.BatchNorm1d(6), nn.Linear(6, 1))
    assert verify(model, nn.MSELoss(), *data(model))


def test_frozen_and_shared_parameters() -> None:
    model = mlp(nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16))
    model[1].weight = model[3].weight
    model[0].weight.requires_grad_(False)
    errors = gradient_errors(model, nn.MSELoss(), *data(model))
    assert all(error.passed for error in errors)
    names = [error.parameter for error in errors]
    assert "0.weight" not in names
    assert len([name for name in names if name in ("1.weight", "3.weight")]) == 1


def test_a_loss_with_parameters_and_inputs_that_require_gradients() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log_scale = nn.Parameter(torch.tensor(0.3))
            self.register_buffer("weight", torch.tensor([0.5]))

        def forward(self, output: Tensor, target: Tensor) -> Tensor:
            return self.weight * F.huber_loss(output, target) * self.log_scale.exp()

    model = mlp(nn.Tanh())
    input, target = data(model)
    errors = gradient_errors(model, Weighted(), input.requires_grad_(), target)
    assert [e.parameter for e in errors][-2:] == ["loss_fn.log_scale", "input"]
    assert all(error.passed for error in errors)
    assert input.grad is None


class Pair(nn.Bilinear):
    def forward(self, left: Tensor, right: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(left, right)


@pytest.mark.parametrize("form", [tuple, lambda pair: {"left": pair[0], "right": pair[1]}])
def test_several_inputs(form: Callable[[tuple[Tensor, Tensor]], Any]) -> None:
    pair = form((torch.randn(6, 3), torch.randn(6, 4)))
    assert verify(Pair(3, 4, 2), nn.CrossEntropyLoss(), pair, torch.randint(2, (6,)))


def test_nothing_of_the_model_changes() -> None:
    model = mlp(nn.ReLU(), nn.BatchNorm1d(16), nn.Dropout(0.5))
    model[1].eval()
    input, target = data(model)
    calls: list[int] = []
    model[0].weight.register_hook(lambda gradient: calls.append(1))
    model(input).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    values = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    modes = [module.training for module in model.modules()]
    random.seed(17)
    np.random.seed(17)  # noqa: NPY002
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    inputs = input.clone(), target.clone()
    verify(model, nn.MSELoss(), input, target)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is gradients[name] for name, parameter in model.named_parameters())
    assert all(torch.equal(parameter.grad, values[name]) for name, parameter in model.named_parameters())
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002
    assert torch.equal(input, inputs[0])
    assert torch.equal(target, inputs[1])
    assert calls == [1]


def test_samples_are_counted() -> None:
    model = nn.Linear(10, 1)
    for samples, compared in ((0, (2, 2)), (3, (5, 3)), (100, (12, 3))):
        errors = gradient_errors(model, nn.MSELoss(), *data(model), samples=samples)
        assert tuple(error.compared for error in errors) == compared
        assert tuple(error.entries for error in errors) == (10, 1)


class Drifting(nn.Linear):
    calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(input) * self.calls


class Uncopyable(nn.Linear):
    def __deepcopy__(self, memo: Any) -> "Uncopyable":
        raise RuntimeError("there is only one")


def mean(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).mean()


BAD: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
    (3, mean, {}, TypeError, "model is an int"),
    (nn.ReLU(), mean, {}, ValueError, "ReLU without a trainable parameter"),
    (nn.Linear(10, 1), 3, {}, TypeError, "loss_fn is an int"),
    (nn.Linear(10, 1), mean, {"samples": -1}, ValueError, "samples is -1"),
    (nn.Linear(10, 1), mean, {"samples": 1.0}, TypeError, "samples is a float"),
    (nn.Linear(10, 1), lambda output, target: output - target, {}, ValueError, r"shape \(12, 1\)"),
    (nn.Linear(10, 1), lambda output, target: 3.0, {}, TypeError, "the loss is a float"),
    (nn.Linear(10, 1), lambda output, target: target.sum(), {}, ValueError, "no trainable parameter"),
    (nn.Linear(10, 1), lambda output, target: output.sum() / 0, {}, ValueError, "the loss is -?inf"),
    (nn.Linear(10, 1), lambda output, target: output.sum() * float("nan"), {}, ValueError, "the loss is nan"),
    (Drifting(10, 1), mean, {}, ValueError, "another loss at each call"),
    (Uncopyable(10, 1), mean, {}, TypeError, "RuntimeError: there is only one"),
]


@pytest.mark.parametrize(("model", "loss_fn", "options", "kind", "message"), BAD)
def test_bad_input(
    model: Any, loss_fn: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        gradient_errors(model, loss_fn, torch.randn(12, 10), torch.randn(12, 1), **options)


def test_an_error_tells_what_it_is() -> None:
    error = GradientError("weight", True, 1e-9, 1e-6, "along the gradient", "float64", "float64", 80, 4)
    assert str(error) == (
        "weight: float64 gradient agrees with finite differences, relative error 1e-09 along the gradient, "
        "allowed 1e-06 (4 derivatives of 80 entries)"
    )
