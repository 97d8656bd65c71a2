"""Inputs that lie inside larger tensors: nothing beside them is read or written."""

from __future__ import annotations

import math

import pytest
import torch

import seo_kernels as sk


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [5, 8, 16, 32])
@pytest.mark.parametrize("length", [1, 40, 64, 130])
def test_slices_of_one_projection_among_garbage(dtype: torch.dtype, dim: int, length: int) -> None:
    torch.manual_seed(0)
    packed = torch.full((1, length + 2, 4, 3, dim), math.nan, dtype=dtype)  # (B, T, 4, H, D)
    packed[:, 1:-1, :3] = torch.randn(1, length, 3, 3, dim).to(dtype)
    views = [packed[:, 1:-1, n].transpose(1, 2).detach() for n in range(3)]  # (B, H, T, D)
    before = packed.clone()
    results = []
    for inputs in (views, [view.contiguous() for view in views]):
        query, key, value = (tensor.requires_grad_() for tensor in inputs)
        out = sk.attention(query, key, value, pattern=sk.Local(30))
        gradients = torch.autograd.grad(out, (query, key, value), torch.ones_like(out))
        results.append((out, *gradients))
    for in_place, copied in zip(*results, strict=True):
        assert not in_place.isnan().any()
        torch.testing.assert_close(in_place, copied)
    assert torch.equal(packed.nan_to_num(7.0), before.nan_to_num(7.0))
