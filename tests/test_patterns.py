"""Patterns: who sees whom, their encoding, and their life as values."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch

from seo_kernels import patterns
from seo_kernels.patterns import (
    BlockSparse,
    Causal,
    Dense,
    Dilated,
    GlobalTokens,
    Local,
    Pattern,
    Strided,
    bigbird,
    decode,
    longformer,
)

LAYOUT = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[0, 0, 1], [1, 0, 0]]], dtype=torch.bool)

# (pattern, does a query at position p see a key at position k)
BY_POSITION = [
    (Dense(), lambda p, k: True),
    (Causal(), lambda p, k: k <= p),
    (Local(2), lambda p, k: p - 2 <= k <= p + 2),
    (Local(3, 0), lambda p, k: p - 3 <= k <= p),
    (Local(0, 1), lambda p, k: k in (p, p + 1)),
    (Strided(3), lambda p, k: k in range(p % 3, 1000, 3)),
    (Strided(1), lambda p, k: True),
    (Dilated(2, 3), lambda p, k: k in (p - 6, p - 3, p, p + 3, p + 6)),
    (Dilated(0, 2), lambda p, k: k == p),
    (GlobalTokens(2), lambda p, k: p in (0, 1) or k in (0, 1)),
    (GlobalTokens(0), lambda p, k: False),
    (Local(2) & Causal(), lambda p, k: p - 2 <= k <= p),
    (Local(1) | GlobalTokens(1), lambda p, k: abs(p - k) <= 1 or p == 0 or k == 0),
    ((Strided(4) | Local(1)) & Causal(), lambda p, k: k <= p and ((p - k) % 4 == 0 or p - k <= 1)),
    (longformer(2, 1), lambda p, k: abs(p - k) <= 2 or p == 0 or k == 0),
    (longformer(1, 1, dilation=3), lambda p, k: abs(p - k) in (0, 3) or p == 0 or k == 0),
]


@pytest.mark.parametrize(("pattern", "sees"), BY_POSITION, ids=[repr(pattern) for pattern, _ in BY_POSITION])
@pytest.mark.parametrize(
    ("queries", "keys", "offset"), [(9, 9, None), (4, 11, None), (7, 5, None), (6, 8, -3)]
)
def test_dense_mask(pattern, sees, queries, keys, offset):
    shift = keys - queries if offset is None else offset
    expected = [[bool(sees(i + shift, j)) for j in range(keys)] for i in range(queries)]
    assert pattern.dense_mask(queries, keys, offset).tolist() == [expected]


def test_element_mask_goes_by_index():
    query_index, key_index = torch.tensor([5, 0, 3]), torch.tensor([4, 2])
    for pattern in (Local(2), Dilated(1, 2), GlobalTokens(3), BlockSparse(LAYOUT, 3) | Causal()):
        whole = pattern.dense_mask(6, 9, 1)
        part = pattern.element_mask(query_index, key_index, 1)
        assert torch.equal(part, whole[:, query_index][:, :, key_index])


def test_block_sparse_goes_by_index_not_by_position():
    pattern = BlockSparse(LAYOUT, block_size=2)
    mask = pattern.dense_mask(4, 5, query_offset=100)
    expected = [[[bool(LAYOUT[h, i // 2, j // 2]) for j in range(5)] for i in range(4)] for h in range(2)]
    assert mask.tolist() == expected
    assert BlockSparse(LAYOUT[0], 2).dense_mask(3, 6).shape == (1, 3, 6)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (Dense(), "dense"),
        (Causal(), "causal"),
        (Local(128), "local 128 128"),
        (Local(7, 0), "local 7 0"),
        (Strided(3), "strided 3"),
        (Dilated(4, 2), "dilated 4 2"),
        (GlobalTokens(5), "global 5"),
        (Local(128) & Causal(), "local 128 128 causal and"),
        (Local(1) | GlobalTokens(2) & Causal(), "local 1 1 global 2 causal and or"),
        ((Local(1) | GlobalTokens(2)) & Causal(), "local 1 1 global 2 or causal and"),
    ],
)
def test_encoding(pattern, text):
    assert pattern.encode() == (text, None)
    assert decode(text, None) == pattern


def test_encoding_of_layouts():
    other = ~LAYOUT[0]
    a, b = BlockSparse(LAYOUT, 4), BlockSparse(other, 8)
    pattern = Causal() & (a | Local(2)) | b
    text, layouts = pattern.encode()
    assert text == f"causal blocks 4 2 2 3 0 {a.digest} local 2 2 or and blocks 8 1 2 3 12 {b.digest} or"
    assert layouts.dtype == torch.bool
    assert torch.equal(layouts, torch.cat([LAYOUT.flatten(), other.flatten()]))
    assert len(a.digest) == 16
    back, index = decode(text, layouts), torch.arange(8)
    assert back.heads == 2
    assert torch.equal(back.element_mask(index, index, 0), pattern.element_mask(index, index, 0))
    with pytest.raises(ValueError, match="the layout holds 17 elements, expected 18"):
        decode(text, layouts[:-1])


@pytest.mark.parametrize(
    "text",
    ["", "causal and", "window 3", "local 3", "causal causal", "blocks 4 1 2 2 0 00", "local x 3"],
)
def test_decode_refuses_what_no_pattern_encodes_to(text):
    with pytest.raises(ValueError, match=r"pattern text|invalid literal"):
        decode(text, None)


def test_layout_is_copied():
    layout = LAYOUT.clone()
    pattern = BlockSparse(layout, 2)
    before = pattern.dense_mask(4, 6)
    layout.zero_()
    assert torch.equal(pattern.dense_mask(4, 6), before)
    transposed = LAYOUT.transpose(1, 2)
    assert torch.equal(BlockSparse(transposed).layout, transposed)


EQUAL_PAIRS = [
    (Local(3), Local(3, 3)),
    (Local(3) & Causal(), Local(3) & Causal()),
    (BlockSparse(LAYOUT), BlockSparse(LAYOUT.clone(), 64)),
    (BlockSparse(LAYOUT[:1]), BlockSparse(LAYOUT[0])),
    (longformer(3, 2), Local(3) | GlobalTokens(2)),
    (bigbird(500, seed=3), bigbird(500, seed=3)),
]
DIFFERENT_PAIRS = [
    (Local(3), Local(3, 2)),
    (Local(3), Strided(3)),
    (Local(3) & Causal(), Causal() & Local(3)),
    (Local(3) & Causal(), Local(3) | Causal()),
    (BlockSparse(LAYOUT), BlockSparse(~LAYOUT)),
    (BlockSparse(LAYOUT), BlockSparse(LAYOUT, 32)),
    (BlockSparse(LAYOUT.reshape(2, 3, 2)), BlockSparse(LAYOUT)),
    (bigbird(1500, seed=3), bigbird(1500, seed=4)),
    (Dense(), Causal()),
    (Causal(), None),
    (BlockSparse(LAYOUT), Causal()),
]


def test_equality_and_hash():
    for a, b in EQUAL_PAIRS:
        assert a == b
        assert hash(a) == hash(b)
        assert repr(a) == repr(b)
    for a, b in DIFFERENT_PAIRS:
        assert a != b
    assert len({a for pair in EQUAL_PAIRS for a in pair}) == len(EQUAL_PAIRS)


@pytest.mark.parametrize("pattern", [Dense(), Local(3, 0), BlockSparse(LAYOUT, 2) & Local(3) | Causal()])
def test_copies_and_pickles(pattern):
    for twin in (copy.copy(pattern), copy.deepcopy(pattern), pickle.loads(pickle.dumps(pattern))):
        assert twin == pattern
        assert twin.encode()[0] == pattern.encode()[0]
        assert torch.equal(twin.dense_mask(4, 5), pattern.dense_mask(4, 5))


def test_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Local(3).left = 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        BlockSparse(LAYOUT).block_size = 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        del (Local(3) & Causal()).left


def test_repr():
    assert repr(Local(3)) == "Local(left=3, right=3)"
    assert (
        repr(Local(1) & Causal() | GlobalTokens(2))
        == "((Local(left=1, right=1) & Causal()) | GlobalTokens(n=2))"
    )
    block = BlockSparse(LAYOUT, 32)
    assert repr(block) == f"BlockSparse(layout=(2, 2, 3) #{block.digest}, block_size=32)"


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Local(-1), ValueError, "Local: left is -1, expected an int from 0"),
        (lambda: Local(1, -2), ValueError, "Local: right is -2"),
        (lambda: Local(1.0), TypeError, r"Local: left is 1.0 \(float\), expected an int >= 0"),
        (lambda: Local(True), TypeError, r"Local: left is True \(bool\)"),
        (lambda: Local(2**31), ValueError, "Local: left is 2147483648, expected an int from 0 to 2147483647"),
        (lambda: Strided(0), ValueError, "Strided: stride is 0, expected an int from 1"),
        (lambda: Strided("2"), TypeError, "Strided: stride is '2'"),
        (lambda: Dilated(-1, 1), ValueError, "Dilated: window is -1"),
        (lambda: Dilated(1, 0), ValueError, "Dilated: dilation is 0"),
        (lambda: GlobalTokens(-1), ValueError, "GlobalTokens: n is -1"),
        (lambda: BlockSparse([[True]]), TypeError, "layout is list, expected a bool tensor"),
        (
            lambda: BlockSparse(torch.ones(2, 2)),
            TypeError,
            "layout has dtype torch.float32, expected torch.bool",
        ),
        (lambda: BlockSparse(LAYOUT[0, 0]), ValueError, r"layout has shape \(3,\), expected \(query blocks"),
        (lambda: BlockSparse(LAYOUT[:0]), ValueError, r"layout has shape \(0, 2, 3\)"),
        (lambda: BlockSparse(LAYOUT, 0), ValueError, "block_size is 0"),
        (lambda: BlockSparse(LAYOUT) & BlockSparse(LAYOUT[[0, 1, 1]]), ValueError, "2 and 3 heads"),
        (lambda: patterns.Union(Causal(), 3), TypeError, "Union: right is int, expected a pattern"),
        (lambda: longformer(-1, 2), ValueError, "left is -1"),
        (lambda: bigbird(-1), ValueError, "bigbird: length is -1"),
        (lambda: bigbird(100, window_blocks=2), ValueError, "window_blocks is 2, expected an odd int"),
        (lambda: bigbird(100, random_blocks=1.5), TypeError, "random_blocks is 1.5"),
    ],
)
def test_bad_construction(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_operators_refuse_other_types():
    with pytest.raises(TypeError):
        Causal() & 3
    with pytest.raises(TypeError):
        Causal() | torch.ones(2, 2, dtype=torch.bool)


def test_check_of_sizes():
    pattern = Causal() & (Local(2) | BlockSparse(LAYOUT, 4))
    pattern.check(heads=2, query_length=8, key_length=9)
    pattern.check(heads=2, query_length=5, key_length=12)
    message = r"layout has shape \(2, 2, 3\), expected \(1 or heads=2, 3, 3\) for 9 queries and 9 keys"
    with pytest.raises(ValueError, match=message):
        pattern.check(heads=2, query_length=9, key_length=9)
    with pytest.raises(ValueError, match="heads=4"):
        pattern.check(heads=4, query_length=8, key_length=9)
    with pytest.raises(ValueError, match=r"expected \(1 or heads=2, 2, 4\)"):
        pattern.dense_mask(8, 13)
    BlockSparse(LAYOUT[0], 4).check(heads=7, query_length=8, key_length=9)
    BlockSparse(torch.ones(0, 0, dtype=torch.bool)).check(heads=7, query_length=0, key_length=0)


def test_bigbird_blocks():
    pattern = bigbird(64 * 20 - 5, block_size=64, window_blocks=5, global_blocks=2, random_blocks=3, seed=1)
    layout = pattern.layout[0]
    index = torch.arange(20)
    structured = ((index[:, None] - index).abs() <= 2) | (index < 2)[:, None] | (index < 2)
    assert bool(layout[structured].all())
    expected = (20 - structured.sum(1)).clamp(max=3)
    assert torch.equal((layout & ~structured).sum(1), expected)
    assert torch.equal(bigbird(100, random_blocks=50).layout, torch.ones(1, 2, 2, dtype=torch.bool))
    state = torch.random.get_rng_state()
    bigbird(5000)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("pattern", [Local(2) & Causal(), BlockSparse(LAYOUT[0], 4) | Local(1)], ids=repr)
def test_constant_under_compile_and_export(pattern: Pattern):
    class Mask(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pattern = pattern

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            text, layouts = self.pattern.encode()
            index = torch.arange(x.shape[0])
            return (
                x * len(text)
                + (0 if layouts is None else layouts.sum())
                + self.pattern.element_mask(index, torch.arange(9), 1).sum((0, 2))
            )

    module, x = Mask(), torch.rand(8)
    expected = module(x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(x), expected)
    torch.testing.assert_close(compiled(x[:7]), expected[:7])
    exported = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    torch.testing.assert_close(exported.module()(x[:5]), expected[:5])


def test_constructed_under_compile():
    def seen(x: torch.Tensor) -> torch.Tensor:
        return x + longformer(2, 1).dense_mask(6, 6).sum()

    compiled = torch.compile(seen, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(torch.zeros(2)), seen(torch.zeros(2)))
