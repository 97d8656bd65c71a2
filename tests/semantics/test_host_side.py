"""The host side of csrc/semantics, called through the Python module, against the plain-torch definitions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import seo_kernels as sk
from seo_kernels.reference.philox import keep_elements, keep_mask

_C = pytest.importorskip("seo_kernels._C", reason="wheels come without it")

EMPTY, PARTIAL, FULL = 0, 1, 2
OPERANDS = {"local": 2, "strided": 1, "dilated": 2, "global": 1, "blocks": 6}


def program(pattern: sk.Pattern) -> tuple[list[tuple[str, list[int]]], bytes]:
    """The steps and the layout of a pattern, from its encoding."""
    text, layout = pattern.encode()
    tokens, steps = text.split(" "), []
    while tokens:
        name = tokens.pop(0)
        operands = [tokens.pop(0) for _ in range(OPERANDS.get(name, 0))]
        steps.append((name, [int(operand) for operand in operands[:5]]))  # the sixth is a hash
    return steps, b"" if layout is None else bytes(layout.to(torch.uint8).tolist())


@st.composite
def cases(draw: st.DrawFn) -> tuple[sk.Pattern, int, int, int]:
    """(pattern, query length, key length, query offset), two heads."""
    queries, keys = draw(st.integers(1, 40)), draw(st.integers(1, 150))
    small = st.integers(0, 20)
    size = draw(st.integers(1, 50))
    shape = (draw(st.integers(1, 2)), -(-queries // size), -(-keys // size))
    leaves = st.one_of(
        st.just(sk.Dense()),
        st.just(sk.Causal()),
        st.builds(sk.Local, st.integers(0, 90), st.integers(0, 90)),
        st.builds(sk.Strided, st.integers(1, 80)),
        st.builds(sk.Dilated, small, st.integers(1, 9)),
        st.builds(sk.GlobalTokens, small),
        st.integers(0, 2**16).map(
            lambda seed: sk.BlockSparse(
                torch.rand(shape, generator=torch.Generator(torch.get_default_device()).manual_seed(seed))
                < 0.5,
                size,
            )
        ),
    )
    pattern = draw(
        st.recursive(
            leaves,
            lambda inner: st.builds(lambda a, b, both: a & b if both else a | b, inner, inner, st.booleans()),
        )
    )
    return pattern, queries, keys, draw(st.integers(-30, keys))


def visible(pattern: sk.Pattern, queries: int, keys: int, offset: int) -> torch.Tensor:
    return pattern.dense_mask(queries, keys, query_offset=offset).expand(2, queries, keys)


@given(cases())
def test_bits_are_the_dense_mask(case: tuple[sk.Pattern, int, int, int]) -> None:
    pattern, queries, keys, offset = case
    steps, layout = program(pattern)
    mask = visible(*case)
    for head in (0, 1):
        for query in range(0, queries, 3):
            for key_begin in range(0, keys, 64):
                bits = _C.pattern_bits(steps, layout, head, query, key_begin, offset)
                seen = [bool(bits >> n & 1) for n in range(min(64, keys - key_begin))]
                assert seen == mask[head, query, key_begin : key_begin + 64].tolist()


@given(cases(), st.data())
def test_cover_of_a_rectangle_is_right(case: tuple[sk.Pattern, int, int, int], data: st.DataObject) -> None:
    pattern, queries, keys, offset = case
    steps, layout = program(pattern)
    mask = visible(*case)
    for _ in range(10):
        q0, k0 = data.draw(st.integers(0, queries - 1)), data.draw(st.integers(0, keys - 1))
        q1, k1 = data.draw(st.integers(q0 + 1, queries)), data.draw(st.integers(k0 + 1, keys))
        head = data.draw(st.integers(0, 1))
        cover = _C.pattern_cover(steps, layout, head, (q0, q1), (k0, k1), offset)
        part = mask[head, q0:q1, k0:k1]
        if cover == FULL:
            assert part.all()
        elif cover == EMPTY:
            assert not part.any()
        else:
            assert cover == PARTIAL


@pytest.mark.parametrize(
    "pattern", [sk.Dense(), sk.Causal(), sk.Local(9), sk.Local(3, 0), sk.GlobalTokens(7)]
)
def test_cover_of_a_simple_pattern_is_tight(pattern: sk.Pattern) -> None:
    steps, layout = program(pattern)
    mask = visible(pattern, 30, 30, 0)
    for q0 in range(0, 30, 5):
        for k0 in range(0, 30, 5):
            part = mask[0, q0 : q0 + 5, k0 : k0 + 5]
            expected = FULL if part.all() else PARTIAL if part.any() else EMPTY
            assert _C.pattern_cover(steps, layout, 0, (q0, q0 + 5), (k0, k0 + 5), 0) == expected


@given(cases())
def test_nobody_sees_beyond_the_reach(case: tuple[sk.Pattern, int, int, int]) -> None:
    pattern, queries, keys, offset = case
    reach = _C.pattern_reach(*program(pattern))
    distance = torch.arange(keys) - torch.arange(queries)[:, None] - offset
    assert (distance.abs().masked_select(visible(*case)[0]) <= reach).all()
    assert (distance.abs().masked_select(visible(*case)[1]) <= reach).all()


@pytest.mark.parametrize(
    ("pattern", "reach"),
    [
        (sk.Local(9, 3), 9),
        (sk.Local(0, 3), 3),
        (sk.Dilated(4, 5), 20),
        (sk.Local(9) & sk.Causal(), 9),
        (sk.Local(9) | sk.Local(11), 11),
    ],
)
def test_reach_of_a_window_is_tight(pattern: sk.Pattern, reach: int) -> None:
    assert _C.pattern_reach(*program(pattern)) == reach


def test_malformed_programs_are_refused() -> None:
    with pytest.raises(ValueError, match="step is 'diagonal'"):
        _C.pattern_bits([("diagonal", [])], b"", 0, 0, 0, 0)
    with pytest.raises(ValueError, match="steps has 0 entries, expected 1 to 64"):
        _C.pattern_bits([], b"", 0, 0, 0, 0)


@given(st.integers(-300, 300), st.integers(0, 128))
def test_relative_index_clips(distance: int, radius: int) -> None:
    assert _C.relative_index(distance, radius) == min(max(distance, -radius), radius) + radius


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that Salmon et al. publish with their code
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_known_answers(counter: list[int], key: list[int], expected: list[int]) -> None:
    assert _C.philox(counter, *key) == expected


@given(st.integers(0, 2**63 - 1), st.floats(0, 0.99))
def test_dropout_bits_are_those_of_the_reference(seed: int, dropout_p: float) -> None:
    batch, head, query, key = (torch.arange(n) for n in (2, 2, 9, 5))
    expected = keep_mask(torch.tensor(seed), batch, head, query, key, dropout_p)
    threshold = _C.dropout_threshold(dropout_p)
    for index in torch.cartesian_prod(batch, head, query, key).tolist():
        assert (_C.attention_dropout_word(seed, *index) >= threshold) == bool(expected[tuple(index)])


@pytest.mark.parametrize("seed", [0, 0x123456789ABCDEF0 >> 1, 2**63 - 1])
@pytest.mark.parametrize("dropout_p", [1e-9, 0.1, 0.5, 1 - 2**-30])
def test_kept_elements_are_those_of_the_reference(seed: int, dropout_p: float) -> None:
    threshold = _C.dropout_threshold(dropout_p)
    expected = keep_elements(torch.tensor(seed), (300,), dropout_p)
    assert [_C.keeps_element(seed, index, threshold) for index in range(300)] == expected.tolist()
    # a threshold whose upper half is the element's: the lower half decides
    number = max(t for t in range(0, 1 << 32, 1 << 16) if _C.keeps_element(seed, 70, t))
    kept = [_C.keeps_element(seed, 70, number + lower) for lower in range(0, 1 << 16, 4096)]
    assert kept == sorted(kept, reverse=True)
    assert kept == [
        bool(keep_elements(torch.tensor(seed), (71,), (number + lower) / 2**32)[70])
        for lower in range(0, 1 << 16, 4096)
    ]
