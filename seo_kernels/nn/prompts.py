"""Learned prompts in front of a sequence."""

import torch
from torch import Tensor, nn

from seo_kernels.nn.dropout import Dropout
from seo_kernels.nn.sequences import check_embeddings
from seo_kernels.nn.sizes import check_probability, check_size


class PromptTuning(nn.Module):
    """Learned vectors in front of embeddings: (B, S, D) -> (B, prompt_length + S, D).

    Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning"; Liu et al. 2021, "GPT
    Understands, Too" (P-tuning), without its encoder of prompts.

    Args:
        d_model: D.
        prompt_length: vectors.
        dropout: of the prompts, in [0, 1).

    Raises:
        TypeError, ValueError: a size or probability that is none.

    >>> PromptTuning(8, prompt_length=3)(torch.randn(2, 5, 8)).shape
    torch.Size([2, 8, 8])
    """

    def __init__(self, d_model: int, prompt_length: int = 10, dropout: float = 0.1) -> None:
        super().__init__()
        self.d_model = check_size("d_model", d_model)
        self.prompts = nn.Parameter(torch.empty(check_size("prompt_length", prompt_length), d_model))
        self.dropout = Dropout(check_probability("dropout", dropout))
        nn.init.normal_(self.prompts, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        check_embeddings(x, self.d_model, "d_model")
        prompts = self.dropout(self.prompts).to(x.dtype)
        return torch.cat((prompts.expand(x.size(0), -1, -1), x), 1)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, prompt_length={self.prompts.shape[0]}"
