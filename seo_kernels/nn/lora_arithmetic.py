"""What a ``LoRALinear`` computes: one adapter's part of the forward pass, and of the merged weight.

Several adapters are applied in turn, as PEFT does: a plain one adds its update; one with DoRA adds its update
and then scales all that came before it, the bias excepted.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from seo_kernels.nn.linear import scripted_linear
from seo_kernels.ops.activation import bias_act
from seo_kernels.ops.activation_arguments import NEGATIVE_SLOPE
from seo_kernels.ops.linear import linear
from seo_kernels.ops.lora_linear import lora_linear


def base_output(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """input W^T + bias: (..., out)."""
    if torch.jit.is_scripting():
        return scripted_linear(input, weight, bias, None)
    else:
        return linear(input, weight, bias)


def activated(out: Tensor, activation: str | None, slope: float = NEGATIVE_SLOPE) -> Tensor:
    """What a base layer's own activation makes of the sum of base and adapters.

    ``slope`` is leaky_relu's in ``sk.nn.Linear``; TorchScript reads no global.
    """
    if activation is None:
        return out
    if torch.jit.is_scripting():
        return torch.ops.seo_kernels.bias_act_forward(out, None, activation, slope)
    else:
        return bias_act(out, None, activation, negative_slope=slope)


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
        input: (..., in); weight: (out, in).
        out: (..., out), what the adapters before this one left, without the bias.
        bias: (out,), given with the last adapter, or None.
        lora_a, lora_b: (r, in), (out, r); magnitude: (out,) with DoRA, else None.
        dropout_p: of this call, 0 in eval.
    """
    if magnitude is None:
        if out is None and not input.is_nested:
            return _fused(input, weight, bias, lora_a, lora_b, scaling, dropout_p)
        before = base_output(input, weight, None) if out is None else out
        update = low_rank(F.dropout(input, dropout_p), lora_a, lora_b, scaling, bias)
        return (before + update).to(before.dtype)  # TorchScript's autocast makes the sum wider

    scale = magnitude / weight_norm(weight, lora_a, lora_b, scaling).to(magnitude.dtype)  # (out,)
    if dropout_p > 0.0:  # PEFT's dropout acts on what DoRA scales, not on the base layer's own output
        before = base_output(input, weight, None) if out is None else out
        dropped = F.dropout(input, dropout_p)
        base = base_output(dropped, weight, None)
        update = low_rank(dropped, lora_a, lora_b, scaling, None)
        return (before + (_scaled(base + update, scale, bias) - base)).to(before.dtype)
    if out is None and not input.is_nested:
        before = _fused(input, weight, None, lora_a, lora_b, scaling, 0.0)
    else:
        before = base_output(input, weight, None) if out is None else out
        before = (before + low_rank(input, lora_a, lora_b, scaling, None)).to(before.dtype)
    return _scaled(before, scale, bias).to(before.dtype)


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
        dtype = _scripted_dtype(input, weight)
        if bias is not None:
            bias = bias.to(dtype)
        return torch.ops.seo_kernels.lora_linear_forward(
            input.to(dtype),
            weight.to(dtype),
            bias,
            lora_a.to(dtype),
            lora_b.to(dtype),
            seed,
            scaling,
            dropout_p,
        )[0]
    else:
        return lora_linear(input, weight, bias, lora_a, lora_b, scaling=scaling, dropout_p=dropout_p)


def _scripted_dtype(input: Tensor, weight: Tensor) -> torch.dtype:
    """What autocast makes of a product of these: to ask it, ``is_autocast_cpu_enabled``, is a crash there."""
    return F.linear(input.new_empty([0, 1]), weight.new_empty([0, 1])).dtype


def low_rank(input: Tensor, lora_a: Tensor, lora_b: Tensor, scaling: float, bias: Tensor | None) -> Tensor:
    """scaling * input A^T B^T + bias: (..., out)."""
    projected = base_output(input, lora_a.to(input.dtype), None)  # (..., r)
    if bias is not None:
        bias = bias.to(projected.dtype)
    return base_output(projected, (scaling * lora_b).to(projected.dtype), bias)


def _scaled(out: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """out * scale + bias: (..., out)."""
    scale = scale.to(out.dtype)
    if bias is not None:
        bias = bias.to(out.dtype)
    if out.is_nested:  # which multiply with matrices only
        return F.linear(out, torch.diag(scale), bias)
    return out * scale if bias is None else out * scale + bias
