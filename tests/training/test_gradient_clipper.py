"""Clipping against its plain definitions in float64; gradients that are not finite."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training.engines import small_model

from seo_kernels.training import GradientClipper, NonFiniteError

CLIP = {
    "norm": GradientClipper.clip_grad_norm_,
    "value": GradientClipper.clip_grad_value_,
    "adaptive": GradientClipper.clip_grad_adaptive_,
}


def with_gradients(scale: float = 3.0) -> nn.Module:
    model = small_model().double()
    for p in model.parameters():
        p.grad = scale * torch.randn_like(p)
    return model


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("limit", [0.7, 1e3])
def test_norm(limit: float) -> None:
    model = with_gradients()
    before = gradients(model)
    norm = math.sqrt(sum(float(g.square().sum()) for g in before))
    assert float(GradientClipper.clip_grad_norm_(model, max_norm=limit)) == pytest.approx(norm, rel=1e-7)
    factor = min(1.0, limit / norm)
    torch.testing.assert_close(gradients(model), [factor * g for g in before], rtol=1e-12, atol=0)
    assert (limit < norm) != all(map(torch.equal, before, gradients(model)))


def test_value() -> None:
    model = with_gradients()
    before = gradients(model)
    GradientClipper.clip_grad_value_(model, 0.7)
    assert all(map(torch.equal, gradients(model), [g.clamp(-0.7, 0.7) for g in before]))


@pytest.mark.parametrize("scale", [0.01, 3.0])
def test_adaptive(scale: float) -> None:
    model = with_gradients(scale)
    with torch.no_grad():
        model[0].weight[2] = 0.0  # type: ignore[index]
        model[0].bias.zero_()  # type: ignore[union-attr]
    before = dict(zip((n for n, _ in model.named_parameters()), gradients(model), strict=True))
    GradientClipper.clip_grad_adaptive_(model, 0.1, eps=1e-2, exclude=["3.weight"])
    for name, p in model.named_parameters():
        assert p.grad is not None
        expected = before[name].clone()
        units = list(expected) if p.dim() > 1 else [expected]
        weights = list(p.detach()) if p.dim() > 1 else [p.detach()]
        for unit, weight in zip(units, weights, strict=True):
            ratio = float(unit.norm()) / max(float(weight.norm()), 1e-2)
            if ratio > 0.1 and name != "3.weight":
                unit *= 0.1 / ratio
        torch.testing.assert_close(p.grad, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("clip", CLIP.values(), ids=CLIP)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_entry_spoils_no_other(clip: Callable[..., Tensor], bad: float) -> None:
    model = with_gradients()
    model[3].weight.grad[1, 2] = bad  # type: ignore[index,union-attr]
    before = gradients(model)
    with pytest.warns(RuntimeWarning, match=r"'3\.weight' \((nan|inf)\): nothing is clipped"):
        assert not math.isfinite(float(clip(model)))
    torch.testing.assert_close(gradients(model), before, rtol=0, atol=0, equal_nan=True)
    with pytest.raises(NonFiniteError, match=r"'3\.weight'.*: nothing was clipped"):
        clip(model, error_if_nonfinite=True)


def test_no_gradient_is_all_zero() -> None:
    model = with_gradients(0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for clip in CLIP.values():
            assert float(clip(model)) == 0.0
    assert not any(bool(g.any()) for g in gradients(model))


MODEL = with_gradients()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: GradientClipper.clip_grad_norm_(MODEL.parameters()), TypeError, "model is a generator"),  # type: ignore[arg-type]
        (lambda: GradientClipper.clip_grad_norm_(nn.ReLU()), ValueError, "model has no parameters"),
        (lambda: GradientClipper.clip_grad_norm_(nn.Linear(2, 2)), ValueError, "model has no gradients"),
        (lambda: GradientClipper.clip_grad_norm_(MODEL, max_norm=0.0), ValueError, r"max_norm is 0\.0"),
        (lambda: GradientClipper.clip_grad_norm_(MODEL, max_norm="1"), TypeError, "max_norm is a str"),  # type: ignore[arg-type]
        (lambda: GradientClipper.clip_grad_value_(MODEL, -1.0), ValueError, r"clip_value is -1\.0"),
        (lambda: GradientClipper.clip_grad_adaptive_(MODEL, math.nan), ValueError, "clipping is nan"),
        (lambda: GradientClipper.clip_grad_adaptive_(MODEL, eps=0.0), ValueError, r"eps is 0\.0"),
        (
            lambda: GradientClipper.clip_grad_adaptive_(MODEL, exclude=["head"]),
            ValueError,
            "exclude has head, expected parameters of model",
        ),
    ],
)
def test_errors(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
