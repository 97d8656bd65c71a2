"""The documented attention layer: any type, causal or not, by any package."""

from __future__ import annotations

from seo_kernels.nn.rotary import RotaryPositions
from seo_kernels.nn.sizes import check_flag
from seo_kernels.nn.typed_attention import TypedAttention


class AdvancedMultiHeadAttention(TypedAttention):
    """``TypedAttention``: (B, S, d_model), mask (B, S) or (B, S, S) -> (B, S, d_model).

    Args:
        d_model, dropout, attention_type, max_relative_position, causal, rotary: as for ``TypedAttention``.
        n_heads: its num_heads.
        use_flash_attention, use_xformers: let that package compute it where it is installed and fits: of
            type "standard", without a mask, in half precision, on a GPU. What serves is logged once.

    Raises:
        TypeError, ValueError: a size, probability or name that is none.

    >>> import torch
    >>> AdvancedMultiHeadAttention(64, 4, attention_type="sparse")(torch.randn(2, 20, 64)).shape
    torch.Size([2, 20, 64])
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int = 8,
        dropout: float = 0.1,
        attention_type: str = "standard",
        max_relative_position: int = 32,
        use_flash_attention: bool = False,
        use_xformers: bool = False,
        *,
        causal: bool = False,
        rotary: RotaryPositions | None = None,
    ) -> None:
        wanted = {
            "flash_attn": check_flag("use_flash_attention", use_flash_attention),
            "xformers": check_flag("use_xformers", use_xformers),
        }
        super().__init__(
            d_model,
            n_heads,
            dropout,
            attention_type,
            max_relative_position,
            causal=causal,
            rotary=rotary,
            packages=tuple(package for package, want in wanted.items() if want),
        )
