"""Attention for the models of Hugging Face's transformers.

>>> from seo_kernels.integrations import transformers
>>> transformers.register()
'seo_kernels'

and from then on ``AutoModel.from_pretrained(..., attn_implementation="seo_kernels")``, or
``model.set_attn_implementation("seo_kernels")`` for one that is there. Causal, sliding, chunked and
bidirectional masks, padding and packed sequences reach the kernels as patterns and segments: what they hide
is not visited, and no (Tq, Tk) mask is made. Masks of other kinds, a static cache's, and in compiled code all
but causal and bidirectional ones, come as tensors. Heads have 256 columns at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels._extras import require
from seo_kernels.ops.attention import attention
from seo_kernels.patterns import Causal, Dense, Pattern

_HIDDEN = torch.iinfo(torch.int32).min  # the segment of keys that no query sees


@dataclass(frozen=True)
class VisibleKeys:
    """What a model hands to its attention in a mask's place. On its way it is asked what masks are asked.

    Attributes:
        pattern: which keys a query sees.
        segments: (B, Tq) and (B, Tk), int: a query sees keys of its own segment only; None: all are of one.
        query_offset: position of the first query, where the first key stands at 0.
    """

    pattern: Pattern
    segments: tuple[Tensor, Tensor] | None
    query_offset: int

    ndim = 4  # a mask that is made already, and stays as it is

    def contiguous(self) -> VisibleKeys:
        return self

    def to(self, device: torch.device | str, non_blocking: bool = False) -> VisibleKeys:
        """The same on a device, as a tensor's ``to``: models that are spread over devices move it."""
        if self.segments is None:
            return self
        query, key = (ids.to(device, non_blocking=non_blocking) for ids in self.segments)
        return VisibleKeys(self.pattern, (query, key), self.query_offset)


def register(name: str = "seo_kernels") -> str:
    """Make this library's attention known to transformers by ``name``, which is returned.

    Raises:
        MissingExtraError: transformers is not installed.
        ImportError: it is older than 5.20: its masks are made in another way.
    """
    transformers = require("transformers", extra="models", purpose="register an attention for its models")
    if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 20):
        raise ImportError(f"transformers is {transformers.__version__}, expected 5.20 or newer")
    transformers.AttentionInterface.register(name, attention_forward)
    transformers.AttentionMaskInterface.register(name, visible_keys)
    return name


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | VisibleKeys | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention with the signature that transformers' models call.

    Args:
        module: the layer; its ``is_causal`` counts where ``is_causal`` is None.
        query: (B, Hq, Tq, D).
        key: (B, Hkv, Tk, D), where Hkv divides Hq.
        value: (B, Hkv, Tk, Dv).
        attention_mask: of ``visible_keys``, or a tensor as ``sk.attention`` takes it. None: all keys are
            seen; where it is causal, and there is more than one query, query i sees keys 0 to i.
        dropout: of the weights.
        scaling: of the scores; None: 1 / sqrt(D).
        position_bias: broadcastable to (B, Hq, Tq, Tk), added to the scores.
        softcap: of the scores.
        s_aux: (Hq,), sinks.
        kwargs: what other implementations read, and a mask or the cache tells here.

    Returns:
        out (B, Tq, Hq, Dv), and None in the place of the weights.

    Raises:
        ValueError: weights (``output_attentions``) or a paged cache are asked for.
    """
    if kwargs.get("output_attentions"):
        raise ValueError("output_attentions is True: fused attention has no weights to return, 'eager' has")
    if (cache := kwargs.get("cache")) is not None:
        what = type(cache).__name__
        raise ValueError(f"cache is of {what}, expected None: 'sdpa' and 'eager' serve paged caches")
    if attention_mask is None:
        attention_mask = _without_mask(module, query, is_causal)
    shown: dict[str, Any] = {"mask": position_bias}
    if isinstance(attention_mask, VisibleKeys):
        shown |= {
            "pattern": attention_mask.pattern,
            "segment_ids": attention_mask.segments,
            "query_offset": attention_mask.query_offset,
        }
    else:
        shown["mask"] = _with_bias(attention_mask, position_bias)
    out = attention(
        query, key, value, sinks=s_aux, dropout_p=dropout, scale=scaling, softcap=softcap, **shown
    )
    return out.transpose(1, 2).contiguous(), None


def _without_mask(module: nn.Module, query: Tensor, is_causal: bool | None) -> VisibleKeys:
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    # a single query is the last one of a decoder's, and sees all
    return VisibleKeys(Causal() if causal and query.shape[2] > 1 else Dense(), None, 0)


def _with_bias(mask: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return mask
    return bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask


def visible_keys(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | VisibleKeys | None = None,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> VisibleKeys | Tensor:
    """The mask of some layers, with the signature that transformers calls.

    Args:
        batch_size: B.
        q_length: Tq.
        kv_length: Tk.
        q_offset: position of the first query; a tensor, with static caches, is not looked at.
        kv_offset: position of the first key.
        mask_function: of transformers' ``masking_utils``, says which keys a query sees; None: a causal one.
        attention_mask: (B, at least Tk) bool, from position 0 on; False: padding. What this function made
            before comes back as it is.
        device: of the result.
        kwargs: see ``transformers.masking_utils.sdpa_mask``.

    Returns:
        ``VisibleKeys``, or a bool mask (B, 1, Tq, Tk) where they cannot say it.
    """
    from transformers import masking_utils

    from seo_kernels.integrations.masking import meaning_of

    if isinstance(attention_mask, VisibleKeys):
        return attention_mask
    mask_function = masking_utils.causal_mask_function if mask_function is None else mask_function
    meaning = None if isinstance(q_offset, Tensor) else meaning_of(mask_function)
    if meaning is None or isinstance(q_offset, Tensor):
        kwargs |= {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        kwargs |= {"kv_offset": kv_offset, "mask_function": mask_function, "device": device}
        sdpa_mask: Callable[..., Any] = masking_utils.sdpa_mask  # typed as if q_offset were no tensor
        mask: Tensor = sdpa_mask(
            batch_size, q_length, kv_length, q_offset, attention_mask=attention_mask, **kwargs
        )
        return mask
    padding = masking_utils.prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is not None:
        padding = padding[:, kv_offset : kv_offset + kv_length]
        if not torch.compiler.is_compiling() and padding.all():
            padding = None
    segments = None
    if padding is not None or meaning.segment_of is not None:

        def ids(first: int, length: int) -> Tensor:
            positions = torch.arange(first, first + length, device=device).expand(batch_size, -1)
            of_all = torch.zeros_like if meaning.segment_of is None else meaning.segment_of
            return of_all(positions)

        query_ids, key_ids = ids(q_offset, q_length), ids(kv_offset, kv_length)
        segments = (query_ids, key_ids if padding is None else key_ids.masked_fill(~padding, _HIDDEN))
    return VisibleKeys(meaning.pattern, segments, q_offset - kv_offset)
