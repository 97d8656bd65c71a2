"""The documented language model: a causal transformer with any attention, positions and loss of its
configuration."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seo_kernels.models.advanced_attention import AdvancedMultiHeadAttention
from seo_kernels.models.advanced_config import ModelConfig
from seo_kernels.models.model import Model
from seo_kernels.nn.attention_inputs import shape_text
from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.initialization import EMBEDDING_STD, initialize
from seo_kernels.nn.key_cache import KeyCache
from seo_kernels.nn.layer_stack import LayerStack
from seo_kernels.nn.linear import scripted_linear
from seo_kernels.nn.positional_encoding import PositionalEncoding
from seo_kernels.nn.rotary import RotaryPositions
from seo_kernels.nn.sequences import bool_mask, check_embeddings, check_ids, present_positions, readable
from seo_kernels.nn.sizes import check_size
from seo_kernels.nn.token_loss import TokenLoss
from seo_kernels.nn.transformer_layer import TransformerLayer
from seo_kernels.ops.linear import linear


class AdvancedTransformerModel(Model):
    """A causal language model: the logits at a position are those of the token after it.

    Pre-LN layers (``TransformerLayer``); the output shares the embedding's weight (Press & Wolf 2017, "Using
    the Output Embedding to Improve Language Models"). Rotary positions turn queries and keys, other
    encodings are added to the embeddings.

    The loss is that of ``TokenLoss``: cross entropy or, where the configuration asks for it, the focal loss,
    either with label smoothing.

    Args:
        config: copied; ``config`` is the model's own.

    Raises:
        TypeError: no ``ModelConfig``.

    >>> model = AdvancedTransformerModel(ModelConfig(vocab_size=100, d_model=16, n_layers=2, n_heads=2))
    >>> ids = torch.randint(100, (4, 50))
    >>> outputs = model(ids, labels=ids)
    >>> outputs["logits"].shape, outputs["loss"].shape
    (torch.Size([4, 50, 100]), torch.Size([]))
    """

    config_type = ModelConfig
    __jit_unused_properties__ = ("config",)
    __jit_ignored_attributes__ = ("arguments",)

    def __init__(self, config: ModelConfig) -> None:
        if not isinstance(config, ModelConfig):
            raise TypeError(f"config is a {type(config).__name__}, expected a ModelConfig")
        super().__init__()
        config = self.arguments["config"] = replace(config)
        self.max_seq_len = config.max_seq_len
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        rotary: RotaryPositions | None = None
        self.positions: PositionalEncoding | None = None
        if config.positions == "rope":
            rotary = RotaryPositions(config.d_model // config.n_heads, config.max_seq_len)
        else:
            self.positions = PositionalEncoding(
                config.d_model, config.max_seq_len, 0.0, sinusoidal=config.positions == "sinusoidal"
            )
        # else the sinusoids drown the words (Vaswani et al. 2017, section 3.4)
        self.embedding_scale = config.d_model**0.5 if config.positions == "sinusoidal" else 1.0
        self.dropout = Dropout(config.dropout)
        self.layers = LayerStack(_layer(config, rotary) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.loss = TokenLoss(config.label_smoothing, config.alpha, config.gamma)
        initialize(self, config.initialization_method)
        if config.gradient_checkpointing:
            self.gradient_checkpointing_enable()

    @property
    def config(self) -> ModelConfig:
        """What the model was made with, and what became of it since."""
        config: ModelConfig = self.arguments["config"]
        return config

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Logits, and with labels the loss.

        Args:
            input_ids: int (B, S), S at most max_seq_len.
            attention_mask: (B, S) for padding or (B, S, S) for pairs of query and key, of any dtype, 1
                attends, 0 hides.
            labels: int64 (B, S), the inputs themselves: they are shifted inside, so that position t is to
                give label t + 1. -100 and padding are left out.

        Returns:
            "logits" (B, S, vocab_size), and with labels "loss" ().

        Raises:
            TypeError: an argument of another kind or dtype.
            ValueError: a wrong shape, a sequence longer than max_seq_len, an id that is out of the
                vocabulary, or a mask with other values than 0 and 1.
        """
        check_ids(input_ids, self.embedding.num_embeddings, argument="input_ids")
        batch, length = input_ids.size(0), input_ids.size(1)
        if attention_mask is not None:
            attention_mask = bool_mask(attention_mask, batch, length, length, "attention_mask")
        if labels is not None and list(labels.shape) != [batch, length]:
            raise ValueError(f"labels has shape {shape_text(labels)}, expected ({batch}, {length})")
        return self.forward_with_embeddings(self.embedding(input_ids), attention_mask, labels)

    def forward_with_embeddings(
        self, embeddings: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The same from vectors (B, P + S, d_model) in place of ids.

        Where mask and labels are for S positions only, the first P are prompts: visible, without labels.
        The logits are those of all positions.
        """
        check_embeddings(embeddings, self.embedding.embedding_dim, "d_model", "embeddings")
        batch, length = embeddings.size(0), embeddings.size(1)
        self._check_length(length)
        visible: Tensor | None = None
        present: Tensor | None = None
        if attention_mask is not None:
            mask = _behind_prompts(attention_mask, length)
            mask = bool_mask(mask, batch, length, length, "attention_mask")
            # where all are visible attention has less to look at without a mask
            if not (readable(mask) and bool(mask.all())):
                visible, present = mask, present_positions(mask)
                embeddings = embeddings.masked_fill(present.logical_not()[:, :, None], 0.0)
        hidden = self.norm(self.layers(self.dropout(self._placed(embeddings, 0)), visible))
        logits = self._logits(hidden)
        outputs = {"logits": logits}
        if labels is not None:
            targets = _next_labels(labels, present, batch, length)
            outputs["loss"] = self.loss(logits, targets)
        return outputs

    @torch.jit.unused
    def new_cache(self) -> KeyCache:
        """An empty cache for ``decode``: of one batch of sequences."""
        return KeyCache(len(self.layers.layers), self.max_seq_len)

    @torch.jit.unused
    @torch.no_grad()
    def decode(self, input_ids: Tensor, cache: KeyCache) -> Tensor:
        """The logits (B, vocab_size) of the token after these, which go on where the cache ends.

        Args:
            input_ids: int (B, T), a whole prompt or a token at a time.
            cache: of ``new_cache``, for this batch; it grows by T. Where this raises it stays as it was.

        Raises:
            TypeError: no ids, or no cache.
            ValueError: a wrong shape, an id out of the vocabulary, more than max_seq_len tokens together, or
                a cache of another model or batch.
        """
        check_ids(input_ids, self.embedding.num_embeddings, argument="input_ids")
        if not isinstance(cache, KeyCache):
            raise TypeError(f"cache is a {type(cache).__name__}, expected one that new_cache gave")
        if len(cache.layers) != len(self.layers.layers):
            raise ValueError(
                f"cache is of {len(cache.layers)} layers, expected one of this model's new_cache, "
                f"{len(self.layers.layers)} layers"
            )
        start = cache.length
        end = start + input_ids.size(1)
        self._check_length(end)
        hidden = self.dropout(self._placed(self.embedding(input_ids), start))
        for layer, keys in zip(self.layers.layers, cache.layers, strict=True):
            assert isinstance(layer, TransformerLayer)
            hidden = layer.decode(hidden, start, keys)
        cache.length = end
        return self._logits(self.norm(hidden[:, -1]))

    @torch.jit.unused
    def resize_token_embeddings(self, vocab_size: int) -> None:
        """Give the embedding, and so the output, that many rows: the first stay, new ones are drawn.

        Make the optimizer after it: the weight is another parameter.

        Raises:
            TypeError, ValueError: no size.
        """
        old = self.embedding.weight
        kept = min(check_size("vocab_size", vocab_size), old.size(0))
        new = old.new_empty(vocab_size, old.size(1))
        with torch.no_grad():
            new.normal_(std=EMBEDDING_STD)
            new[:kept] = old[:kept]
        self.embedding.weight = nn.Parameter(new, requires_grad=old.requires_grad)
        self.embedding.num_embeddings = vocab_size
        self.arguments["config"] = replace(self.config, vocab_size=vocab_size)

    def _placed(self, embeddings: Tensor, start: int) -> Tensor:
        """With what is added for their positions, the first of which is ``start``."""
        if self.positions is None:
            return embeddings
        if self.embedding_scale != 1.0:
            embeddings = embeddings * self.embedding_scale
        return self.positions(embeddings, start)

    def _check_length(self, length: int) -> None:
        if length > self.max_seq_len:
            raise ValueError(
                f"the sequence is {length} tokens long, prompts and cache included, expected at most "
                f"max_seq_len={self.max_seq_len}"
            )

    def _logits(self, hidden: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return scripted_linear(hidden, self.embedding.weight, None, None)
        else:
            return linear(hidden, self.embedding.weight)


def _layer(config: ModelConfig, rotary: RotaryPositions | None) -> TransformerLayer:
    attention = AdvancedMultiHeadAttention(
        config.d_model,
        config.n_heads,
        config.dropout,
        config.attention,
        config.max_relative_position,
        config.use_flash_attention,
        config.use_xformers,
        causal=True,
        rotary=rotary,
    )
    return TransformerLayer(attention, config.d_ff, config.dropout, config.activation)


def _behind_prompts(mask: Tensor, length: int) -> Tensor:
    """A mask (B, S) or (B, S, S) for ``length`` positions: the surplus in front is visible."""
    prompts = length - mask.size(-1)
    if prompts <= 0 or mask.dim() < 2 or mask.dim() > 3:
        return mask
    mask = F.pad(mask, [prompts, 0], value=1.0)
    if mask.dim() == 3:  # prompts see prompts only: what lies behind them may be padding
        mask = F.pad(mask, [0, 0, prompts, 0])
        mask[:, :prompts, :prompts] = 1
    return mask


def _next_labels(labels: Tensor, present: Tensor | None, batch: int, length: int) -> Tensor:
    """What each position is to give, (B, length): the label of the next one, -100 where nothing is."""
    if labels.dim() != 2 or labels.size(0) != batch or labels.size(1) > length:
        raise ValueError(f"labels has shape {shape_text(labels)}, expected ({batch}, {length})")
    if labels.is_floating_point():
        raise TypeError(f"labels has dtype {labels.dtype}, expected int64: token ids, -100 to leave one out")
    # prompts have none, and after the last position there is no other
    targets = F.pad(labels, [length - labels.size(1), 0], value=-100.0)
    targets = F.pad(targets[:, 1:], [0, 1], value=-100.0)
    if present is not None:
        counted = present.logical_and(F.pad(present[:, 1:], [0, 1]))
        targets = targets.masked_fill(counted.logical_not(), -100)
    return targets
