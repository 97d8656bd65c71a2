"""``sk.linear`` and ``sk.lora_linear`` in plain torch: the oracle of the tests, the fallback of the ops, and
the formulas of their higher derivatives.

Everything is computed in the dtype of the input, as written; nothing is upcast on the way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from seo_kernels.ops.linear_arguments import normalise_linear, normalise_lora_linear
from seo_kernels.reference.activation import apply_activation
from seo_kernels.reference.philox import keep_mask


def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """``seo_kernels.linear`` in plain torch: same arguments, meaning and errors, (..., out).

    Differentiable to any order by autograd, in forward mode and under ``torch.func``.
    """
    return linear_op(*normalise_linear(input, weight, bias, activation).values())


def lora_linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    *,
    scaling: float = 1.0,
    dropout_p: float = 0.0,
) -> Tensor:
    """``seo_kernels.lora_linear`` in plain torch: same arguments, meaning and errors, (..., out).

    Differentiable to any order by autograd, in forward mode and under ``torch.func``. For equal states of
    torch's default generator the dropout bits are those of ``seo_kernels.lora_linear``.
    """
    return lora_linear_op(
        *normalise_lora_linear(input, weight, bias, lora_a, lora_b, scaling, dropout_p).values()
    )


def linear_op(
    input: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool = False
) -> Tensor:
    """The output of ``torch.ops.seo_kernels.linear_forward``, (..., out).

    Args:
        input: (..., in).
        weight: (out, in).
        bias: (out,) or None.
        activation: its name; "" for none.
        keep: whether the op returns the activation's input too, which has no meaning here.
    """
    product = F.linear(input, weight, bias)
    return apply_activation(product, activation) if activation else product


def lora_linear_op(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    seed: Tensor | None,
    scaling: float,
    dropout_p: float,
) -> Tensor:
    """The output of ``torch.ops.seo_kernels.lora_linear_forward``, (..., out).

    Args:
        input: (..., in).
        weight: (out, in).
        bias: (out,) or None.
        lora_a: (rank, in).
        lora_b: (out, rank).
        seed: of the dropout bits, int64 (); None: no dropout.
        scaling: of the adapter's product.
        dropout_p: probability of dropping an entry of the adapter's input.
    """
    adapted = input if seed is None else _dropped(input, seed, dropout_p)
    return F.linear(input, weight, bias) + scaling * F.linear(F.linear(adapted, lora_a), lora_b)


def _dropped(input: Tensor, seed: Tensor, dropout_p: float) -> Tensor:
    """The input with some entries zero, the others scaled up; token t and column j draw as query and key."""
    columns = input.shape[-1]
    tokens = input.numel() // columns
    zero = torch.zeros(1, dtype=torch.int64, device=input.device)
    token_index, column_index = (torch.arange(count, device=input.device) for count in (tokens, columns))
    keep = keep_mask(seed, zero, zero, token_index, column_index, dropout_p).reshape(input.shape)
    return torch.where(keep, input / (1.0 - dropout_p), 0.0)
