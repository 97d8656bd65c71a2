"""Classifiers of text that join two kinds of network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from seo_kernels.models.convolutional import CNNFeatureExtractor
from seo_kernels.models.model import Model
from seo_kernels.models.recurrent import LSTMWithAttention
from seo_kernels.models.transformer import CustomTransformer
from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.pooling import MeanPooling
from seo_kernels.nn.sequences import bool_mask, check_ids, check_tensor, present_by_lengths, present_positions
from seo_kernels.nn.sizes import check_probability, check_size


class CNNLSTMHybrid(Model):
    """Embeddings, convolutions of several kernel sizes, an LSTM with attention, their mean, a classifier.

    Args:
        vocab_size: ids are below it.
        embed_dim: width of the embeddings.
        hidden_dims, kernel_sizes: as for ``CNNFeatureExtractor``.
        lstm_hidden_size, bidirectional, attention_type: as for ``LSTMWithAttention``.
        num_classes: of the classifier.
        dropout: everywhere, in [0, 1).

    Raises:
        TypeError, ValueError: a size, probability or name that is none.

    >>> import torch
    >>> model = CNNLSTMHybrid(50, 8, hidden_dims=[6], lstm_hidden_size=4, num_classes=3)
    >>> model(torch.randint(50, (2, 9)), torch.tensor([5, 9])).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int = 300,
        hidden_dims: Sequence[int] = (128, 256, 512),
        kernel_sizes: Sequence[int] = (3, 4, 5),
        lstm_hidden_size: int = 256,
        num_classes: int = 2,
        dropout: float = 0.2,
        bidirectional: bool = True,
        attention_type: str = "dot",
    ) -> None:
        super().__init__()
        self.vocab_size = check_size("vocab_size", vocab_size)
        self.embedding = nn.Embedding(vocab_size, check_size("embed_dim", embed_dim))
        self.cnn = CNNFeatureExtractor(embed_dim, hidden_dims, kernel_sizes, dropout)
        self.lstm = LSTMWithAttention(
            self.cnn.output_dim,
            lstm_hidden_size,
            bidirectional=bidirectional,
            dropout=dropout,
            attention_type=attention_type,
        )
        self.pool = MeanPooling()
        self.dropout = Dropout(check_probability("dropout", dropout))
        self.classifier = Linear(self.lstm.output_dim, check_size("num_classes", num_classes))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Ids (B, S) -> logits (B, num_classes).

        Args:
            lengths: int (B,), from 0 to S, in any order; None: all as long as x.

        Raises:
            TypeError, ValueError: an argument that does not fit.
        """
        check_ids(x, self.vocab_size)
        present = None if lengths is None else present_by_lengths(lengths, x.size(0), x.size(1), x.device)
        states = self.lstm(self.cnn.features(self.embedding(x), present), lengths)
        return self.classifier(self.dropout(self.pool(states, present)))


class TransformerCNN(Model):
    """A transformer, convolutions of several kernel sizes over what it gives, and a classifier.

    Args:
        vocab_size, d_model, n_layers, n_heads, d_ff, max_len, activation, use_relative_pos, attention_type,
            max_relative_position: as for ``CustomTransformer``.
        cnn_hidden_dims, cnn_kernel_sizes: as for ``CNNFeatureExtractor``.
        num_classes: of the classifier.
        dropout: everywhere, in [0, 1).

    Raises:
        TypeError, ValueError: a size, probability or name that is none.

    >>> import torch
    >>> model = TransformerCNN(50, 16, n_layers=1, n_heads=2, cnn_hidden_dims=[8], num_classes=3)
    >>> model(torch.randint(50, (2, 9)), torch.ones(2, 9)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 256,
        n_layers: int = 4,
        n_heads: int = 8,
        d_ff: int | None = None,
        cnn_hidden_dims: Sequence[int] = (128, 256, 512),
        cnn_kernel_sizes: Sequence[int] = (3, 4, 5),
        num_classes: int = 2,
        dropout: float = 0.15,
        max_len: int = 5000,
        activation: str = "gelu",
        use_relative_pos: bool = True,
        attention_type: str | None = None,
        max_relative_position: int = 32,
    ) -> None:
        super().__init__()
        self.encoder = CustomTransformer(
            vocab_size,
            d_model,
            n_layers,
            n_heads,
            d_ff,
            max_len,
            dropout,
            activation,
            use_relative_pos,
            attention_type,
            max_relative_position,
        )
        self.cnn = CNNFeatureExtractor(d_model, cnn_hidden_dims, cnn_kernel_sizes, dropout)
        self.dropout = Dropout(dropout)
        self.classifier = Linear(self.cnn.output_dim, check_size("num_classes", num_classes))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Ids (B, S) -> logits (B, num_classes).

        Args:
            mask: as for ``CustomTransformer``. In one of pairs (B, S, S), what no query sees is padding.

        Raises:
            TypeError, ValueError: an argument that does not fit.
        """
        check_tensor("x", x, "a tensor of token ids (batch, length)")
        present = None
        if mask is not None:
            mask = bool_mask(mask, x.size(0), x.size(1), x.size(1))
            present = present_positions(mask)
        return self.classifier(self.dropout(self.cnn(self.encoder(x, mask), present)))
