"""``sk.lora_linear``: a linear layer and its low-rank adapter in one pass over the input."""

from __future__ import annotations

import torch
from torch import Tensor

from seo_kernels.ops.function_pair import FunctionPair
from seo_kernels.ops.linear_arguments import normalise_lora_linear
from seo_kernels.reference.linear import lora_linear_op


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
    """input weight^T + bias + scaling * dropout(input) lora_a^T lora_b^T, differentiable to any order.

    The (out, in) update is never formed. Kept for backward are the arguments and dropout(input) lora_a^T,
    (tokens, rank); it draws the dropout bits again.

    Args:
        input: (..., in); float64, float32, bfloat16 or float16; any strides. All but the last dimension
            count the tokens.
        weight: (out, in), of the same dtype; any strides: a transposed weight costs no copy.
        bias: (out,) or None. Bias, lora_a and lora_b of another floating-point dtype are cast to that of
            the input.
        lora_a: (rank, in), rank from 1 to the smaller of in and out.
        lora_b: (out, rank).
        scaling: of the adapter's product: alpha / rank in LoRA, alpha / sqrt(rank) in rsLoRA.
        dropout_p: in [0, 1), for the adapter's input alone, entries that are kept are scaled by
            1 / (1 - dropout_p); the bits follow from a seed of torch's default generator, so that
            ``torch.manual_seed`` and checkpointing reproduce them.

    Returns:
        (..., out) in the dtype of the input. Sums are taken in float32 (float64 for float64). Under autocast
        all tensors take its dtype.

    Raises:
        TypeError: an argument is not of the kind that is expected, or has a wrong dtype.
        ValueError: a shape, a device, the rank or a number does not fit.

    Every tensor gets a gradient if it asks for one. Backward, forward mode and ``torch.func`` transforms work
    in any nesting; ``torch.compile`` and ``torch.export`` give first-order gradients. ``vmap`` over the input
    is one call, unless gradients of others are wanted for each sample, or with dropout (which needs
    ``randomness=``).

    Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", eq. 3.

    >>> import seo_kernels as sk
    >>> lora_a, lora_b = torch.randn(2, 8, requires_grad=True), torch.zeros(5, 2, requires_grad=True)
    >>> out = sk.lora_linear(torch.randn(3, 8), torch.randn(5, 8), None, lora_a, lora_b, scaling=2.0)
    >>> out.sum().backward()
    >>> out.shape, lora_b.grad.shape
    (torch.Size([3, 5]), torch.Size([5, 2]))
    """
    return _pair(*normalise_lora_linear(input, weight, bias, lora_a, lora_b, scaling, dropout_p).values())


def _fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_a: Tensor,
    lora_b: Tensor,
    seed: Tensor | None,
    scaling: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    tokens = 1
    for size in input.shape[:-1]:
        tokens = tokens * size
    dtype = torch.promote_types(input.dtype, torch.float32)
    out = input.new_empty(*input.shape[:-1], weight.shape[0])
    return out, input.new_empty(tokens, lora_a.shape[0], dtype=dtype)


_pair = FunctionPair(
    "lora_linear",
    inputs=("input", "weight", "bias", "lora_a", "lora_b", "seed", "scaling", "dropout_p"),
    differentiable=("input", "weight", "bias", "lora_a", "lora_b"),
    plain=lora_linear_op,
    fake=_fake,
    saved_outputs=("projected",),
    backward_takes=(
        "input", "weight", "bias", "lora_a", "lora_b", "projected", "seed", "scaling", "dropout_p",
    ),
    leading=("input", "out"),
    rows=("projected",),
)  # fmt: skip
