"""Hypothesis strategies: any call of sk.attention that its documentation allows."""

from __future__ import annotations

import os

import torch
from hypothesis import strategies as st
from ops.attention_case import STRIDES, TABLES, Case, Mask, Table

import seo_kernels as sk

# all, or those that a tier of the GPU's kernels serves
_NAMES = os.environ.get("SEO_KERNELS_TEST_DTYPES", "float32 float64 bfloat16 float16").split()
DTYPES: tuple[torch.dtype, ...] = tuple(getattr(torch, name) for name in _NAMES)

lengths = st.one_of(st.integers(1, 40), st.sampled_from([0, 1, 63, 64, 65, 100, 128, 129, 200, 257, 300]))
dims = st.one_of(st.integers(1, 24), st.sampled_from([32, 48, 63, 64, 65, 96, 100, 128]))
distances = st.one_of(st.integers(0, 8), st.sampled_from([17, 64, 100, 250]))


@st.composite
def block_layouts(draw: st.DrawFn, heads: int, query_length: int, key_length: int) -> sk.Pattern:
    """Block edges that divide a kernel's tiles, that are divided by them, and that do neither."""
    size = draw(st.sampled_from([1, 3, 16, 48, 64, 100, 128]))
    rows, columns = -(-query_length // size), -(-key_length // size)
    layers = draw(st.sampled_from([1, heads]))
    generator = torch.Generator(torch.get_default_device()).manual_seed(draw(st.integers(0, 999)))
    share = draw(st.sampled_from([0.05, 0.3, 0.9]))
    layout = torch.rand(layers, rows, columns, generator=generator) < share
    return sk.BlockSparse(layout, size)


def patterns(heads: int, query_length: int, key_length: int) -> st.SearchStrategy[sk.Pattern]:
    """Trees of all patterns that fit these sizes."""
    leaves = st.one_of(
        st.just(sk.Dense()),
        st.just(sk.Causal()),
        st.builds(sk.Local, distances, st.none() | distances),
        st.builds(sk.Strided, st.integers(1, 9)),
        st.builds(sk.Dilated, distances, st.integers(1, 5)),
        st.builds(sk.GlobalTokens, st.integers(0, 5)),
        block_layouts(heads, query_length, key_length),
    )
    return st.recursive(
        leaves,
        lambda inner: st.builds(lambda a, b, both: a & b if both else a | b, inner, inner, st.booleans()),
        max_leaves=3,
    )


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, ...]:
    names = draw(st.sets(st.sampled_from(TABLES)))
    dtypes = st.sampled_from([None, None, torch.float32, torch.float64, torch.bfloat16])
    return tuple(
        Table(name, draw(distances), draw(st.booleans()), draw(dtypes)) for name in TABLES if name in names
    )


masks = st.builds(
    Mask,
    st.sampled_from(["bool", "float", "holes"]),
    st.lists(st.booleans(), max_size=4).map(tuple),
    st.sampled_from([None, torch.float32]),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    batch, key_heads, group = draw(st.integers(0, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads = key_heads * group
    key_length = draw(lengths)
    query_length = draw(st.just(key_length) | lengths)
    given_tables, mask, sinks = draw(tables()), draw(st.none() | masks), draw(st.booleans())
    leaves = ["query", "key", "value", *(f"relative_{table.name}" for table in given_tables)]
    leaves += ["mask"] if mask is not None and mask.kind != "bool" else []
    leaves += ["sinks"] if sinks else []
    some_leaves = st.sets(st.sampled_from(leaves), min_size=1).map(sorted).map(tuple)
    through = draw(st.sampled_from(["both", "both", "out", "lse"]))
    return Case(
        dtype=draw(st.sampled_from(DTYPES)),
        batch=batch,
        key_heads=key_heads,
        group=group,
        query_length=query_length,
        key_length=key_length,
        dim=draw(dims),
        value_dim=draw(dims),
        pattern=draw(st.none() | patterns(heads, query_length, key_length)),
        tables=given_tables,
        mask=mask,
        lengths=draw(st.none() | st.tuples(*[st.integers(0, key_length)] * batch)),
        segments=draw(st.sampled_from([None, None, "packed", "scattered"])),
        sinks=sinks,
        softcap=draw(st.sampled_from([None, None, 0.5, 5.0, 50.0])),
        scale=draw(st.sampled_from([None, None, 0.0, 0.3, -1.0])),
        dropout_p=draw(st.sampled_from([0.0, 0.0, 0.1, 0.7])),
        query_offset=draw(st.none() | st.integers(-20, 40)),
        strides=draw(st.tuples(*[st.sampled_from(STRIDES)] * 3)),
        through=through,
        wanted=draw(st.none() | some_leaves) if through == "both" else None,
        seed=draw(st.integers(0, 9999)),
    )
