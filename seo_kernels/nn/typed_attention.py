"""Multi-head attention of a named type: the one core of the documented attention layers."""

import torch
from torch import Tensor, nn

from seo_kernels.nn.attention_projection import merge_heads, split_heads
from seo_kernels.nn.attention_scripted import scripted_attention
from seo_kernels.nn.key_cache import LayerKeys
from seo_kernels.nn.linear import Linear
from seo_kernels.nn.relative import RelativePositionTables
from seo_kernels.nn.rotary import RotaryPositions
from seo_kernels.nn.sequences import bool_mask, check_embeddings, spread_over_heads
from seo_kernels.nn.sizes import check_choice, check_heads, check_probability, check_size
from seo_kernels.ops.attention import attention
from seo_kernels.patterns import Causal, Dense, Local, Pattern, Strided

ATTENTION_TYPES = ("standard", "relative", "local", "sparse")


class TypedAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2) on ``sk.attention``.

    Args:
        d_model: width; a multiple of num_heads, at most 256 times as large.
        num_heads: heads.
        dropout: of the attention weights, in [0, 1).
        attention_type: "standard"; "relative": with learned keys and values of the distance, clipped at
            max_relative_position (Shaw et al. 2018, "Self-Attention with Relative Position Representations",
            eq. 3 and 4); "local": query i sees keys j with |i - j| <= max_relative_position; "sparse": those,
            and those at a multiple of that distance (Child et al. 2019, "Generating Long Sequences with
            Sparse Transformers", section 4.2).
        max_relative_position: see there; "standard" has no use for it.
        causal: a query sees no later key.
        rotary: turns queries and keys by their positions; layers may share it.

    The projections ``w_q``, ``w_k``, ``w_v`` and ``w_o`` are ``nn.Linear`` layers, called as modules.

    Raises:
        TypeError, ValueError: a size, probability or name that is none.

    >>> TypedAttention(64, 4, attention_type="local", max_relative_position=8)(torch.randn(2, 50, 64)).shape
    torch.Size([2, 50, 64])
    """

    __jit_unused_properties__ = ("pattern",)

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        dropout: float = 0.1,
        attention_type: str = "standard",
        max_relative_position: int = 32,
        *,
        causal: bool = False,
        rotary: RotaryPositions | None = None,
    ) -> None:
        super().__init__()
        check_heads("d_model", d_model, "n_heads", num_heads)
        self.d_model = d_model
        self.num_heads = num_heads
        self.dropout = check_probability("dropout", dropout)
        self.attention_type = check_choice("attention_type", attention_type, ATTENTION_TYPES)
        self.max_relative_position = check_size(
            "max_relative_position", max_relative_position, least=1 if attention_type == "sparse" else 0
        )
        self.w_q = Linear(d_model, d_model)
        self.w_k = Linear(d_model, d_model)
        self.w_v = Linear(d_model, d_model)
        self.w_o = Linear(d_model, d_model)
        self.relative: RelativePositionTables | None = None
        if attention_type == "relative":
            self.relative = RelativePositionTables(max_relative_position, d_model // num_heads, num_heads)
        self.rotary = rotary
        self._pattern = attention_pattern(attention_type, max_relative_position, causal)
        self._pattern_text, _ = self._pattern.encode()

    @property
    def pattern(self) -> Pattern:
        """Who attends to whom, beside the mask of the call."""
        return self._pattern

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Self-attention, (B, S, d_model) -> the same.

        Args:
            mask: (B, S) or (B, S, S) of any dtype, 1 attends, 0 hides. What sees nothing gets w_o's bias.

        Raises:
            TypeError: x or mask is no tensor or has a wrong dtype.
            ValueError: a wrong shape, or a mask with other values.
        """
        return self.attend(x, x, x, mask)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attention of (B, Tq, d_model) to (B, Tk, d_model), with a mask (B, Tk) or (B, Tq, Tk)."""
        for x in (query, key, value):
            check_embeddings(x, self.d_model, "d_model")
        visible: Tensor | None = None
        if mask is not None:
            visible = spread_over_heads(bool_mask(mask, query.size(0), query.size(1), key.size(1)))
        q, k, v = self._heads(query, key, value, key.size(1) - query.size(1), 0)
        return self.w_o(merge_heads(self._fused(q, k, v, visible), True, True))

    @torch.jit.unused
    def decode(self, x: Tensor, start: int, keys: LayerKeys) -> Tensor:
        """Attention of (B, T, d_model), the tokens from position ``start`` on, to them and all before.

        Args:
            keys: holds the keys and values of the tokens before; those of these come behind them.
        """
        query, key, value = self._heads(x, x, x, start, start)
        key, value = keys.write(start, key, value)
        return self.w_o(merge_heads(self._fused(query, key, value, None), True, True))

    def _heads(
        self, query: Tensor, key: Tensor, value: Tensor, query_start: int, key_start: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The projections, (B, H, T, D) each, turned by their positions where that is wanted."""
        q = split_heads(self.w_q(query), 1, self.num_heads, True)[0]
        k = split_heads(self.w_k(key), 1, self.num_heads, True)[0]
        v = split_heads(self.w_v(value), 1, self.num_heads, True)[0]
        if self.rotary is not None:
            q, k = self.rotary(q, query_start), self.rotary(k, key_start)
        return q, k, v

    def _fused(self, query: Tensor, key: Tensor, value: Tensor, visible: Tensor | None) -> Tensor:
        dropout_p = self.dropout if self.training else 0.0
        if torch.jit.is_scripting():
            relative_key: Tensor | None = None
            relative_value: Tensor | None = None
            if self.relative is not None:
                relative_key, relative_value, _, _ = self.relative.tables()
            return scripted_attention(
                query,
                key,
                value,
                self._pattern_text,
                None,
                relative_key,
                relative_value,
                None,
                None,
                visible,
                None,
                dropout_p,
                key.size(2) - query.size(2),
            )
        else:
            return attention(
                query,
                key,
                value,
                pattern=self._pattern,
                relative=None if self.relative is None else self.relative(),
                mask=visible,
                dropout_p=dropout_p,
            )

    def extra_repr(self) -> str:
        return (
            f"d_model={self.d_model}, n_heads={self.num_heads}, attention_type={self.attention_type!r}, "
            f"pattern={self._pattern}"
        )


def attention_pattern(attention_type: str, max_relative_position: int, causal: bool = False) -> Pattern:
    """Who attends to whom in attention of this type.

    >>> attention_pattern("sparse", 16)
    (Local(left=16, right=16) | Strided(stride=16))
    """
    if attention_type in ("standard", "relative"):
        return Causal() if causal else Dense()
    pattern: Pattern = Local(max_relative_position)
    if attention_type == "sparse":
        pattern = pattern | Strided(max_relative_position)
    return pattern & Causal() if causal else pattern
