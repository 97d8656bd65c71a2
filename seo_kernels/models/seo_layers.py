"""The parts of the classifiers of document 000, by their names and arguments there."""

from __future__ import annotations

from torch import Tensor, nn

from seo_kernels.nn import positional_encoding
from seo_kernels.nn.sequences import check_embeddings
from seo_kernels.nn.sizes import check_heads
from seo_kernels.nn.transformer_layer import TransformerLayer
from seo_kernels.nn.typed_attention import TypedAttention


class PositionalEncoding(positional_encoding.PositionalEncoding):
    """x + sinusoids + a learned table: (S, d_model) or (B, S, d_model) -> the same.

    Args:
        d_model: width of the embeddings, even or odd.
        max_len: the longest sequence.
        dropout: of the sum, in [0, 1).

    Raises:
        TypeError, ValueError: a size or probability that is none.

    >>> import torch
    >>> PositionalEncoding(d_model=8)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(self, d_model: int, max_len: int = 5000, dropout: float = 0.0) -> None:
        super().__init__(d_model, max_len, dropout)


class MultiHeadAttention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) on ``sk.attention``.

    Args:
        d_model: width; a multiple of num_heads, at most 256 times as large.
        num_heads: heads.
        dropout: of the attention weights, in [0, 1).

    Raises:
        TypeError, ValueError: a size or probability that is none.

    >>> import torch
    >>> attention = MultiHeadAttention(d_model=64, num_heads=4)
    >>> attention(torch.randn(2, 5, 64), torch.randn(2, 9, 64), mask=torch.ones(2, 9)).shape
    torch.Size([2, 5, 64])
    """

    def __init__(self, d_model: int, num_heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        check_heads("d_model", d_model, "num_heads", num_heads)
        self.attention = TypedAttention(d_model, num_heads, dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """(B, Tq, d_model) -> the same.

        Args:
            key: (B, Tk, d_model); None: the query, self-attention.
            value: (B, Tk, d_model); None: the key.
            mask: (B, Tk) or (B, Tq, Tk) of any dtype, 1 attends, 0 hides. What sees nothing gets w_o's bias.

        Raises:
            TypeError: an argument that is no tensor, or of a wrong dtype.
            ValueError: a wrong shape, a value without its key, or a mask with other values.
        """
        if key is None:
            if value is not None:
                raise ValueError("value is given and key is None, expected the key of each value")
            key = query
        if value is None:
            value = key
        width = self.attention.d_model
        check_embeddings(query, width, "d_model", "query")
        check_embeddings(key, width, "d_model", "key")
        check_embeddings(value, width, "d_model", "value")
        if key.shape != value.shape or key.size(0) != query.size(0):
            raise ValueError(
                f"query, key and value have shapes {list(query.shape)}, {list(key.shape)} and "
                f"{list(value.shape)}, expected one batch, and a value for each key"
            )
        return self.attention.attend(query, key, value, mask)


class TransformerBlock(TransformerLayer):
    """``TransformerLayer``: (B, S, d_model), mask (B, S) or (B, S, S) -> (B, S, d_model).

    Args:
        d_model, num_heads: of the attention.
        d_ff: width of the feed-forward network; None: 4 d_model.
        dropout: in [0, 1).
        activation: a name that ``sk.linear`` knows, such as "gelu", "relu" or "swish".
        use_layer_norm: False leaves the normalisation out.
        use_residual_connections: False takes what either part gives in place of the sum with its input.

    Raises:
        TypeError, ValueError: a size, probability or name that is none.

    >>> import torch
    >>> TransformerBlock(d_model=16, num_heads=2)(torch.randn(2, 5, 16), torch.ones(2, 5)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int = 8,
        d_ff: int | None = None,
        dropout: float = 0.1,
        activation: str = "gelu",
        *,
        use_layer_norm: bool = True,
        use_residual_connections: bool = True,
    ) -> None:
        check_heads("d_model", d_model, "num_heads", num_heads)
        super().__init__(
            TypedAttention(d_model, num_heads, dropout),
            d_ff,
            dropout,
            activation,
            layer_norm=use_layer_norm,
            residual=use_residual_connections,
        )
