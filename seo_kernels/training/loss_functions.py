"""The documented loss functions, by their documented names."""

from __future__ import annotations

from torch import Tensor

from seo_kernels.nn.metric_losses import supervised_contrastive_loss, triplet_loss
from seo_kernels.nn.sizes import check_not_negative
from seo_kernels.ops.checks import FLOATING, check_finite, kind
from seo_kernels.ops.losses import cross_entropy, focal_loss


class AdvancedLossFunctions:
    """Losses of classes and of embeddings; each is a function that returns a scalar.

    >>> import torch
    >>> predictions, targets = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    >>> AdvancedLossFunctions.focal_loss(predictions, targets, alpha=1.0, gamma=2.0).shape
    torch.Size([])
    """

    @staticmethod
    def focal_loss(
        predictions: Tensor, targets: Tensor, alpha: float | Tensor = 1.0, gamma: float = 2.0
    ) -> Tensor:
        """mean(alpha (1 - p)^gamma (-log p)), p the probability of the target: see ``sk.focal_loss``.

        Args:
            predictions: (N, C) or (N, C, d1, ...), scores of the classes.
            targets: class indices of the predictions' shape without C; -100 is left out.
            alpha: a number, or a tensor (C,) with one per class.
            gamma: at least 0; 0 gives cross entropy.

        Raises:
            TypeError: an argument of another kind or dtype.
            ValueError: shapes that do not fit, a number out of range, a target that is no class.
        """
        _check_classes(predictions, targets)
        check_not_negative("gamma", gamma)
        return focal_loss(predictions, targets, alpha=alpha, gamma=gamma)

    @staticmethod
    def label_smoothing_loss(predictions: Tensor, targets: Tensor, smoothing: float = 0.1) -> Tensor:
        """Cross entropy with 1 - smoothing on the target and the rest on all classes alike.

        Args:
            predictions, targets: as for ``focal_loss``.
            smoothing: in [0, 1]; 0 gives cross entropy.

        Raises:
            TypeError: an argument of another kind or dtype.
            ValueError: shapes that do not fit, a number out of range, a target that is no class.

        Source: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision", section 7.
        """
        _check_classes(predictions, targets)
        check_finite("smoothing", smoothing, "a number in [0, 1]")
        if not 0.0 <= smoothing <= 1.0:
            raise ValueError(f"smoothing is {smoothing}, expected a number in [0, 1]")
        return cross_entropy(predictions, targets, label_smoothing=smoothing)

    @staticmethod
    def contrastive_loss(
        embeddings: Tensor, labels: Tensor, temperature: float = 0.07, margin: float = 1.0
    ) -> Tensor:
        """Pull embeddings (N, D) of equal labels (N,) together: see ``supervised_contrastive_loss``.

        Args:
            temperature: above 0, of the similarities.
            margin: at least 0; negatives that are more similar than 1 - margin are pushed away.

        Raises:
            TypeError, ValueError: an argument that does not fit.
        """
        return supervised_contrastive_loss(embeddings, labels, temperature=temperature, margin=margin)

    @staticmethod
    def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 1.0) -> Tensor:
        """mean(max(0, |anchor - positive| - |anchor - negative| + margin)) of (N, D) each.

        Raises:
            TypeError, ValueError: an argument that does not fit.
        """
        return triplet_loss(anchor, positive, negative, margin=margin)


def _check_classes(predictions: Tensor, targets: Tensor) -> None:
    """Errors that the ops would give in the names of their own arguments."""
    for name, value in (("predictions", predictions), ("targets", targets)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is {kind(value)}, expected a tensor")
    if predictions.dtype not in FLOATING:
        raise TypeError(f"predictions has dtype {predictions.dtype}, expected floating point (N, C)")
    if targets.is_floating_point() or targets.is_complex():
        raise TypeError(f"targets has dtype {targets.dtype}, expected class indices, int64")
    if predictions.dim() < 2:
        raise ValueError(f"predictions has shape {tuple(predictions.shape)}, expected (N, C)")
    expected = (predictions.shape[0], *predictions.shape[2:])
    if tuple(targets.shape) != expected:
        raise ValueError(
            f"targets has shape {tuple(targets.shape)}, expected {expected}, one class for each of "
            f"predictions {tuple(predictions.shape)}"
        )
