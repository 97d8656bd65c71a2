"""``sk.dropout`` in plain torch: the oracle of the tests and the fallback of the op."""

from __future__ import annotations

import torch
from torch import Tensor

from seo_kernels.ops.dropout_arguments import normalise_dropout
from seo_kernels.reference.philox import keep_elements


def dropout(input: Tensor, p: float = 0.5, *, training: bool = True) -> Tensor:
    """``seo_kernels.dropout`` in plain torch: same arguments, meaning and errors.

    With the same state of torch's default generator the same elements are kept. Differentiable to any order
    by autograd, in forward mode and under ``torch.func``.
    """
    return dropout_op(*normalise_dropout(input, p, training).values())


def dropout_op(input: Tensor, seed: Tensor | None, p: float) -> Tensor:
    """The output of ``torch.ops.seo_kernels.dropout``, in the shape of the input; itself without a seed.

    Args:
        input: any shape.
        seed: of the random bits, int64 (); None: nothing is dropped.
        p: the probability of dropping an element, above 0.
    """
    if seed is None:
        return input
    factor = 1.0 / (1.0 - p) if p < 1.0 else 0.0
    return torch.where(keep_elements(seed, input.shape, p), input * factor, 0.0)
