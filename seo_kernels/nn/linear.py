"""``Linear``: torch's layer on ``sk.linear``, with an activation if one is given."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seo_kernels.nn.fast_path import no_op
from seo_kernels.ops.checks import activation_name
from seo_kernels.ops.linear import linear


class Linear(nn.Linear):
    """``torch.nn.Linear`` on ``sk.linear``: act(input weight^T + bias).

    It takes that layer's place: same constructor, state_dict and repr, under ``torch.jit.script`` too.

    Args:
        in_features, out_features, bias, device, dtype: as for ``torch.nn.Linear``.
        activation: the name of one that ``sk.linear`` knows, applied within the matrix product; None: none.

    Raises:
        TypeError: activation is no name.
        ValueError: activation is unknown.

    A forward pre-hook without effect keeps ``torch.nn.TransformerEncoderLayer`` from its fast path, which
    would read the weight and leave out the activation. A scripted one sees no hooks: there, keep to
    activation=None.

    >>> layer = Linear(3, 5, activation="gelu")
    >>> layer
    Linear(in_features=3, out_features=5, bias=True, activation='gelu')
    >>> layer(torch.randn(2, 7, 3)).shape
    torch.Size([2, 7, 5])
    """

    activation: str | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        activation: str | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.activation = None if activation is None else activation_name(activation)
        self.register_forward_pre_hook(no_op)

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return scripted_linear(input, self.weight, self.bias, self.activation)
        else:
            return linear(input, self.weight, self.bias, self.activation)

    def extra_repr(self) -> str:
        shown = "" if self.activation is None else f", activation={self.activation!r}"
        return f"{super().extra_repr()}{shown}"


def scripted_linear(input: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None) -> Tensor:
    """``sk.linear`` under TorchScript: the op itself. Gradients are first order.

    Raises:
        ValueError: a nested input, as scripted encoders make them, with an activation.
    """
    if input.is_nested:
        if activation is not None:
            raise ValueError("input is a nested tensor and activation is given, expected one of both only")
        return F.linear(input, weight, bias)
    # The dtype that autocast gives a product; to ask whether it is on crashes scripted code (torch 2.13).
    dtype = torch.mm(input.new_empty([1, 0]), weight.new_empty([0, 1])).dtype
    if bias is not None:
        bias = bias.to(dtype)
    name = "" if activation is None else activation
    keep = torch.is_grad_enabled()
    return torch.ops.seo_kernels.linear_forward(input.to(dtype), weight.to(dtype), bias, name, keep)[0]
