"""The documented losses: limiting cases and errors in the documented names."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seo_kernels.nn.metric_losses import supervised_contrastive_loss, triplet_loss
from seo_kernels.training import AdvancedLossFunctions as Losses

PREDICTIONS, TARGETS = torch.randn(4, 3), torch.tensor([0, 2, 1, -100])


def test_focal_loss() -> None:
    surprise = F.cross_entropy(PREDICTIONS[:3], TARGETS[:3], reduction="none")
    expected = (0.25 * (1 - torch.exp(-surprise)) ** 1.5 * surprise).mean()
    torch.testing.assert_close(Losses.focal_loss(PREDICTIONS, TARGETS, 0.25, 1.5), expected)
    torch.testing.assert_close(Losses.focal_loss(PREDICTIONS, TARGETS, gamma=0.0), surprise.mean())


def test_label_smoothing_loss() -> None:
    for smoothing in (0.0, 0.1, 1.0):
        expected = F.cross_entropy(PREDICTIONS, TARGETS, label_smoothing=smoothing)
        found = Losses.label_smoothing_loss(PREDICTIONS, TARGETS, smoothing)
        torch.testing.assert_close(found, expected)


def test_losses_of_embeddings() -> None:
    rows, labels = torch.randn(3, 6, 4), torch.arange(6) % 2
    expected = supervised_contrastive_loss(rows[0], labels, temperature=0.3, margin=0.5)
    assert torch.equal(Losses.contrastive_loss(rows[0], labels, 0.3, 0.5), expected)
    assert torch.equal(Losses.triplet_loss(*rows, 0.5), triplet_loss(*rows, margin=0.5))


@pytest.mark.parametrize("loss", [Losses.focal_loss, Losses.label_smoothing_loss])
@pytest.mark.parametrize(
    ("predictions", "targets", "error", "message"),
    [
        ([0.1], TARGETS, TypeError, "predictions is a list"),
        (PREDICTIONS, 1, TypeError, r"targets is an int \(1\)"),
        (TARGETS, TARGETS, TypeError, "predictions has dtype torch.int64"),
        (PREDICTIONS, PREDICTIONS, TypeError, "targets has dtype torch.float32, expected class indices"),
        (PREDICTIONS[0], TARGETS, ValueError, r"predictions has shape \(3,\)"),
        (PREDICTIONS, TARGETS[:3], ValueError, r"targets has shape \(3,\), expected \(4,\)"),
        (PREDICTIONS, TARGETS + 7, ValueError, "target"),
    ],
)
def test_wrong_classes(
    loss: Callable[..., Tensor], predictions: Tensor, targets: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        loss(predictions, targets)


def test_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="gamma is -1"):
        Losses.focal_loss(PREDICTIONS, TARGETS, gamma=-1)
    with pytest.raises(ValueError, match=r"smoothing is 1\.5"):
        Losses.label_smoothing_loss(PREDICTIONS, TARGETS, 1.5)
