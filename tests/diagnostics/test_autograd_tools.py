"""Small questions get right answers."""

import pytest
import torch
from torch import nn

from seo_kernels.diagnostics.autograd_tools import AutogradUtils


def test_gradients_are_switched() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    AutogradUtils.enable_gradients(model, False)
    assert not any(p.requires_grad for p in model.parameters())
    AutogradUtils.enable_gradients(model)
    assert all(p.requires_grad for p in model.parameters())


def test_norms_and_statistics() -> None:
    model = nn.Linear(4, 2)
    assert AutogradUtils.get_gradient_norms(model) == {}
    assert AutogradUtils.compute_gradient_statistics(model) == {}
    model(torch.randn(3, 4)).sum().backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}
    assert AutogradUtils.get_gradient_norms(model) == pytest.approx(norms)
    statistics = AutogradUtils.compute_gradient_statistics(model)
    assert statistics["parameters"]["bias"]["mean"] == 3.0  # type: ignore[index]
    assert statistics["modules"][""]["size"] == 10  # type: ignore[index]
    assert statistics["total_norm"] == pytest.approx((norms["weight"] ** 2 + norms["bias"] ** 2) ** 0.5)


def test_whether_gradients_exist() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    assert not AutogradUtils.check_gradients_exist(model)
    model[1](torch.ones(1, 2)).sum().backward()
    assert not AutogradUtils.check_gradients_exist(model)
    model[0].requires_grad_(False)
    assert AutogradUtils.check_gradients_exist(model)
    model.requires_grad_(False)
    assert not AutogradUtils.check_gradients_exist(model)


@pytest.mark.parametrize(
    "ask",
    [
        AutogradUtils.enable_gradients,
        AutogradUtils.get_gradient_norms,
        AutogradUtils.compute_gradient_statistics,
        AutogradUtils.check_gradients_exist,
    ],
)
def test_bad_models(ask) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="model has no parameters"):
        ask(nn.ReLU())
    with pytest.raises(TypeError, match="model is a str"):
        ask("model")


def test_bad_flag() -> None:
    with pytest.raises(TypeError, match="enabled is an int"):
        AutogradUtils.enable_gradients(nn.Linear(1, 1), 1)  # type: ignore[arg-type]
