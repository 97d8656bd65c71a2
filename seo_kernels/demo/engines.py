"""The same attention twice: on the kernels of this library, and on PyTorch's own with a mask."""

import torch
from torch import Tensor
from torch.nn import functional as F

import seo_kernels as sk
from seo_kernels.relative import RelativePosition


def fused(query: Tensor, key: Tensor, value: Tensor, relative: RelativePosition, window: int) -> Tensor:
    """``sk.attention``: visits the window only, and adds the relative terms inside the kernel."""
    return sk.attention(query, key, value, pattern=sk.Local(window, 0), relative=relative)


def masked_sdpa(query: Tensor, key: Tensor, value: Tensor, relative: RelativePosition, window: int) -> Tensor:
    """``scaled_dot_product_attention`` with the window and the relative terms as one float mask (B, H, T, T).

    The mask is laid out by views and one pad, without an index: the fastest way that torch has. Tq equals Tk.
    """
    length = query.shape[2]
    scale = query.shape[-1] ** -0.5
    assert relative.key is not None
    assert relative.bias is not None
    keys = relative.key[:, : window + 1].to(query.dtype)  # distances -window to 0
    bias = relative.bias[:, None, : window + 1].to(query.dtype)
    near = scale * (query @ keys.transpose(-2, -1)) + bias  # (B, H, T, window + 1), by distance
    padded = F.pad(near, (0, length), value=-torch.inf)  # row i starts i columns too far left, ...
    rows = padded.flatten(2)[..., : length * (window + length)]
    mask = rows.unflatten(2, (length, window + length))[
        ..., window:
    ]  # ... and a row length of one less moves it there
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
