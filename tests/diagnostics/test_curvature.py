"""Hessian-vector products beside the dense Hessian in float64, through attention and the other ops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import seo_kernels as sk
from seo_kernels.diagnostics.curvature import SecondDerivativeError, hessian_vector_product
from seo_kernels.models import CustomTransformer

B, T, D, HEADS = 2, 8, 16, 2


class Block(nn.Module):
    """A layer of a transformer on the package's ops; ``plain``: the same in plain torch, to compare with."""

    def __init__(self, *, relative: bool = False, pattern: Any = None, plain: bool = False) -> None:
        super().__init__()
        self.pattern, self.plain = pattern, plain
        self.project, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)
        self.norm = nn.LayerNorm(D)
        dim = D // HEADS
        self.tables = nn.ParameterList([nn.Parameter(torch.randn(2 * 3 + 1, dim)) for _ in range(2)])
        self.tables.requires_grad_(relative)
        self.relative = relative

    def forward(self, x: Tensor) -> Tensor:
        attention = sk.reference.attention if self.plain else sk.attention
        linear = sk.reference.linear if self.plain else sk.linear
        normed = self.norm(x)
        heads = linear(normed, self.project.weight, self.project.bias).unflatten(-1, (3, HEADS, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        tables = sk.RelativePosition(key=self.tables[0], value=self.tables[1]) if self.relative else None
        mixed = attention(query, key, value, pattern=self.pattern, relative=tables)
        x = x + linear(mixed.transpose(1, 2).flatten(2), self.out.weight, self.out.bias)
        hidden = linear(x, self.up.weight, self.up.bias, "gelu")
        return x + linear(hidden, self.down.weight, self.down.bias)


class Transformer(nn.Module):
    def __init__(self, layers: int = 1, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, D)
        self.layers = nn.Sequential(*(Block(**options) for _ in range(layers)))
        self.plain = bool(options.get("plain"))

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.layers(self.embedding(ids))
        cross_entropy = sk.reference.cross_entropy if self.plain else sk.cross_entropy
        logits = hidden @ self.embedding.weight.T
        return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in trainable(model))


def dense_hessian(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> Tensor:
    """Row by row, of the gradients of the gradient's entries; in the order of ``model.parameters()``."""
    parameters = trainable(model)
    gradients = torch.autograd.grad(loss(model), parameters, create_graph=True)
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    rows = [
        torch.autograd.grad(entry, parameters, retain_graph=True, materialize_grads=True) for entry in flat
    ]
    return torch.stack([torch.cat([part.reshape(-1) for part in row]) for row in rows])


KINDS: dict[str, dict[str, Any]] = {
    "dense": {},
    "causal": {"pattern": sk.Causal()},
    "local": {"pattern": sk.Local(2)},
    "relative": {"relative": True},
    "relative and causal": {"relative": True, "pattern": sk.Causal()},
    "two layers": {"layers": 2},
}


@pytest.mark.parametrize("kind", KINDS)
def test_against_plain_definitions(kind: str) -> None:
    """The same transformer in plain torch, of the same weights: a whole other path to H v."""
    torch.manual_seed(1)
    fused = Transformer(**KINDS[kind]).double()
    plain = Transformer(plain=True, **KINDS[kind]).double()
    plain.load_state_dict(fused.state_dict())
    ids = torch.randint(11, (B, T))
    for _ in range(3):
        vector = torch.randn(count(fused), dtype=torch.float64)
        product = hessian_vector_product(fused, fused(ids), vector)
        parameters = trainable(plain)
        gradients = torch.autograd.grad(plain(ids), parameters, create_graph=True)
        dot = torch.cat([gradient.reshape(-1) for gradient in gradients]) @ vector
        exact = torch.cat([part.reshape(-1) for part in torch.autograd.grad(dot, parameters)])
        assert (product - exact).norm() < 1e-9 * exact.norm()


@pytest.mark.parametrize(
    ("kind", "learning"),
    [("two layers", ("norm", "project.bias")), ("relative and causal", ("tables", "norm"))],
)
def test_against_the_dense_hessian(kind: str, learning: tuple[str, ...]) -> None:
    """Every fifth column of the whole matrix, which plain torch makes of the same weights."""
    torch.manual_seed(2)
    fused = Transformer(**KINDS[kind]).double()
    plain = Transformer(plain=True, **KINDS[kind]).double()
    plain.load_state_dict(fused.state_dict())
    for model in (fused, plain):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(part in name for part in learning))
    ids = torch.randint(11, (B, T))
    hessian = dense_hessian(plain, lambda model: model(ids))
    torch.testing.assert_close(hessian, hessian.mT, rtol=1e-9, atol=1e-12)
    columns = torch.eye(len(hessian), dtype=torch.float64)[::5]
    found = torch.stack([hessian_vector_product(fused, fused(ids), column) for column in columns])
    assert (found - hessian[::5]).norm() < 1e-9 * hessian.norm()


@pytest.mark.parametrize("relative", [False, True])
def test_a_documented_model(relative: bool) -> None:
    """Reverse over reverse mode beside forward over reverse mode."""
    model = CustomTransformer(
        11,
        D,
        2,
        HEADS,
        d_ff=2 * D,
        max_len=T,
        dropout=0.0,
        use_relative_pos=relative,
        max_relative_position=3,
    ).double()
    ids, target = torch.randint(11, (B, T)), torch.randn(B, T, D, dtype=torch.float64)
    vector = {name: torch.randn_like(parameter) for name, parameter in model.named_parameters()}

    def loss(values: dict[str, Tensor]) -> Tensor:
        return (torch.func.functional_call(model, values, (ids,)) - target).square().mean()

    point = {name: parameter.detach() for name, parameter in model.named_parameters()}
    _, exact = torch.func.jvp(torch.func.grad(loss), (point,), (vector,))
    product = hessian_vector_product(model, loss(dict(model.named_parameters())), list(vector.values()))
    for part, right in zip(product, exact.values(), strict=True):
        torch.testing.assert_close(part, right, rtol=1e-9, atol=1e-11)


def test_a_quadratic_form() -> None:
    """L = w^T A w / 2: H = A, whatever w is."""
    a = torch.randn(6, 6, dtype=torch.float64)
    a = a + a.mT
    model = nn.Linear(6, 1, bias=False, dtype=torch.float64)
    vector = torch.randn(6, dtype=torch.float64)
    w = model.weight[0]
    torch.testing.assert_close(hessian_vector_product(model, w @ a @ w / 2, vector), a @ vector)


def test_result_has_the_form_of_the_vector() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(5, 3)
    parts = [torch.randn_like(parameter) for parameter in model.parameters()]
    flat = torch.cat([part.reshape(-1) for part in parts])
    listed = hessian_vector_product(model, model(x).square().mean(), parts)
    assert [part.shape for part in listed] == [parameter.shape for parameter in model.parameters()]
    product = hessian_vector_product(model, model(x).square().mean(), flat)
    assert product.shape == flat.shape
    torch.testing.assert_close(torch.cat([part.reshape(-1) for part in listed]), product)
    in_float64 = hessian_vector_product(model, model(x).square().mean(), flat.double())
    assert in_float64.dtype == torch.float32
    torch.testing.assert_close(in_float64, product)


def test_only_trainable_parameters_count() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    model[0].requires_grad_(False)
    x = torch.randn(5, 3)
    product = hessian_vector_product(model, model(x).square().mean(), torch.ones(5))
    hidden = torch.cat([model[:2](x), torch.ones(5, 1)], 1)  # the rest is linear: H = 2 / B hidden^T hidden
    torch.testing.assert_close(product, 2 / 5 * hidden.mT @ hidden @ torch.ones(5))


def test_zeros_where_nothing_depends() -> None:
    model = nn.Linear(3, 2)
    product = hessian_vector_product(model, model(torch.randn(4, 3)).sum(), torch.randn(8))
    assert torch.equal(product, torch.zeros(8))
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    vector = torch.randn(10)
    product = hessian_vector_product(model, model(torch.randn(4, 3)).square().sum(), vector)
    assert [*dict(model.named_parameters())] == ["weight", "bias", "unused"]
    weight, bias, unused = product.split([6, 2, 2])
    assert torch.count_nonzero(weight) == 6
    assert torch.count_nonzero(bias) == 2
    assert torch.equal(unused, torch.zeros(2))


def test_gradients_are_not_touched() -> None:
    model = nn.Linear(3, 1)
    model.weight.grad = torch.full((1, 3), 7.0)
    loss = model(torch.randn(4, 3)).square().sum()
    hessian_vector_product(model, loss, torch.ones(4))
    assert torch.equal(model.weight.grad, torch.full((1, 3), 7.0))
    assert model.bias.grad is None
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()  # the graph is consumed


def test_a_shared_parameter_counts_once() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Tanh(), nn.Linear(3, 3, bias=False))
    model[2].weight = model[0].weight
    model.double()
    x, vector = torch.randn(4, 3, dtype=torch.float64), torch.randn(9, dtype=torch.float64)

    def loss(weight: Tensor) -> Tensor:
        return ((x @ weight.mT).tanh() @ weight.mT).square().sum()

    hessian = torch.autograd.functional.hessian(loss, model[0].weight.detach()).reshape(9, 9)
    product = hessian_vector_product(model, model(x).square().sum(), vector)
    torch.testing.assert_close(product, hessian @ vector)


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


def test_what_can_not_be_differentiated_twice() -> None:
    model = nn.Linear(4, 4)
    with pytest.raises(SecondDerivativeError, match="can't be differentiated twice"):
        hessian_vector_product(model, OnceOnly.apply(model(torch.randn(3, 4))).square().sum(), torch.ones(20))
    x = torch.randn(1, 1, 6, 4)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        attended = nn.functional.scaled_dot_product_attention(*[model(x)] * 3)
        with pytest.raises(SecondDerivativeError, match=r"sk\.attention"):
            hessian_vector_product(model, attended.square().sum(), torch.ones(20))
    compiled = torch.compile(model, backend="aot_eager")
    with pytest.raises(SecondDerivativeError, match=r"without torch\.compile"):
        hessian_vector_product(model, compiled(x).square().sum(), torch.ones(20))


def test_other_errors_pass() -> None:
    model = nn.Linear(3, 1)
    loss = model(torch.randn(4, 3)).square().sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time") as caught:
        hessian_vector_product(model, loss, torch.ones(4))
    assert not isinstance(caught.value, SecondDerivativeError)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (torch.ones(3), r"vector has shape \(3,\), expected \(4,\)"),
        (torch.ones(2, 2), r"vector has shape \(2, 2\), expected \(4,\)"),
        ([torch.ones(1, 3)], "vector has 1 tensors, expected 2"),
        ([torch.ones(3), torch.ones(1)], r"vector\[0\] has shape \(3,\), expected \(1, 3\)"),
        ([1.0, 2.0], "vector is a list, expected a flat tensor or a list of tensors"),
        (None, "vector is a NoneType, expected a flat tensor"),
    ],
)
def test_wrong_vectors(vector: Any, message: str) -> None:
    model = nn.Linear(3, 1)
    with pytest.raises((TypeError, ValueError), match=message):
        hessian_vector_product(model, model(torch.randn(4, 3)).square().sum(), vector)


def test_wrong_models_and_losses() -> None:
    model, x = nn.Linear(3, 1), torch.randn(4, 3)
    with pytest.raises(ValueError, match=r"loss has shape \(4, 1\), expected a scalar"):
        hessian_vector_product(model, model(x), torch.ones(4))
    with pytest.raises(ValueError, match="loss depends on no trainable parameter"):
        hessian_vector_product(model, x.sum(), torch.ones(4))
    with pytest.raises(TypeError, match="loss is a float"):
        hessian_vector_product(model, math.pi, torch.ones(4))  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"model is a list, expected a torch.nn.Module"):
        hessian_vector_product([], model(x).sum(), torch.ones(4))  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="ReLU without a trainable parameter"):
        hessian_vector_product(nn.ReLU(), model(x).sum(), torch.ones(4))
