"""The loss with a learnt balance: it starts as the plain formula, and cannot be argued away."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from seo_kernels.nn.combined_loss import CustomLossFunction

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.1), (0.3, 2.0), (1e-3, 5)])
def test_it_starts_at_the_plain_formula(alpha: float, beta: float) -> None:
    p, t = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
    loss_fn = CustomLossFunction(alpha, beta).double()
    torch.testing.assert_close(loss_fn(p, t), alpha * F.mse_loss(p, t) + beta * F.l1_loss(p, t))


def test_default_weights() -> None:
    torch.testing.assert_close(CustomLossFunction().weights, torch.tensor([1.0, 0.1]))


def test_the_loss_requires_grad_even_where_predictions_do_not() -> None:
    loss_fn = CustomLossFunction()
    loss = loss_fn(torch.randn(10, 1), torch.randn(10, 1))
    assert loss.requires_grad
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in loss_fn.parameters())


@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("spread", [1e-2, 1.0, 30.0])
def test_steps_on_the_weights_alone_do_not_collapse_it(
    optimizer_class: type[torch.optim.Optimizer], spread: float
) -> None:
    """The bound is the means' inequality; a free weight would go on falling towards 0."""
    t = torch.randn(64, 2)
    p = t + spread * torch.randn(64, 2)
    loss_fn = CustomLossFunction()
    rate = 0.1 / max(1.0, spread**2) if optimizer_class is torch.optim.SGD else 0.1
    optimizer = optimizer_class(loss_fn.parameters(), lr=rate)  # type: ignore[call-arg]
    start = loss_fn(p, t).item()
    for _ in range(500):
        optimizer.zero_grad()
        loss_fn(p, t).backward()
        optimizer.step()
    end = loss_fn(p, t).item()
    least = 2 * (0.1 * F.mse_loss(p, t) * F.l1_loss(p, t)).sqrt().item()
    assert least * (1 - 1e-5) <= end <= start
    assert bool((loss_fn.weights > 0).all())
    torch.testing.assert_close(loss_fn.weights.prod(), torch.tensor(0.1))


def test_the_balance_is_learnt() -> None:
    """Where it settles both terms are equally large."""
    p, t = torch.randn(64), torch.randn(64)
    loss_fn = CustomLossFunction()
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=0.05)
    for _ in range(500):
        optimizer.zero_grad()
        loss_fn(p, t).backward()
        optimizer.step()
    squared, absolute = loss_fn.weights * torch.stack([F.mse_loss(p, t), F.l1_loss(p, t)])
    torch.testing.assert_close(squared, absolute, rtol=1e-3, atol=0.0)


def test_gradients_to_the_second_order() -> None:
    p = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    t = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    loss_fn = CustomLossFunction(0.7, 0.4).double()
    inputs = (p, t, torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True))

    def call(p: torch.Tensor, t: torch.Tensor, balance: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(loss_fn, {"log_balance": balance}, (p, t))

    assert gradcheck(call, inputs)
    assert gradgradcheck(call, inputs)


def test_its_state_is_saved() -> None:
    first, second = CustomLossFunction(), CustomLossFunction()
    with torch.no_grad():
        first.log_balance.copy_(torch.tensor([0.5, -0.5]))
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first.weights, second.weights)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_weights_out_of_range(value: float) -> None:
    with pytest.raises(ValueError, match="beta is"):
        CustomLossFunction(beta=value)


def test_predictions_that_do_not_fit() -> None:
    loss_fn = CustomLossFunction()
    with pytest.raises(ValueError, match=r"targets has shape \(8,\), expected that of predictions, \(8, 1\)"):
        loss_fn(torch.ones(8, 1), torch.ones(8))
    with pytest.raises(ValueError, match="at least one entry"):
        loss_fn(torch.ones(0), torch.ones(0))
    with pytest.raises(TypeError, match=r"predictions has dtype torch.int64"):
        loss_fn(torch.arange(3), torch.arange(3))
    with pytest.raises(TypeError, match="alpha is a str"):
        CustomLossFunction("1")  # type: ignore[arg-type]
