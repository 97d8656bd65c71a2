"""Dropout bits: the published test vectors, and the mapping from places to bits."""

from __future__ import annotations

import pytest
import torch

from seo_kernels.reference.philox import keep_mask, philox4x32

# Known-answer tests of the authors' Random123 library for philox4x32-10: counter, key, result.
VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "result"), VECTORS)
def test_known_answers(counter, key, result):
    got = philox4x32(tuple(map(torch.tensor, words(counter))), tuple(map(torch.tensor, words(key))))
    assert [int(word) for word in got] == words(result)


def philox_of_ints(counter: list[int], key: list[int]) -> list[int]:
    """The ten rounds once more, on Python's unbounded integers."""
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, -1, -(2**63), 0x0123456789ABCDEF])
@pytest.mark.parametrize("dropout_p", [0.1, 0.5, 1 / 3, 0.999999])
def test_bit_of_a_place(seed, dropout_p):
    batch, head, query, key = (
        torch.tensor([0, 3]),
        torch.tensor([2]),
        torch.arange(3, 9),
        torch.tensor([0, 7, 70000]),
    )
    got = keep_mask(torch.tensor(seed), batch, head, query, key, dropout_p)
    assert got.shape == (2, 1, 6, 3)
    halves = [seed % 2**32, (seed >> 32) % 2**32]
    for b in range(2):
        for i in range(6):
            for j in range(3):
                row, column = int(query[i]), int(key[j])
                word = philox_of_ints([column, row // 4, 2, int(batch[b])], halves)[row % 4]
                assert bool(got[b, 0, i, j]) == (word >= int(dropout_p * 2**32))


def test_rate_and_independence_of_tiling():
    index = [torch.arange(size) for size in (2, 3, 101, 130)]
    whole = keep_mask(torch.tensor(5), *index, 0.3)
    assert abs(whole.double().mean().item() - 0.7) < 0.01
    rows, columns = torch.tensor([100, 3, 4]), torch.tensor([1, 129])
    part = keep_mask(torch.tensor(5), index[0], index[1], rows, columns, 0.3)
    assert torch.equal(part, whole[:, :, rows][:, :, :, columns])
    flat = whole.flatten(0, 2).double()
    assert abs(torch.corrcoef(flat[:100]).fill_diagonal_(0).abs().max().item()) < 0.5
    assert bool(keep_mask(torch.tensor(5), *index, 0.0).all())
