"""Document 000's layers: attention, block, positions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from models.small_models import ids
from torch import Tensor

from seo_kernels.models.seo_layers import MultiHeadAttention, PositionalEncoding, TransformerBlock

pytestmark = pytest.mark.usefixtures("one_thread")


def test_attention_of_one_tensor_or_three() -> None:
    layer = MultiHeadAttention(d_model=12, num_heads=3).double().eval()
    query, key, value = (torch.randn(2, t, 12, dtype=torch.float64) for t in (4, 7, 7))
    mask = torch.ones(2, 7)
    mask[0, 5:] = 0
    inner = layer.attention

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(2, (3, 4)).transpose(1, 2)

    expected = F.scaled_dot_product_attention(
        heads(inner.w_q(query)), heads(inner.w_k(key)), heads(inner.w_v(value)), mask.bool()[:, None, None]
    )
    expected = inner.w_o(expected.transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(query, key, value, mask), expected)
    pairs = mask[:, None].expand(2, 4, 7)
    torch.testing.assert_close(layer(query, key, value, pairs), expected)
    assert torch.equal(layer(query), layer(query, query, query))
    assert torch.equal(layer(query, key), layer(query, key, key))
    assert inspect.signature(MultiHeadAttention).parameters["dropout"].default == 0.1


def test_block_and_positions() -> None:
    block, x = (
        TransformerBlock(d_model=12, num_heads=3, d_ff=20, dropout=0.0, activation="relu"),
        torch.randn(2, 5, 12),
    )
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    hidden = x + block.attention(F.layer_norm(x, (12,)), mask)
    inner = F.linear(
        F.layer_norm(hidden, (12,)), block.feed_forward.up.weight, block.feed_forward.up.bias
    ).relu()
    expected = hidden + F.linear(inner, block.feed_forward.down.weight, block.feed_forward.down.bias)
    torch.testing.assert_close(block(x, mask), expected)
    encoding = PositionalEncoding(d_model=12)
    assert encoding.max_len == 5000
    assert torch.equal(encoding(x)[0], encoding(x[0]))  # no dropout, and the sequence lies next to last
    assert not torch.equal(encoding(x), x)


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: MultiHeadAttention(10, 3), ValueError, "d_model is 10 for num_heads=3"),
        (lambda: TransformerBlock(10, 3), ValueError, "d_model is 10 for num_heads=3"),
        (lambda: TransformerBlock(12, 3, activation="gelo"), ValueError, "activation is a str"),
        (lambda: cross(value=torch.randn(2, 4, 12)), ValueError, "value is given and key is None"),
        (
            lambda: cross(torch.randn(2, 4, 11)),
            ValueError,
            r"key has shape \(2, 4, 11\), expected .* d_model=12",
        ),
        (
            lambda: cross(torch.randn(3, 4, 12)),
            ValueError,
            "query, key and value have shapes .* expected one batch",
        ),
        (lambda: cross(torch.randn(2, 4, 12), torch.randn(2, 5, 12)), ValueError, "a value for each key"),
        (lambda: cross(ids(2, 4)), TypeError, "key has dtype torch.int64"),
        (lambda: cross(mask=torch.ones(2, 4)), ValueError, r"mask has shape \(2, 4\)"),
    ],
)
def test_bad_layers(wrong: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        wrong()


def cross(key: Any = None, value: Any = None, mask: Any = None) -> Tensor:
    return MultiHeadAttention(12, 3)(torch.randn(2, 5, 12), key, value, mask)
