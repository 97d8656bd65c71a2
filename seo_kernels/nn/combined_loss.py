"""``CustomLossFunction``: squared and absolute error together, whose balance is learnt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seo_kernels.nn.functions import check_same_shape
from seo_kernels.nn.sizes import check_positive
from seo_kernels.ops.checks import FLOATING


class CustomLossFunction(nn.Module):
    """alpha e^s mean((p - t)^2) + beta e^-s mean(|p - t|), where s starts at 0 and is learnt.

    s is half the difference of the two entries of ``log_balance``, a parameter. Both weights are positive
    whatever an optimizer does, and their product stays alpha beta: for given errors no s brings the loss
    below 2 sqrt(alpha beta MSE L1) (the means' inequality), which is reached where both terms are equally
    large. A loss whose weights were free would be minimised by weights of 0, whatever the model.

    Weight decay on ``log_balance`` pulls towards alpha and beta as given.

    Args:
        alpha: of the mean squared error, above 0.
        beta: of the mean absolute error, above 0.

    Raises:
        TypeError, ValueError: a weight that is no finite number above 0; in a call, predictions and targets
            that are no floating tensors of one shape.

    >>> loss_fn = CustomLossFunction(alpha=1.0, beta=0.5)
    >>> loss_fn(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 1.0])).item()
    2.5
    """

    def __init__(self, alpha: float = 1.0, beta: float = 0.1) -> None:
        super().__init__()
        self.alpha = check_positive("alpha", alpha)
        self.beta = check_positive("beta", beta)
        self.log_balance = nn.Parameter(torch.zeros(2))

    @property
    def weights(self) -> Tensor:
        """(2,): what the squared and the absolute error are multiplied by now."""
        given = self.log_balance.new_tensor([self.alpha, self.beta])
        return given * (self.log_balance - self.log_balance.mean()).exp()

    def forward(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The loss, a scalar that requires grad, of predictions and targets of one shape."""
        check_same_shape(predictions, targets)
        for name, tensor in (("predictions", predictions), ("targets", targets)):
            if tensor.dtype not in FLOATING:
                raise TypeError(f"{name} has dtype {tensor.dtype}, expected a floating one")
            if tensor.numel() == 0:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected at least one entry")
        difference = predictions - targets
        terms = torch.stack([difference.square().mean(), difference.abs().mean()])
        return (self.weights.to(terms.dtype) * terms).sum()

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}"
