"""Dropout bits in plain torch: Philox4x32-10 of Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1,
2, 3".

Words of 32 bits live in int64 tensors, where products wrap around modulo 2**64 and keep all the bits that are
needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

Words4 = tuple[Tensor, Tensor, Tensor, Tensor]


def philox4x32(counter: Words4, key: tuple[Tensor, Tensor]) -> Words4:
    """Four random words for every counter, all int64 tensors of values in [0, 2**32), broadcast together."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(_MULTIPLIERS[0], c0)
        high1, low1 = _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _WORD, (k1 + _WEYL[1]) & _WORD
    return c0, c1, c2, c3


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """High and low word of a product of two 32-bit numbers."""
    product = word * constant
    return (product >> 32) & _WORD, product & _WORD


def keep_mask(
    seed: Tensor,
    batch_index: Tensor,
    head_index: Tensor,
    query_index: Tensor,
    key_index: Tensor,
    dropout_p: float,
) -> Tensor:
    """True where dropout keeps the weight of (batch, head, query, key): bool (b, h, m, n).

    The counter is (key, query // 4, head, batch), the key of the generator the two halves of the seed; query
    % 4 picks the output word, which keeps the weight iff it is at least floor(dropout_p * 2**32).

    Args:
        seed: int64, no dimensions.
        batch_index, head_index, query_index, key_index: int64 (b,), (h,), (m,), (n,).
        dropout_p: in [0, 1).
    """
    row = query_index[None, None, :, None]
    counter = (
        key_index[None, None, None, :],
        row // 4,
        head_index[None, :, None, None],
        batch_index[:, None, None, None],
    )
    words = philox4x32(counter, _halves(seed))
    return _picked(words, row % 4) >= int(dropout_p * 2**32)


def keep_elements(seed: Tensor, shape: Sequence[int], p: float) -> Tensor:
    """True where dropout keeps an element of a tensor: bool, of this shape.

    Elements are counted in the order of the shape. Element 128 b + 32 w + 2 n + h has half h (0: the low one)
    of word w of the counters (c % 2**32, c // 2**32, s, 0) with c = 16 b + n. The half of s = 0 and, below
    it, that of s = 1 are its number of 32 bits. It is kept iff that is at least floor(p * 2**32).

    Args:
        seed: int64, no dimensions.
        shape: of the tensor.
        p: in [0, 1].
    """
    index = torch.arange(math.prod(shape), device=seed.device).reshape(shape)
    counter = index // 128 * 16 + index % 32 // 2
    zero = torch.zeros((), dtype=torch.int64, device=seed.device)
    number = zero
    for stream in (zero, zero + 1):
        words = philox4x32((counter & _WORD, counter >> 32, stream, zero), _halves(seed))
        word = _picked(words, index // 32 % 4)
        number = number << 16 | torch.where(index % 2 == 0, word & 0xFFFF, word >> 16)
    return number >= int(p * 2**32)


def _halves(seed: Tensor) -> tuple[Tensor, Tensor]:
    return seed & _WORD, (seed >> 32) & _WORD


def _picked(words: Words4, place: Tensor) -> Tensor:
    """The word at this place, 0 to 3."""
    low = torch.where(place == 0, words[0], words[1])
    high = torch.where(place == 2, words[2], words[3])
    return torch.where(place < 2, low, high)
