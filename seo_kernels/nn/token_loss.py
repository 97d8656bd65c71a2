"""The loss of a language model: one number over the tokens that count."""

import torch
from torch import Tensor, nn

from seo_kernels.nn.losses import CrossEntropyLoss, FocalLoss
from seo_kernels.nn.sizes import check_positive


class TokenLoss(nn.Module):
    """The mean, over the targets that are not -100, of

        alpha ((1 - s) (1 - p_y)^gamma (-log p_y) + s / V sum_c (-log p_c)),   p = softmax(logits)

    and 0 where no target counts: cross entropy with label smoothing s (Szegedy et al. 2016, "Rethinking the
    Inception Architecture", section 7), whose part for the target is focal (Lin et al. 2017) with gamma > 0.

    Args:
        label_smoothing: s, in [0, 1].
        alpha: above 0.
        gamma: at least 0.

    Raises:
        TypeError, ValueError: a number of another kind or out of range.

    >>> TokenLoss()(torch.zeros(1, 2, 4), torch.tensor([[3, -100]])).item() / torch.tensor(4.0).log().item()
    1.0
    """

    def __init__(self, label_smoothing: float = 0.0, alpha: float = 1.0, gamma: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = float(label_smoothing)
        self.alpha = check_positive("alpha", alpha)
        self.focal: FocalLoss | None = None
        self.spread: CrossEntropyLoss | None = None
        if gamma == 0.0:
            self.spread = CrossEntropyLoss(reduction="none", label_smoothing=label_smoothing)
        else:
            self.focal = FocalLoss(gamma=gamma, reduction="none")
            if label_smoothing > 0.0:
                self.spread = CrossEntropyLoss(reduction="none", label_smoothing=1.0)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, S, V), int64 (B, S) -> (), in float32 at least."""
        rows, indices = logits.flatten(0, 1), targets.flatten()
        if self.focal is None:
            assert self.spread is not None
            losses = self.spread(rows, indices)
        else:
            losses = self.focal(rows, indices)
            if self.spread is not None:
                s = self.label_smoothing
                losses = (1.0 - s) * losses + s * self.spread(rows, indices)
        if losses.dtype != torch.float64:
            losses = losses.float()
        count = (indices != -100).sum().clamp(min=1)
        return self.alpha * (losses.sum() / count)
