"""The one transformer layer of the documented models."""

from torch import Tensor, nn

from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.key_cache import LayerKeys
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.sizes import check_probability, check_size
from seo_kernels.nn.typed_attention import TypedAttention


class FeedForward(nn.Module):
    """act(x w_1 + b_1) w_2 + b_2 (Vaswani et al. 2017, eq. 2), with dropout between, on ``sk.linear``.

    Args:
        d_model: width of input and output.
        d_ff: width between; None: 4 d_model.
        dropout: in [0, 1).
        activation: a name that ``sk.linear`` knows, applied within the first product.

    >>> import torch
    >>> FeedForward(8, activation="swish")(torch.randn(2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(
        self, d_model: int, d_ff: int | None = None, dropout: float = 0.1, activation: str = "gelu"
    ) -> None:
        super().__init__()
        check_size("d_model", d_model)
        width = 4 * d_model if d_ff is None else check_size("d_ff", d_ff)
        self.up = Linear(d_model, width, activation=activation)
        self.dropout = Dropout(check_probability("dropout", dropout))
        self.down = Linear(width, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(..., d_model) -> the same."""
        hidden = self.up(x)
        if self.training:  # a call less for each token that is decoded
            hidden = self.dropout(hidden)
        return self.down(hidden)


class TransformerLayer(nn.Module):
    """Attention, then a feed-forward network, each normalised before and added to its input.

    "Pre-LN" of Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture", section 3.2: it
    trains without warm-up.

    Args:
        attention: the attention layer.
        d_ff, activation: as for ``FeedForward``.
        dropout: of what either part adds, and within the feed-forward network.
        layer_norm: False leaves the normalisation out.
        residual: False takes what a part gives in place of the sum.
    """

    def __init__(
        self,
        attention: TypedAttention,
        d_ff: int | None = None,
        dropout: float = 0.1,
        activation: str = "gelu",
        *,
        layer_norm: bool = True,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.residual = residual
        d_model = attention.d_model
        self.attention_norm = nn.LayerNorm(d_model) if layer_norm else nn.Identity()
        self.attention = attention
        self.feed_forward_norm = nn.LayerNorm(d_model) if layer_norm else nn.Identity()
        self.feed_forward = FeedForward(d_model, d_ff, dropout, activation)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, S, d_model) -> the same; the attention's mask is (B, S) or (B, S, S), 1 attends, 0 hides."""
        return self._added(x, self.attention(self.attention_norm(x), mask))

    def decode(self, x: Tensor, start: int, keys: LayerKeys) -> Tensor:
        """(B, T, d_model), the tokens from position ``start`` on -> the same: ``TypedAttention.decode``."""
        return self._added(x, self.attention.decode(self.attention_norm(x), start, keys))

    def _added(self, x: Tensor, attended: Tensor) -> Tensor:
        if self.training:
            attended = self.dropout(attended)
        x = x + attended if self.residual else attended
        transformed = self.feed_forward(self.feed_forward_norm(x))
        if self.training:
            transformed = self.dropout(transformed)
        return x + transformed if self.residual else transformed
