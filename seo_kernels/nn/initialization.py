"""Recipes that set the weights of a whole model, by name."""

from __future__ import annotations

from torch import Tensor, nn

from seo_kernels.nn.sizes import check_choice

INITIALIZATIONS = ("xavier", "kaiming", "normal")
EMBEDDING_STD = 0.02


def initialize(model: nn.Module, method: str, embedding_std: float = EMBEDDING_STD) -> None:
    """Set the weights of the linear, convolution, embedding and normalisation layers in model.

    Linear layers and convolutions by the method, with biases of zero: "xavier", uniform (Glorot & Bengio
    2010, "Understanding the difficulty of training deep feedforward neural networks", eq. 16); "kaiming",
    normal over the outputs (He et al. 2015, "Delving Deep into Rectifiers", eq. 14); "normal", with
    a deviation of 0.02 (Radford et al. 2019). Embeddings are normal with the deviation embedding_std, their
    row for padding zero; normalisation layers start as the identity.

    Raises:
        TypeError, ValueError: no such method.

    >>> layer = nn.Linear(8, 8)
    >>> initialize(layer, "normal")
    >>> layer.bias.abs().max().item()
    0.0
    """
    check_choice("initialization_method", method, INITIALIZATIONS)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            _set_weight(module.weight, method)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=embedding_std)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx].detach())
        elif isinstance(module, (nn.LayerNorm, nn.BatchNorm1d, nn.BatchNorm2d)):
            module.reset_parameters()


def _set_weight(weight: Tensor, method: str) -> None:
    if method == "xavier":
        nn.init.xavier_uniform_(weight)
    elif method == "kaiming":
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
    else:
        nn.init.normal_(weight, std=EMBEDDING_STD)
