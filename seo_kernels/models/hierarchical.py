"""Attention over the words of a sentence, then over the sentences of a document."""

from __future__ import annotations

from torch import Tensor, nn

from seo_kernels.models.model import Model
from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.layer_stack import LayerStack
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.pooling import AttentionPooling
from seo_kernels.nn.recurrent import left_aligned, run_packed
from seo_kernels.nn.sequences import check_ids, padding_mask
from seo_kernels.nn.sizes import check_probability, check_size


class HierarchicalAttentionNetwork(Model):
    """Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", section 2.2.

    What differs from it: a learned vector for each place in the document is added to its sentence.

    Args:
        vocab_size: ids are below it.
        embed_dim: width of the words' embeddings.
        hidden_size: of the GRUs, per direction.
        num_classes: of the classifier.
        num_sentences: the most that a document may have.
        dropout: in [0, 1).

    Raises:
        TypeError, ValueError: a size or probability that is none.

    >>> import torch
    >>> model = HierarchicalAttentionNetwork(50, embed_dim=8, hidden_size=4, num_classes=4, num_sentences=5)
    >>> model(torch.randint(50, (3, 5, 20))).shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int = 200,
        hidden_size: int = 128,
        num_classes: int = 2,
        num_sentences: int = 25,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.vocab_size = check_size("vocab_size", vocab_size)
        self.num_sentences = check_size("num_sentences", num_sentences)
        width = 2 * check_size("hidden_size", hidden_size)
        self.embedding = nn.Embedding(vocab_size, check_size("embed_dim", embed_dim))
        self.words = LayerStack([PooledGRU(embed_dim, hidden_size)])
        self.places = nn.Embedding(num_sentences, width)
        self.sentences = LayerStack([PooledGRU(width, hidden_size)])
        self.dropout = Dropout(check_probability("dropout", dropout))
        self.classifier = Linear(width, check_size("num_classes", num_classes))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Ids (B, sentences, words) -> logits (B, num_classes).

        Args:
            mask: (B, sentences, words) of any dtype, 1 for a word, 0 for padding, anywhere. A sentence
                without words is padding itself.

        Raises:
            TypeError, ValueError: an argument that does not fit.
        """
        check_ids(x, self.vocab_size, "(batch, sentences, words)")
        batch, sentences, words = x.shape
        if sentences > self.num_sentences:
            raise ValueError(
                f"x has {sentences} sentences, expected at most num_sentences={self.num_sentences}"
            )
        present = some = None
        if mask is not None:
            shown = padding_mask(mask, list(x.shape))
            present, some = shown.view(batch * sentences, words), shown.any(2)
        embedded = self.dropout(self.embedding(x)).flatten(0, 1)  # (B * sentences, words, embed_dim)
        vectors = self.words(embedded, present).view(batch, sentences, -1)
        vectors = self.dropout(vectors + self.places.weight[:sentences])
        return self.classifier(self.dropout(self.sentences(vectors, some)))


class PooledGRU(nn.Module):
    """A GRU in both directions, and attention over its states: one vector for a sequence."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True, bidirectional=True)
        self.pool = AttentionPooling(2 * hidden_size)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """(B, S, input_size), present bool (B, S) -> (B, 2 hidden_size)."""
        if present is None:
            return self.pool(self.gru(x)[0])
        x, present = left_aligned(x, present)
        return self.pool(run_packed(self.gru, x, present.sum(1)), present)
