"""The low-rank part of LoRA alone."""

from __future__ import annotations

import torch
from torch import Tensor

from seo_kernels.nn.lora_adapter import LoRAAdapter
from seo_kernels.nn.lora_arithmetic import low_rank


class LoRALayer(LoRAAdapter):
    """alpha / rank * dropout(input) A^T B^T (Hu et al. 2021, "LoRA", eq. 3): what ``LoRALinear`` adds.

    Args:
        in_features, out_features: columns of input and output.
        rank: 1 to the smaller of them.
        alpha: above 0.
        dropout: of the input, in [0, 1).

    ``lora_b`` starts at zero, and so does the output.

    Raises:
        TypeError, ValueError: a number out of range.

    >>> LoRALayer(8, 4, rank=2)(torch.randn(3, 8)).tolist()[0]
    [0.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self, in_features: int, out_features: int, rank: int = 16, alpha: float = 32.0, dropout: float = 0.0
    ) -> None:
        super().__init__(
            in_features,
            out_features,
            rank,
            alpha,
            dropout,
            use_rslora=False,
            use_dora=False,
            init="kaiming",
            device=None,
            dtype=torch.get_default_dtype(),
        )

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        dropped = torch.dropout(input, self.dropout, self.training)
        return low_rank(dropped, self.lora_a, self.lora_b, self.scaling, None)
