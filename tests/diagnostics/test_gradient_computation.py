"""Gradients, Jacobians and Hessians beside closed forms and plain torch."""

import math

import pytest
import torch
from torch import Tensor, nn

import seo_kernels as sk
from seo_kernels.diagnostics.gradient_computation import GradientComputationUtils as Utils


def test_flat_and_back() -> None:
    tensors = [torch.randn(2, 3), torch.randn(()), torch.randn(4, 1)]
    flat = Utils.flatten(tensors)
    assert flat.shape == (11,)
    for part, tensor in zip(Utils.unflatten(flat, tensors), tensors, strict=True):
        assert torch.equal(part, tensor)
    assert torch.equal(Utils.flatten({"a": tensors[0]}), tensors[0].flatten())


def test_gradient_leaves_grad_alone() -> None:
    model = nn.Linear(3, 2)
    x = torch.randn(5, 3)
    loss = model(x).sum()
    weight, bias = Utils.gradient(loss, list(model.parameters()))
    assert torch.allclose(weight, x.sum(0).expand(2, 3))
    assert torch.equal(bias, torch.full((2,), 5.0))
    assert all(p.grad is None for p in model.parameters())
    assert len(Utils.gradient(loss, dict(model.named_parameters()))) == 2  # the graph is still there
    other = torch.ones(2, requires_grad=True)
    assert torch.equal(Utils.gradient(loss, other)[0], torch.zeros(2))


def test_gradient_of_a_gradient() -> None:
    x = torch.tensor(2.0, requires_grad=True)
    (first,) = Utils.gradient(x**3, x, create_graph=True)
    assert float(Utils.gradient(first, x)[0]) == 12.0


def test_jacobian_and_hessian_of_a_quadratic_form() -> None:
    matrix = torch.randn(4, 4, dtype=torch.float64)
    x = torch.randn(4, dtype=torch.float64)
    assert torch.allclose(Utils.jacobian(lambda v: matrix @ v, x), matrix)
    assert torch.allclose(Utils.hessian(lambda v: v @ matrix @ v, x), matrix + matrix.T)


def test_through_the_fused_ops() -> None:
    x = torch.randn(1, 1, 3, 4, dtype=torch.float64)

    def fused(v: Tensor) -> Tensor:
        return sk.attention(v, v, v, pattern=sk.Causal()).square().sum()

    def plain(v: Tensor) -> Tensor:
        scores = (v @ v.transpose(-1, -2) / 2.0).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf)
        return (scores.softmax(-1) @ v).square().sum()

    expected = torch.autograd.functional.hessian(plain, x)
    assert isinstance(expected, Tensor)
    assert torch.allclose(Utils.hessian(fused, x), expected, atol=1e-10)


def test_norms() -> None:
    tensors = [torch.randn(3, 4), torch.randn(7)]
    assert Utils.norms(tensors) == pytest.approx([float(tensor.norm()) for tensor in tensors])


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_cosine(scale: float) -> None:
    a, b = [torch.randn(3, 2), torch.randn(4)], [torch.randn(3, 2), torch.randn(4)]
    flat = [torch.cat([part.flatten() for part in parts]).double() for parts in (a, b)]
    right = float(torch.nn.functional.cosine_similarity(flat[0], flat[1], dim=0))
    scaled = [scale * part.double() for part in a]
    assert Utils.cosine_similarity(scaled, b) == pytest.approx(right, abs=1e-6)
    assert Utils.cosine_similarity(b, [-part for part in b]) == pytest.approx(-1.0)
    assert math.isnan(Utils.cosine_similarity(torch.zeros(2), torch.ones(2)))


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_per_sample_gradients_are_those_of_each_sample_alone(chunk_size: int | None) -> None:
    model = nn.Sequential(sk.nn.Linear(3, 5, activation="gelu"), nn.Linear(5, 4))
    x, target = torch.randn(5, 3), torch.randint(4, (5,))
    loss = nn.CrossEntropyLoss()
    found = Utils.per_sample_gradients(model, loss, x, target, chunk_size=chunk_size)
    for i in range(5):
        alone = torch.autograd.grad(loss(model(x[i : i + 1]), target[i : i + 1]), list(model.parameters()))
        for (name, gradients), right in zip(found.items(), alone, strict=True):
            assert torch.allclose(gradients[i], right, atol=1e-6), name
    assert all(p.grad is None for p in model.parameters())


def test_bad_input() -> None:
    with pytest.raises(TypeError, match="tensors is a float"):
        Utils.flatten(3.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tensors is empty"):
        Utils.flatten([])
    with pytest.raises(ValueError, match=r"tensors are .*float16 .*float32"):
        Utils.flatten([torch.zeros(1), torch.zeros(1, dtype=torch.float16)])
    with pytest.raises(ValueError, match=r"vector has shape \(3,\), expected \(2,\)"):
        Utils.unflatten(torch.zeros(3), torch.zeros(2))
    with pytest.raises(ValueError, match=r"loss has shape \(2,\), expected a scalar"):
        Utils.gradient(torch.ones(2, requires_grad=True) * 2, torch.ones(2, requires_grad=True))
    with pytest.raises(ValueError, match="inputs has a tensor without requires_grad"):
        Utils.gradient(torch.ones(1, requires_grad=True).sum(), torch.ones(1))
    with pytest.raises(TypeError, match=r"inputs is of torch.int64"):
        Utils.jacobian(lambda v: v, torch.arange(3))
    with pytest.raises(ValueError, match=r"function's result has shape \(3,\)"):
        Utils.hessian(lambda v: v, torch.ones(3))
    with pytest.raises(ValueError, match="second has the shapes"):
        Utils.cosine_similarity(torch.ones(2), torch.ones(3))
    model = nn.Linear(3, 1)
    with pytest.raises(ValueError, match=r"inputs and targets begin with \(4,\), \(5,\)"):
        Utils.per_sample_gradients(model, nn.MSELoss(), torch.ones(4, 3), torch.ones(5, 1))
    with pytest.raises(ValueError, match="loss_fn's result has shape"):
        Utils.per_sample_gradients(
            model, nn.MSELoss(reduction="none"), torch.ones(4, 3), torch.ones(4, 1).expand(4, 2)
        )
    with pytest.raises(ValueError, match="chunk_size is 0"):
        Utils.per_sample_gradients(model, nn.MSELoss(), torch.ones(4, 3), torch.ones(4, 1), chunk_size=0)
