"""What sk.attention refuses, in which words; and what the op is given for what the user passed."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import seo_kernels as sk
from seo_kernels.ops.arguments import normalise

B, HQ, HKV, TQ, TK, D, DV = 2, 4, 2, 5, 7, 16, 8


def operands(**changes: Tensor) -> dict:
    shapes = {"query": (B, HQ, TQ, D), "key": (B, HKV, TK, D), "value": (B, HKV, TK, DV)}
    return {name: torch.zeros(shape) for name, shape in shapes.items()} | changes


def zeros(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def integers(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


FLOATS = "expected float64, float32, bfloat16 or float16"
TABLE = r"expected \(2R \+ 1, dim=16\) or \(heads=4, 2R \+ 1, dim=16\)"
LAYOUT = torch.ones(1, 2, dtype=torch.bool)

# what is wrong: (what is passed, what the message says)
VALUE_ERRORS = {
    "query of 3 dimensions": (
        {"query": zeros(HQ, TQ, D)},
        r"query has shape \(4, 5, 16\), expected \(batch, heads, length, dim\)",
    ),
    "query without heads": ({"query": zeros(B, 0, TQ, D)}, "query has shape .*, expected at least one head"),
    "D of 257": ({"query": zeros(B, HQ, TQ, 257)}, r"query has shape \(2, 4, 5, 257\), .* from 1 to 256"),
    "D of 0": (
        {"query": zeros(B, HQ, TQ, 0), "key": zeros(B, HKV, TK, 0)},
        "query has shape .* from 1 to 256",
    ),
    "Dv of 257": ({"value": zeros(B, HKV, TK, 257)}, r"value has shape \(2, 2, 7, 257\), .* from 1 to 256"),
    "Dv of 0": ({"value": zeros(B, HKV, TK, 0)}, r"value has shape \(2, 2, 7, 0\), .* from 1 to 256"),
    "key of another dim": (
        {"key": zeros(B, HKV, TK, 8)},
        r"key has shape \(2, 2, 7, 8\), expected \(batch=2, heads, length, dim=16\)",
    ),
    "key of another batch": (
        {"key": zeros(3, HKV, TK, D)},
        r"key has shape \(3, 2, 7, 16\), expected \(batch=2",
    ),
    "key of 3 dimensions": ({"key": zeros(HKV, TK, D)}, r"key has shape \(2, 7, 16\), expected"),
    "heads that do not divide": (
        {"key": zeros(B, 3, TK, D), "value": zeros(B, 3, TK, DV)},
        "key has 3 heads, expected a number that divides the query's 4 heads",
    ),
    "key without heads": ({"key": zeros(B, 0, TK, D)}, "key has 0 heads"),
    "value of another length": (
        {"value": zeros(B, HKV, 6, DV)},
        r"value has shape \(2, 2, 6, 8\), expected \(batch=2, heads=2, length=7, dim\)",
    ),
    "value of other heads": ({"value": zeros(B, HQ, TK, DV)}, r"value has shape \(2, 4, 7, 8\), expected"),
    "value of 3 dimensions": ({"value": zeros(HKV, TK, DV)}, r"value has shape \(2, 7, 8\), expected"),
    "key elsewhere": (
        {"key": zeros(B, HKV, TK, D, device="meta")},
        "key is on meta, expected the query's device cpu",
    ),
    "value elsewhere": ({"value": zeros(B, HKV, TK, DV, device="meta")}, "value is on meta"),
    "layout of a wrong size": (
        {"pattern": sk.BlockSparse(LAYOUT, 3) & sk.Causal()},
        r"pattern: the BlockSparse layout has shape \(1, 1, 2\), expected \(1 or heads=4, 2, 3\) for 5",
    ),
    "layout of other heads": (
        {"pattern": sk.BlockSparse(LAYOUT.expand(3, 1, 2), 6)},
        r"layout has shape \(3, 1, 2\), expected \(1 or heads=4, 1, 2\) for 5 queries and 7 keys in",
    ),
    "relative key of another dim": (
        {"relative": sk.RelativePosition(key=zeros(3, 8))},
        rf"relative key has shape \(3, 8\), {TABLE}",
    ),
    "relative key of other heads": (
        {"relative": sk.RelativePosition(key=zeros(2, 3, D))},
        rf"relative key has shape \(2, 3, 16\), {TABLE}",
    ),
    "relative value of another dim": (
        {"relative": sk.RelativePosition(value=zeros(3, D))},
        r"relative value has shape \(3, 16\), expected \(2R \+ 1, dim=8\)",
    ),
    "relative bias of other heads": (
        {"relative": sk.RelativePosition(bias=zeros(2, 3))},
        r"relative bias has shape \(2, 3\), expected \(heads=4, 2R \+ 1\)",
    ),
    "slopes of other heads": (
        {"relative": sk.RelativePosition(slopes=zeros(2))},
        r"relative slopes has shape \(2,\), expected \(heads=4,\)",
    ),
    "slopes elsewhere": (
        {"relative": sk.RelativePosition(slopes=zeros(HQ, device="meta"))},
        "relative slopes is on meta",
    ),
    "mask of another length": (
        {"mask": zeros(TQ, TQ)},
        r"mask has shape \(5, 5\), expected one that broadcasts to "
        r"\(batch=2, heads=4, query length=5, key length=7\)",
    ),
    "mask of the key's heads": ({"mask": zeros(B, HKV, TQ, TK)}, r"mask has shape \(2, 2, 5, 7\)"),
    "mask of 5 dimensions": ({"mask": zeros(1, 1, 1, 1, 1)}, r"mask has shape \(1, 1, 1, 1, 1\)"),
    "empty mask": ({"mask": zeros(0)}, r"mask has shape \(0,\)"),
    "mask elsewhere": ({"mask": zeros(TQ, TK, device="meta")}, "mask is on meta"),
    "key_lengths of another batch": (
        {"key_lengths": integers(3)},
        r"key_lengths has shape \(3,\), expected \(batch=2,\)",
    ),
    "key_lengths of 2 dimensions": ({"key_lengths": integers(B, 1)}, r"key_lengths has shape \(2, 1\)"),
    "key_lengths beyond the keys": ({"key_lengths": torch.tensor([1, 8])}, r"key_lengths.*\b8\b"),
    "key_lengths below zero": ({"key_lengths": torch.tensor([-1, 2])}, r"key_lengths.*-1\b"),
    "one segment_ids for two lengths": (
        {"segment_ids": integers(B, TK)},
        "segment_ids is one tensor for 5 queries and 7 keys, expected a pair",
    ),
    "segment_ids of another length": (
        {"segment_ids": (integers(B, TQ), integers(B, TQ))},
        r"segment_ids\[1\] has shape \(2, 5\), expected \(batch=2, length=7\)",
    ),
    "segment_ids of three": (
        {"segment_ids": (integers(B, TQ),) * 3},
        "segment_ids has 3 parts, expected a pair",
    ),
    "sinks of other heads": ({"sinks": zeros(HKV)}, r"sinks has shape \(2,\), expected \(heads=4,\)"),
    "dropout of 1": ({"dropout_p": 1.0}, r"dropout_p is 1.0, expected a number in \[0, 1\)"),
    "dropout below 0": ({"dropout_p": -0.1}, "dropout_p is -0.1"),
    "dropout of nan": ({"dropout_p": math.nan}, "dropout_p is nan"),
    "scale of infinity": ({"scale": math.inf}, "scale is inf, expected a finite number"),
    "scale of nan": ({"scale": math.nan}, "scale is nan"),
    "softcap of 0": ({"softcap": 0.0}, "softcap is 0.0, expected a positive number or None"),
    "softcap below 0": ({"softcap": -1}, "softcap is -1"),
    "softcap of infinity": ({"softcap": math.inf}, "softcap is inf, expected a finite number"),
    "query_offset out of range": ({"query_offset": 2**40}, "query_offset is 1099511627776"),
}
TYPE_ERRORS = {
    "query of a list": ({"query": [1.0]}, "query is a list, expected a tensor"),
    "value of None": ({"value": None}, "value is a NoneType, expected a tensor"),
    "integer query": ({"query": integers(B, HQ, TQ, D)}, f"query has dtype torch.int64, {FLOATS}"),
    "integer tensors": (
        {name: tensor.long() for name, tensor in operands().items()},
        f"query has dtype torch.int64, {FLOATS}",
    ),
    "complex key": (
        {"key": zeros(B, HKV, TK, D, dtype=torch.complex64)},
        f"key has dtype torch.complex64, {FLOATS}",
    ),
    "mixed key": (
        {"key": zeros(B, HKV, TK, D, dtype=torch.float64)},
        "key has dtype torch.float64, expected the query's torch.float32",
    ),
    "mixed value": (
        {"value": zeros(B, HKV, TK, DV, dtype=torch.bfloat16)},
        "value has dtype torch.bfloat16, expected the query's torch.float32",
    ),
    "sparse query": ({"query": zeros(B, HQ, TQ, D).to_sparse()}, "query has layout torch.sparse_coo"),
    "pattern of a string": (
        {"pattern": "causal"},
        r"pattern is a str \('causal'\), expected a pattern such as",
    ),
    "pattern of a tensor": ({"pattern": zeros(TQ, TK)}, "pattern is a Tensor, .* a tensor goes to mask="),
    "pattern class": ({"pattern": sk.Causal}, "pattern is a type, expected a pattern"),
    "relative of a tensor": ({"relative": zeros(3, D)}, "relative is a Tensor, expected a RelativePosition"),
    "mask of a list": ({"mask": [[True]]}, "mask is a list, expected a tensor"),
    "integer mask": (
        {"mask": integers(TQ, TK)},
        r"mask has dtype torch.int64, expected bool \(True: attend\) or floating point",
    ),
    "float key_lengths": (
        {"key_lengths": zeros(B)},
        "key_lengths has dtype torch.float32, expected torch.int64",
    ),
    "key_lengths of a list": (
        {"key_lengths": [1, 2]},
        "key_lengths is a list, expected an int64 or int32 tensor",
    ),
    "segment_ids of a number": (
        {"segment_ids": 3},
        r"segment_ids is an int \(3\), expected an integer tensor",
    ),
    "bool segment_ids": (
        {"segment_ids": (integers(B, TQ), integers(B, TK).bool())},
        r"segment_ids\[1\] has dtype torch.bool",
    ),
    "sinks of a number": ({"sinks": 0.5}, r"sinks is a float \(0.5\), expected a tensor"),
    "integer sinks": ({"sinks": integers(HQ)}, "sinks has dtype torch.int64"),
    "dropout of a string": ({"dropout_p": "0.1"}, r"dropout_p is a str \('0.1'\), expected a number"),
    "dropout of None": ({"dropout_p": None}, "dropout_p is a NoneType"),
    "dropout of a bool": ({"dropout_p": False}, r"dropout_p is a bool \(False\)"),
    "scale of a tensor": ({"scale": torch.tensor(1.0)}, "scale is a Tensor, expected a number or None"),
    "softcap of a string": ({"softcap": "30"}, "softcap is a str"),
    "query_offset of a float": (
        {"query_offset": 1.0},
        r"query_offset is a float \(1.0\), expected an int or None",
    ),
    "unknown option": ({"is_causal": True}, "unexpected keyword argument 'is_causal'"),
}


@pytest.fixture(params=["kernel", "reference"])
def attention(request):
    return sk.attention if request.param == "kernel" else sk.reference.attention


@pytest.mark.parametrize("case", VALUE_ERRORS)
def test_value_errors(attention, case):
    options, message = VALUE_ERRORS[case]
    with pytest.raises(ValueError, match=message):
        attention(**operands(**options))


@pytest.mark.parametrize("case", TYPE_ERRORS)
def test_type_errors(attention, case):
    options, message = TYPE_ERRORS[case]
    with pytest.raises(TypeError, match=message):
        attention(**operands(**options))


def test_options_are_keywords_only(attention):
    with pytest.raises(TypeError, match="positional argument"):
        attention(*operands().values(), sk.Causal())


def test_tables_changed_after_construction_are_checked():
    relative = sk.RelativePosition(key=zeros(3, D))
    relative.key = zeros(4, D)
    with pytest.raises(ValueError, match=rf"relative key has shape \(4, 16\), {TABLE}"):
        normalise(**operands(), relative=relative)


def test_defaults():
    given = operands()
    arguments = normalise(**given)
    assert arguments.values()[:5] == (given["query"], given["key"], given["value"], "dense", None)
    assert all(value is None for value in arguments.values()[5:15])
    assert arguments.values()[15:] == (0.0, 1 / math.sqrt(D), 0.0, TK - TQ)
    assert list(arguments.values()) == list(vars(arguments).values())  # the order of the fields


def test_everything_given():
    pattern = sk.BlockSparse(LAYOUT, 6) & sk.Causal()
    relative = sk.RelativePosition(
        key=zeros(3, D), value=zeros(HQ, 5, DV), bias=zeros(HQ, 7), slopes=zeros(HQ)
    )
    arguments = normalise(
        **operands(),
        pattern=pattern,
        relative=relative,
        mask=zeros(TQ, 1),
        key_lengths=torch.tensor([1, 2], dtype=torch.int32),
        segment_ids=(integers(B, TQ), integers(B, TK).int()),
        sinks=zeros(HQ, dtype=torch.float64),
        dropout_p=0.25,
        scale=2,
        softcap=30,
        query_offset=-3,
    )
    assert (arguments.pattern, arguments.layout) == pattern.encode()
    assert arguments.relative_key is relative.key
    assert arguments.relative_value is relative.value
    assert arguments.relative_bias is relative.bias
    assert arguments.slopes is relative.slopes
    assert arguments.mask.shape == (1, 1, TQ, 1)
    assert arguments.key_lengths.tolist() == [1, 2]
    assert arguments.key_segments.shape == (B, TK)
    for tensor in (arguments.key_lengths, arguments.query_segments, arguments.key_segments, arguments.seed):
        assert tensor.dtype == torch.int64
    assert arguments.seed.shape == ()
    assert (arguments.dropout_p, arguments.scale, arguments.softcap, arguments.query_offset) == (
        0.25,
        2.0,
        30.0,
        -3,
    )


@pytest.mark.parametrize("shape", [(), (1,), (TK,), (TQ, 1), (HQ, 1, TK), (1, 1, TQ, TK), (B, HQ, TQ, TK)])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.float64, torch.bfloat16])
def test_masks_that_broadcast(shape, dtype):
    mask = zeros(*shape, dtype=dtype)
    got = normalise(**operands(), mask=mask).mask
    assert got.shape == (1,) * (4 - len(shape)) + shape
    assert got.dtype == dtype
    assert got.data_ptr() == mask.data_ptr()


def test_one_segment_ids_for_both():
    segments = integers(B, TK)
    arguments = normalise(**operands(query=zeros(B, HQ, TK, D)), segment_ids=segments)
    assert arguments.query_segments is arguments.key_segments
    assert arguments.query_segments is segments


def test_seed_comes_from_the_default_generator():
    seeds = []
    for _ in range(2):
        torch.manual_seed(11)
        seeds.append(int(normalise(**operands(), dropout_p=0.1).seed))
    seeds.append(int(normalise(**operands(), dropout_p=0.1).seed))
    assert seeds[0] == seeds[1] != seeds[2]
    state = torch.random.get_rng_state()
    normalise(**operands())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_autocast_casts_as_torch_does():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        arguments = normalise(**operands(value=zeros(B, HKV, TK, DV, dtype=torch.float16)), sinks=zeros(HQ))
        assert [tensor.dtype for tensor in arguments.values()[:3]] == [torch.bfloat16] * 3
        assert arguments.sinks.dtype == torch.float32
        double = {name: tensor.double() for name, tensor in operands().items()}
        assert normalise(**double).query.dtype == torch.float64


@pytest.mark.parametrize("sizes", [(0, TQ, TK), (B, 0, TK), (B, TQ, 0), (0, 0, 0)])
def test_empty_sizes_are_legal(attention, sizes):
    batch, rows, columns = sizes
    query, key = zeros(batch, HQ, rows, D), zeros(batch, HKV, columns, D)
    out, lse = attention(
        query, key, key, key_lengths=integers(batch), mask=zeros(rows, columns), return_lse=True
    )
    assert out.shape == (batch, HQ, rows, D)
    assert bool((out == 0).all())
    assert bool((lse == -math.inf).all())


@pytest.mark.parametrize("pattern", [None, sk.Local(3) & sk.Causal(), sk.bigbird(7, 4)], ids=repr)
def test_traces_with_dynamic_sizes(pattern):
    def traced(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        arguments = normalise(
            query, key, value, pattern=pattern, mask=mask, key_lengths=mask[..., 0].sum((1, 2)).long()
        )
        return (
            arguments.query * arguments.scale + arguments.query_offset,
            arguments.mask + 1,
            arguments.key_lengths,
        )

    compiled = torch.compile(traced, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows, columns in ((7, 7), (5, 5), (6, 8)) if pattern is None else ((7, 7), (5, 5)):
        inputs = (torch.rand(B, HQ, rows, D), torch.rand(B, HKV, columns, D), torch.rand(B, HKV, columns, DV))
        mask = torch.rand(B, 1, rows, columns)
        for a, b in zip(compiled(*inputs, mask), traced(*inputs, mask), strict=True):
            torch.testing.assert_close(a, b)


def test_errors_under_compile_name_the_argument():
    compiled = torch.compile(normalise, backend="eager")
    with pytest.raises(Exception, match="key has shape"):
        compiled(**operands(key=zeros(B, HKV, TK, 8)))
