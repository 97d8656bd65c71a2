"""Embedding, positions, layers, normalisation: what the documented transformers are made of."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from seo_kernels.nn.layer_stack import LayerStack
from seo_kernels.nn.positional_encoding import PositionalEncoding
from seo_kernels.nn.sequences import bool_mask, check_embeddings, check_ids, check_tensor
from seo_kernels.nn.sizes import check_size


class TokenEncoder(nn.Module):
    """From token ids to vectors.

    Args:
        vocab_size: ids are below it.
        d_model: width.
        layers: modules of (x, mask), x (B, S, d_model) and mask bool or None.
        max_len: the longest sequence.
        dropout: of the embeddings, in [0, 1).
        layer_norm: normalise what the last layer gives.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        layers: Iterable[nn.Module],
        max_len: int = 5000,
        dropout: float = 0.1,
        *,
        layer_norm: bool = True,
    ) -> None:
        super().__init__()
        self.vocab_size = check_size("vocab_size", vocab_size)
        self.d_model = check_size("d_model", d_model)
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.positions = PositionalEncoding(d_model, max_len, dropout)
        self.layers = LayerStack(layers)
        self.norm = nn.LayerNorm(d_model) if layer_norm else nn.Identity()

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Ids (B, S), or embeddings (B, S, d_model) in their place -> (B, S, d_model).

        Args:
            mask: (B, S) for padding or (B, S, S) for pairs, of any dtype, 1 attends, 0 hides. Where a mask
                (B, S) says padding, zeros come out.

        Raises:
            TypeError: an argument of another kind or dtype.
            ValueError: a wrong shape, a sequence longer than max_len, an id that is out of the vocabulary, or
                a mask with other values than 0 and 1.
        """
        if not torch.jit.is_scripting():
            check_tensor("x", x, "a tensor of token ids (batch, length)")
        if x.is_floating_point():
            check_embeddings(x, self.d_model, "d_model")
            hidden = x
        else:
            check_ids(x, self.vocab_size)
            hidden = self.embedding(x)
        if mask is not None:
            mask = bool_mask(mask, x.size(0), x.size(1), x.size(1))
        hidden = self.norm(self.layers(self.positions(hidden), mask))
        if mask is not None and mask.dim() == 2:
            hidden = hidden.masked_fill(mask.logical_not()[:, :, None], 0.0)
        return hidden
