"""transformers' GPT-2 of any size, with random weights."""

from __future__ import annotations

import torch
from torch import nn

from seo_kernels._extras import require


def make_gpt2(
    *, layers: int, dim: int, heads: int, length: int, vocabulary: int, dropout: float = 0.0
) -> nn.Module:
    """``GPT2LMHeadModel`` on SDPA, the same weights each time; no token ends a text.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    transformers = require("transformers", extra="peft", purpose="run beside GPT-2")
    config = transformers.GPT2Config(
        vocab_size=vocabulary,
        n_positions=length,
        n_embd=dim,
        n_layer=layers,
        n_head=heads,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = transformers.GPT2LMHeadModel(config)
    return model
