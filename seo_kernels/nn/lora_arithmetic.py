"""What a ``LoRALinear`` computes: one adapter's part of the forward pass, and of the merged weight.

Several adapters are applied in turn, as PEFT does: a plain one adds its update; one with DoRA adds its update
and then scales all that came before it, the bias excepted.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seo_kernels.nn.linear import scripted_linear
from seo_kernels.ops.linear import linear
from seo_kernels.ops.lora_linear import lora_linear


def base_output(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """input W^T + bias: (..., out)."""
    if torch.jit.is_scripting():
        return scripted_linear(input, weight, bias, None)
    else:
        return linear(input, weight, bias)


def adapted_output(
    input: Tensor,
    out: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    magnitude: Tensor | None,
    scaling: float,
    dropout_p: float,
) -> Tensor:
    """``out``, or where it is None the base layer's output, with one adapter applied: (..., out).

    Args:
        input: (..., in); weight: (out, in); bias: (out,) or None.
        out: (..., out), what the adapters before this one left.
        lora_a, lora_b: (r, in), (out, r); magnitude: (out,) with DoRA, else None.
        dropout_p: of this call, 0 in eval.
    """
    if magnitude is None:
        if out is None and not _plain(input):
            return _fused(input, weight, bias, lora_a, lora_b, scaling, dropout_p)
        before = base_output(input, weight, bias) if out is None else out
        return before + scaling * _low_rank(F.dropout(input, dropout_p), lora_a, lora_b)

    scale = magnitude / weight_norm(weight, lora_a, lora_b, scaling).to(magnitude.dtype)  # (out,)
    if dropout_p > 0.0:  # PEFT's dropout acts on what DoRA scales, not on the base layer's own output
        before = base_output(input, weight, bias) if out is None else out
        dropped = F.dropout(input, dropout_p)
        update = scaling * _low_rank(dropped, lora_a, lora_b)
        scale = scale.to(before.dtype)
        return before + (scale - 1) * base_output(dropped, weight, None) + scale * update
    if out is None and not _plain(input):
        before = _fused(input, weight, None, lora_a, lora_b, scaling, 0.0)
    else:
        before = base_output(input, weight, None) if out is None else _without_bias(out, bias)
        before = before + scaling * _low_rank(input, lora_a, lora_b)
    scaled = before * scale.to(before.dtype)
    return scaled if bias is None else scaled + bias.to(scaled.dtype)


@torch.no_grad()
def merged_weight(
    merged: Tensor,
    weight: Tensor,
    lora_a: Tensor,
    lora_b: Tensor,
    magnitude: Tensor | None,
    scaling: float,
) -> Tensor:
    """``merged``, the base ``weight`` with other adapters merged, with this one merged too: (out, in)."""
    total = torch.addmm(merged, lora_b.to(merged.dtype), lora_a.to(merged.dtype), alpha=scaling)
    if magnitude is None:
        return total
    norm = weight_norm(weight, lora_a, lora_b, scaling)
    return total * (magnitude.to(total.dtype) / norm.to(total.dtype))[:, None]


def weight_norm(weight: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float) -> Tensor:
    """Norms of the rows of weight + scaling * lora_b lora_a: (out,), in float32 or float64.

    Without a gradient: DoRA holds them constant (Liu et al. 2024, section 4.3).
    """
    dtype = accumulation_dtype(weight)
    base, a, b = weight.detach().to(dtype), lora_a.detach().to(dtype), lora_b.detach().to(dtype)
    if torch.jit.is_scripting():
        total = torch.addmm(base, b, a, alpha=scaling)
    else:
        with torch.autocast(weight.device.type, enabled=False):
            total = torch.addmm(base, b, a, alpha=scaling)
    return torch.linalg.vector_norm(total, 2.0, [1])


def accumulation_dtype(weight: Tensor) -> torch.dtype:
    """What sums over a weight of this dtype are computed in."""
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _plain(input: Tensor) -> bool:
    """Whether plain torch has to serve: what knows nested tensors and, under TorchScript, autocast."""
    if torch.jit.is_scripting():
        return input.is_nested or torch.is_autocast_enabled() or torch.is_autocast_cpu_enabled()
    return input.is_nested


def _fused(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    scaling: float,
    dropout_p: float,
) -> Tensor:
    if torch.jit.is_scripting():
        seed: Tensor | None = None
        if dropout_p > 0.0:
            seed = torch.randint(0x7FFFFFFFFFFFFFFF, [], dtype=torch.int64, device=input.device)
        return torch.ops.seo_kernels.lora_linear_forward(
            input,
            weight,
            bias,
            lora_a.to(input.dtype),
            lora_b.to(input.dtype),
            seed,
            scaling,
            dropout_p,
        )[0]
    else:
        return lora_linear(input, weight, bias, lora_a, lora_b, scaling=scaling, dropout_p=dropout_p)


def _low_rank(input: Tensor, lora_a: Tensor, lora_b: Tensor) -> Tensor:
    projected = F.linear(input, lora_a.to(input.dtype))  # (..., r)
    return F.linear(projected, lora_b.to(projected.dtype))


def _without_bias(out: Tensor, bias: Tensor | None) -> Tensor:
    return out if bias is None else out - bias.to(out.dtype)
