"""The configuration of the documented language model and of its training."""

from __future__ import annotations

from dataclasses import dataclass

from seo_kernels.nn.initialization import INITIALIZATIONS
from seo_kernels.nn.sizes import (
    check_choice,
    check_flag,
    check_heads,
    check_not_negative,
    check_positive,
    check_probability,
    check_size,
)
from seo_kernels.nn.typed_attention import ATTENTION_TYPES
from seo_kernels.ops.checks import activation_name
from seo_kernels.ops.loss_arguments import check_smoothing

POSITION_ENCODINGS = ("sinusoidal", "learnable", "rope")
FOCAL_GAMMA = 2.0
_SIZES = ("vocab_size", "n_layers", "max_seq_len")
_FLAGS = (
    "use_relative_pos",
    "use_rope",
    "use_flash_attention",
    "use_xformers",
    "gradient_checkpointing",
    "mixed_precision",
)


@dataclass
class ModelConfig:
    """Sizes, attention, training and loss of ``AdvancedTransformerModel``; checked when it is made.

    Args:
        vocab_size: ids are below it.
        d_model: width; a multiple of n_heads.
        n_layers, n_heads: layers, and heads in each.
        d_ff: width of the feed-forward networks; None: 4 d_model.
        max_seq_len: the longest sequence, prompts included.
        dropout: everywhere, in [0, 1).
        activation: of the feed-forward networks, a name that ``sk.linear`` knows.
        use_relative_pos: attention of type "relative", where attention_type is None and rope is off.
        use_rope: positions turn queries and keys (RoPE); then use_relative_pos has no say.
        use_flash_attention, use_xformers: let that package compute attention where it is installed and fits.
        gradient_checkpointing: keep the inputs of layers only and compute the rest again in backward.
        mixed_precision: the training pipeline runs the model under autocast.
        weight_decay, learning_rate, warmup_steps, max_grad_norm: of the training pipeline.
        label_smoothing: share of the target that is spread over all classes, in [0, 1].
        attention_type: "standard", "relative", "local" or "sparse"; None: "relative" or "standard", by
            use_relative_pos and use_rope.
        max_relative_position: where relative distances are clipped, the window of local and sparse attention.
        position_encoding: "sinusoidal" (with a learned correction), "learnable" or "rope"; None: "rope" with
            use_rope, else "sinusoidal".
        initialization_method: "xavier", "kaiming" or "normal".
        focal_loss_alpha, focal_loss_gamma: one given selects the focal loss in place of cross entropy; alpha
            is 1 and gamma 2 unless they are given. It goes together with label_smoothing: see ``TokenLoss``.

    Raises:
        TypeError, ValueError: a field of another kind or out of range; it names the field.

    >>> ModelConfig(vocab_size=100, d_model=64, use_rope=True).attention
    'standard'
    """

    vocab_size: int = 50257
    d_model: int = 768
    n_layers: int = 12
    n_heads: int = 8
    d_ff: int | None = None
    max_seq_len: int = 512
    dropout: float = 0.1
    activation: str = "gelu"
    use_relative_pos: bool = True
    use_rope: bool = False
    use_flash_attention: bool = False
    use_xformers: bool = False
    gradient_checkpointing: bool = False
    mixed_precision: bool = True
    weight_decay: float = 0.01
    learning_rate: float = 1e-4
    warmup_steps: int = 1000
    max_grad_norm: float = 1.0
    label_smoothing: float = 0.1
    attention_type: str | None = None
    max_relative_position: int = 32
    position_encoding: str | None = None
    initialization_method: str = "xavier"
    focal_loss_alpha: float | None = None
    focal_loss_gamma: float | None = None

    def __post_init__(self) -> None:
        for name in _SIZES:
            check_size(name, getattr(self, name))
        for name in _FLAGS:
            check_flag(name, getattr(self, name))
        check_heads("d_model", self.d_model, "n_heads", self.n_heads)
        if self.d_ff is not None:
            check_size("d_ff", self.d_ff)
        check_probability("dropout", self.dropout)
        activation_name(self.activation)
        check_choice("initialization_method", self.initialization_method, INITIALIZATIONS)
        self._check_positions()
        check_not_negative("weight_decay", self.weight_decay)
        check_positive("learning_rate", self.learning_rate)
        check_size("warmup_steps", self.warmup_steps, least=0)
        check_positive("max_grad_norm", self.max_grad_norm)
        check_smoothing(self.label_smoothing)
        if self.focal_loss_alpha is not None:
            check_positive("focal_loss_alpha", self.focal_loss_alpha)
        if self.focal_loss_gamma is not None:
            check_not_negative("focal_loss_gamma", self.focal_loss_gamma)

    def _check_positions(self) -> None:
        if self.attention_type is not None:
            check_choice("attention_type", self.attention_type, ATTENTION_TYPES)
        least = 1 if self.attention_type == "sparse" else 0
        check_size("max_relative_position", self.max_relative_position, least)
        if self.position_encoding is not None:
            check_choice("position_encoding", self.position_encoding, POSITION_ENCODINGS)
            if self.use_rope and self.position_encoding != "rope":
                raise ValueError(
                    f"position_encoding is {self.position_encoding!r} with use_rope=True, "
                    "expected one of both"
                )
        if self.positions == "rope" and self.d_model // self.n_heads % 2 != 0:
            raise ValueError(
                f"d_model is {self.d_model} for n_heads={self.n_heads}, expected an even width of each head: "
                "rotary positions turn pairs"
            )

    @property
    def positions(self) -> str:
        """The encoding of positions: "sinusoidal", "learnable" or "rope"."""
        if self.position_encoding is not None:
            return self.position_encoding
        return "rope" if self.use_rope else "sinusoidal"

    @property
    def attention(self) -> str:
        """The type of attention: "standard", "relative", "local" or "sparse"."""
        if self.attention_type is not None:
            return self.attention_type
        return "relative" if self.use_relative_pos and self.positions != "rope" else "standard"

    @property
    def alpha(self) -> float:
        """The factor of the loss."""
        return 1.0 if self.focal_loss_alpha is None else self.focal_loss_alpha

    @property
    def gamma(self) -> float:
        """The exponent of the focal loss; 0: cross entropy."""
        if self.focal_loss_gamma is not None:
            return self.focal_loss_gamma
        return 0.0 if self.focal_loss_alpha is None else FOCAL_GAMMA
