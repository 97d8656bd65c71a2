"""Transformers with relative, local or sparse attention, and the parts that they are made of."""

from __future__ import annotations

from torch import Tensor

from seo_kernels.models.model import Model
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.sizes import check_probability, check_size
from seo_kernels.nn.token_encoder import TokenEncoder
from seo_kernels.nn.transformer_layer import TransformerLayer
from seo_kernels.nn.typed_attention import TypedAttention


class MultiHeadAttentionWithRelativePosition(TypedAttention):
    """``TypedAttention`` of the relative type: (B, S, d_model), mask (B, S) or (B, S, S) -> (B, S, d_model).

    Args:
        d_model, dropout, max_relative_position, causal: as for ``TypedAttention``.
        n_heads: its num_heads.
        attention_type: "relative", or another of its types.

    >>> import torch
    >>> attention = MultiHeadAttentionWithRelativePosition(d_model=64, n_heads=4)
    >>> attention(torch.randn(2, 20, 64), torch.ones(2, 20, 20)).shape
    torch.Size([2, 20, 64])
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 8,
        dropout: float = 0.1,
        max_relative_position: int = 32,
        attention_type: str = "relative",
        *,
        causal: bool = False,
    ) -> None:
        super().__init__(d_model, n_heads, dropout, attention_type, max_relative_position, causal=causal)


class TransformerBlock(TransformerLayer):
    """``TransformerLayer``: (B, S, d_model), mask (B, S) or (B, S, S) -> (B, S, d_model).

    Args:
        d_model, n_heads, max_relative_position, causal: of the attention.
        d_ff: width of the feed-forward network; None: 4 d_model.
        dropout: in [0, 1).
        activation: a name that ``sk.linear`` knows, such as "gelu", "relu" or "swish".
        use_relative_pos: attention of type "relative" instead of "standard".
        attention_type: the type by name, whatever use_relative_pos says: see ``TypedAttention``.

    Raises:
        TypeError, ValueError: a size, probability or name that is none.

    >>> import torch
    >>> TransformerBlock(16, n_heads=2, activation="swish")(torch.randn(2, 5, 16)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 8,
        d_ff: int | None = None,
        dropout: float = 0.1,
        activation: str = "gelu",
        use_relative_pos: bool = True,
        attention_type: str | None = None,
        max_relative_position: int = 32,
        *,
        causal: bool = False,
    ) -> None:
        if attention_type is None:
            attention_type = "relative" if use_relative_pos else "standard"
        attention = MultiHeadAttentionWithRelativePosition(
            d_model, n_heads, dropout, max_relative_position, attention_type, causal=causal
        )
        super().__init__(attention, d_ff, dropout, activation)


class CustomTransformer(Model, TokenEncoder):
    """A transformer that gives a vector for each token.

    Args:
        vocab_size: ids are below it.
        d_model, n_heads, d_ff, activation, use_relative_pos, attention_type, max_relative_position, causal:
            as for ``TransformerBlock``.
        n_layers: blocks.
        max_len: the longest sequence.
        dropout: everywhere, in [0, 1).

    Raises:
        TypeError, ValueError: a size, probability or name that is none.

    >>> import torch
    >>> model = CustomTransformer(vocab_size=100, d_model=16, n_layers=2, n_heads=2)
    >>> model(torch.randint(100, (4, 50)), torch.ones(4, 50)).shape
    torch.Size([4, 50, 16])
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 512,
        n_layers: int = 6,
        n_heads: int = 8,
        d_ff: int | None = None,
        max_len: int = 5000,
        dropout: float = 0.1,
        activation: str = "gelu",
        use_relative_pos: bool = True,
        attention_type: str | None = None,
        max_relative_position: int = 32,
        *,
        causal: bool = False,
    ) -> None:
        blocks = (
            TransformerBlock(
                d_model,
                n_heads,
                d_ff,
                dropout,
                activation,
                use_relative_pos,
                attention_type,
                max_relative_position,
                causal=causal,
            )
            for _ in range(check_size("n_layers", n_layers))
        )
        super().__init__(vocab_size, d_model, blocks, max_len, dropout)


class CustomTransformerModel(Model):
    """A small causal language model: the logits at a position are those of the token after it.

    Args:
        vocab_size, d_model, n_layers, n_heads, d_ff, max_len, dropout: as for ``CustomTransformer``.

    Raises:
        TypeError, ValueError: a size or probability that is none.

    >>> import torch
    >>> CustomTransformerModel(vocab_size=100, d_model=64)(torch.randint(100, (8, 16))).shape
    torch.Size([8, 16, 100])
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 128,
        n_layers: int = 2,
        n_heads: int = 8,
        d_ff: int | None = None,
        max_len: int = 5000,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = CustomTransformer(
            vocab_size,
            d_model,
            n_layers,
            n_heads,
            d_ff,
            max_len,
            check_probability("dropout", dropout),
            causal=True,
        )
        self.head = Linear(d_model, vocab_size)

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Ids (B, S) -> logits (B, S, vocab_size); mask and errors are those of ``CustomTransformer``."""
        return self.head(self.encoder(input_ids, mask))
