"""Statistics are those of their definitions, parameter by parameter and module by module."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from seo_kernels.diagnostics.gradient_statistics import gradient_statistics, merged, tensor_statistics


def model_with_gradients() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 7), nn.Sequential(nn.Linear(7, 3), nn.ReLU(), nn.Linear(3, 1)))
    for parameter in model.parameters():
        values = torch.randn_like(parameter) + 2.0
        parameter.grad = torch.where(torch.rand_like(parameter) < 0.3, 0.0, values)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_of_one_tensor(dtype: torch.dtype) -> None:
    tensor = (torch.randn(37, 11) * 3 + 1).to(dtype)
    tensor[::3] = 0.0
    (found,) = tensor_statistics([tensor])
    truth = tensor.double().numpy()
    near = pytest.approx
    close = 1e-12 if dtype == torch.float64 else 1e-5
    assert found.size == 407
    assert found.norm == near(np.linalg.norm(truth), rel=close)
    assert found.mean == near(truth.mean(), rel=close)
    assert found.std == near(truth.std(), rel=close)
    assert (found.min, found.max) == (truth.min(), truth.max())
    assert found.zeros == (truth == 0).mean()
    assert found.nonfinite == 0


def test_a_large_mean_does_not_spoil_the_deviation() -> None:
    (found,) = tensor_statistics([torch.tensor([1e8, 1e8 + 16, 1e8 - 16], dtype=torch.float32)])
    assert found.std == pytest.approx(16 * math.sqrt(2 / 3), rel=1e-6)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    (found,) = tensor_statistics([torch.tensor([1.0, math.nan, 3.0, -math.inf, 0.0])])
    assert (found.nonfinite, found.mean, found.min, found.max) == (2, pytest.approx(4 / 3), 0.0, 3.0)
    assert found.zeros == 0.2
    assert math.isnan(found.norm)
    (nothing,) = tensor_statistics([torch.tensor([math.nan, math.inf])])
    assert all(map(math.isnan, (nothing.mean, nothing.std, nothing.min, nothing.max)))


def test_sparse_and_empty() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1]]), torch.tensor([[3.0, 1.0], [1.0, 3.0]]), (4, 2))
    dense = tensor_statistics([sparse.to_dense()])
    assert tensor_statistics([sparse])[0].as_dict() == pytest.approx(dense[0].as_dict())
    (empty,) = tensor_statistics([torch.zeros(0, 3)])
    assert (empty.size, empty.norm, empty.zeros) == (0, 0.0, 0.0)
    assert math.isnan(empty.mean)


def test_modules_are_their_parameters_together() -> None:
    model = model_with_gradients()
    found = gradient_statistics(model)
    assert set(found.modules) == {"", "0", "1", "1.0", "1.2"}
    for name, statistics in found.modules.items():
        module = model.get_submodule(name)
        together = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        (truth,) = tensor_statistics([together.double()])
        assert statistics.as_dict() == pytest.approx(truth.as_dict(), rel=1e-5), name
    assert set(found.parameters) == {name for name, _ in model.named_parameters()}


def test_merging_keeps_what_is_not_finite_apart() -> None:
    parts = tensor_statistics([torch.tensor([math.inf, 2.0]), torch.tensor([math.nan]), torch.zeros(0)])
    together = merged(parts)
    assert (together.size, together.nonfinite, together.mean, together.max) == (3, 2, 2.0, 2.0)
    assert math.isnan(together.norm)
    assert merged([]).size == 0


def test_the_loss_scale_is_taken_out() -> None:
    model = model_with_gradients()
    plain = gradient_statistics(model).modules[""]
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad *= 64.0
    scaled = gradient_statistics(model, loss_scale=64.0).modules[""]
    assert scaled.as_dict() == pytest.approx(plain.as_dict())


def test_without_gradients_there_is_nothing() -> None:
    assert gradient_statistics(nn.Linear(1, 1)).as_dict() == {}
    with pytest.raises(ValueError, match="model has no parameters"):
        gradient_statistics(nn.ReLU())
    with pytest.raises(ValueError, match="loss_scale is -1"):
        gradient_statistics(nn.Linear(1, 1), loss_scale=-1)
