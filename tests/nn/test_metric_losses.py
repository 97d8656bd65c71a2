"""Contrastive and triplet losses: against their definitions, at the edges, and their errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from seo_kernels.nn.metric_losses import supervised_contrastive_loss, triplet_loss

LABELS = torch.tensor([0, 1, 0, 2, 1, 0])


def by_definition(embeddings: Tensor, labels: Tensor, temperature: float, margin: float) -> float:
    """Pair by pair."""
    rows = [row / row.norm() for row in embeddings]
    count = range(len(rows))
    pulled, pushed = [], []
    for i in count:
        weights = {j: math.exp(float(rows[i] @ rows[j]) / temperature) for j in count if j != i}
        friends = [j for j in weights if labels[j] == labels[i]]
        if friends:
            logs = [math.log(weights[j] / sum(weights.values())) for j in friends]
            pulled.append(-sum(logs) / len(friends))
        pushed += [
            max(0.0, float(rows[i] @ rows[j]) - (1 - margin)) ** 2 / 2
            for j in weights
            if labels[j] != labels[i]
        ]
    return sum(pulled) / max(len(pulled), 1) + sum(pushed) / max(len(pushed), 1)


@pytest.mark.parametrize(("temperature", "margin"), [(0.07, 1.0), (0.5, 0.3), (1.0, 0.0), (0.2, 2.0)])
@pytest.mark.parametrize("labels", [LABELS, torch.arange(6), torch.zeros(6, dtype=torch.int32)])
def test_contrastive_is_its_definition(temperature: float, margin: float, labels: Tensor) -> None:
    embeddings = torch.randn(6, 5, dtype=torch.float64)
    found = supervised_contrastive_loss(embeddings, labels, temperature=temperature, margin=margin)
    assert float(found) == pytest.approx(by_definition(embeddings, labels, temperature, margin), rel=1e-9)


@pytest.mark.parametrize("labels", [LABELS, torch.arange(6), torch.ones(6, dtype=torch.bool)])
def test_contrastive_gradients(labels: Tensor) -> None:
    embeddings = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)

    def loss(e: Tensor) -> Tensor:
        return supervised_contrastive_loss(e, labels, temperature=0.4, margin=0.8)

    assert gradcheck(loss, embeddings)
    assert gradgradcheck(loss, embeddings)


@pytest.mark.parametrize("rows", [torch.zeros(4, 3), torch.ones(4, 3), torch.randn(1, 3), torch.eye(4) * 1e4])
@pytest.mark.parametrize("temperature", [1e-3, 0.07])
def test_contrastive_stays_finite(rows: Tensor, temperature: float) -> None:
    rows = rows.clone().requires_grad_()
    for labels in (torch.arange(len(rows)), torch.zeros(len(rows)).long(), torch.arange(len(rows)) % 2):
        loss = supervised_contrastive_loss(rows, labels, temperature=temperature)
        (gradient,) = torch.autograd.grad(loss, rows)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient).all()
        assert loss >= 0


def test_contrastive_in_low_precision_computes_in_float32() -> None:
    rows = torch.randn(6, 8).bfloat16()
    expected = supervised_contrastive_loss(rows.float(), LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        for dtype in (torch.bfloat16, torch.float32):
            found = supervised_contrastive_loss(rows.to(dtype), LABELS)
            torch.testing.assert_close(found, expected)


def test_triplet_is_its_definition() -> None:
    anchor, positive, negative = torch.randn(3, 7, 4, dtype=torch.float64)
    expected = torch.nn.functional.triplet_margin_loss(anchor, positive, negative, 0.7, eps=0.0)
    torch.testing.assert_close(triplet_loss(anchor, positive, negative, margin=0.7), expected)


def test_triplet_gradients() -> None:
    inputs = [torch.randn(5, 3, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert gradcheck(lambda a, p, n: triplet_loss(a, p, n, margin=2.0), inputs)
    assert gradgradcheck(lambda a, p, n: triplet_loss(a, p, n, margin=2.0), inputs)


def test_triplet_where_embeddings_coincide() -> None:
    same = torch.ones(2, 3, requires_grad=True)
    loss = triplet_loss(same, same.detach(), same.detach())
    assert loss.item() == 1.0
    (gradient,) = torch.autograd.grad(loss, same, create_graph=True)
    assert not gradient.any()
    (second,) = torch.autograd.grad(gradient.sum(), same)
    assert torch.isfinite(second).all()


ROWS = torch.randn(4, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: supervised_contrastive_loss([1.0], LABELS), TypeError, "embeddings is a list"),
        (lambda: supervised_contrastive_loss(LABELS, LABELS), TypeError, "embeddings has dtype torch.int64"),
        (lambda: supervised_contrastive_loss(ROWS[0], LABELS), ValueError, r"embeddings has shape \(3,\)"),
        (lambda: supervised_contrastive_loss(ROWS[:0], LABELS[:0]), ValueError, "at least one row"),
        (lambda: supervised_contrastive_loss(ROWS, LABELS), ValueError, r"labels has shape .*\(N=4,\)"),
        (lambda: supervised_contrastive_loss(ROWS, ROWS[:, 0]), TypeError, "labels has dtype torch.float32"),
        (lambda: supervised_contrastive_loss(ROWS, [0, 1, 0, 1]), TypeError, "labels is a list"),
        (
            lambda: supervised_contrastive_loss(ROWS, LABELS[:4], temperature=0.0),
            ValueError,
            "temperature is 0.0, expected a number above 0",
        ),
        (
            lambda: supervised_contrastive_loss(ROWS, LABELS[:4], margin=-1.0),
            ValueError,
            "margin is -1.0, expected a number >= 0",
        ),
        (
            lambda: supervised_contrastive_loss(ROWS, LABELS[:4], temperature=math.nan),
            ValueError,
            "temperature is nan",
        ),
        (lambda: triplet_loss(ROWS, ROWS[:2], ROWS), ValueError, r"positive has shape .*the anchor's"),
        (lambda: triplet_loss(ROWS, ROWS, ROWS[:, :2]), ValueError, r"negative has shape .*the anchor's"),
        (lambda: triplet_loss(ROWS, ROWS, None), TypeError, "negative is a NoneType"),
        (lambda: triplet_loss(ROWS, ROWS, ROWS, margin="1"), TypeError, "margin is a str"),
    ],
)
def test_errors(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
