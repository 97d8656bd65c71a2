"""The norms of all gradients are those of their definition, whatever the gradients are like."""

import math

import pytest
import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.gradient_norms import gradient_norms, norms_of, total_gradient_norm, unwrapped


def with_gradients(*gradients: Tensor) -> nn.Module:
    model = nn.Module()
    for number, gradient in enumerate(gradients):
        parameter = nn.Parameter(torch.zeros(gradient.shape, dtype=gradient.dtype))
        parameter.grad = gradient
        model.register_parameter(f"p{number}", parameter)
    return model


def exact(gradient: Tensor) -> float:
    return float(gradient.double().square().sum().sqrt())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_norms_are_those_of_their_definition(dtype: torch.dtype) -> None:
    gradients = [torch.randn(shape, dtype=dtype) for shape in ((), (7,), (33, 17), (2, 3, 5), (400, 300))]
    norms = gradient_norms(with_gradients(*gradients))
    assert norms.names == ("p0", "p1", "p2", "p3", "p4")
    for found, gradient in zip(norms.norms, gradients, strict=True):
        assert found == pytest.approx(exact(gradient), rel=1e-12 if dtype == torch.float64 else 1e-5)
    assert norms.total == pytest.approx(math.sqrt(sum(exact(g) ** 2 for g in gradients)), rel=1e-5)
    assert norms.finite
    assert norms.missing == ()


def test_of_several_dtypes_and_in_order() -> None:
    gradients = [
        torch.full((4,), 1e-30, dtype=torch.float64),
        torch.full((4,), 2.0),
        torch.full((4,), 300.0, dtype=torch.float16),
        torch.full((4,), 4.0, dtype=torch.bfloat16),
        torch.full((4,), 5.0),
    ]
    assert norms_of(gradients) == pytest.approx([2e-30, 4.0, 600.0, 8.0, 10.0])


def test_half_precision_does_not_overflow() -> None:
    assert norms_of([torch.full((10000,), 60000.0, dtype=torch.float16)]) == pytest.approx([6e6], rel=1e-5)


def test_views_sparse_and_empty() -> None:
    matrix = torch.randn(6, 8)
    indices = torch.tensor([[1, 1, 3]])
    sparse = torch.sparse_coo_tensor(indices, torch.tensor([[3.0], [1.0], [3.0]]), (5, 1))
    found = norms_of([matrix.t()[::2], sparse, torch.zeros(0, 3)])
    assert found == pytest.approx([exact(matrix[:, ::2]), 5.0, 0.0])


@pytest.mark.parametrize(("bad", "shown"), [(math.nan, math.isnan), (math.inf, math.isinf)])
def test_what_is_not_finite_stays_so(bad: float, shown) -> None:  # type: ignore[no-untyped-def]
    norms = gradient_norms(with_gradients(torch.ones(3), torch.tensor([1.0, bad])))
    assert norms.norms[0] == pytest.approx(math.sqrt(3))
    assert shown(norms.norms[1])
    assert shown(norms.total)
    assert not norms.finite


def test_nan_beside_inf_is_nan() -> None:
    assert math.isnan(
        gradient_norms(with_gradients(torch.tensor([math.inf]), torch.tensor([math.nan]))).total
    )


def test_missing_frozen_and_shared() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].weight = model[1].weight
    model[2].requires_grad_(False)
    model[1](torch.ones(1, 2)).sum().backward()
    norms = gradient_norms(model)
    assert norms.names == ("0.weight", "1.bias")
    assert norms.missing == ("0.bias",)


def test_divided_by_the_loss_scale() -> None:
    model = nn.Linear(2, 1)
    (1024.0 * model(torch.tensor([[3.0, 4.0]])).sum()).backward()
    norms = gradient_norms(model, loss_scale=1024.0)
    assert norms.by_name() == {"weight": 5.0, "bias": 1.0}
    assert norms.loss_scale == 1024.0
    assert total_gradient_norm(model, loss_scale=1024.0) == pytest.approx(math.sqrt(26))


def test_names_are_those_of_the_model_within() -> None:
    model = nn.Linear(2, 1)
    compiled = torch.compile(model, backend="eager")
    assert isinstance(compiled, nn.Module)
    assert unwrapped(compiled) is model
    assert unwrapped(nn.DataParallel(model)) is model
    model(torch.ones(1, 2)).sum().backward()
    assert gradient_norms(compiled).names == ("weight", "bias")


def test_without_gradients_there_is_none() -> None:
    norms = gradient_norms(nn.Linear(2, 1))
    assert (norms.names, norms.total, norms.missing) == ((), 0.0, ("weight", "bias"))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="model has no parameters, expected at least one"):
        gradient_norms(nn.ReLU())
    with pytest.raises(TypeError, match="model is a list, expected a torch"):
        gradient_norms([])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"loss_scale is 0\.0, expected a number above 0"):
        gradient_norms(nn.Linear(1, 1), loss_scale=0.0)
