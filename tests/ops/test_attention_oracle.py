"""sk.attention against the float64 reference: output, lse and every gradient, over all its arguments."""

from __future__ import annotations

import dataclasses
import itertools
import os

import pytest
import torch
from hypothesis import given, settings
from ops.attention_case import DEVICES, Case, Mask, Table, build, run
from ops.instruction_sets import LOWER, run_again
from ops.oracle import check
from ops.pairwise import pairwise
from ops.strategies import DTYPES, cases

import seo_kernels as sk

SHARE = int(os.environ.get("SEO_KERNELS_TEST_SHARE", "1"))  # one case in so many, where they take long
ALL_TABLES = (Table("key", 4), Table("value", 30, per_head=False), Table("bias", 6), Table("slopes"))


@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=80 // SHARE)
@given(case=cases())
def test_random_calls(device, case):
    check(case, device=device)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("device", DEVICES)
@settings(max_examples=3000, derandomize=False)
@given(case=cases())
def test_many_random_calls(device, case):
    check(case, device=device)


SIZES = (1, 63, 100, 257)
DIMS = ((1, 5), (63, 64), (64, 64), (100, 37), (128, 1), (256, 256))
SHAPES = [
    sk.Dense(),
    sk.Causal(),
    sk.Local(20, 3),
    sk.Local(64) & sk.Causal(),
    sk.longformer(9, 2, dilation=3),
]


def directed_cases() -> list[Case]:
    """Every Tq with every Tk; dims, dtypes, patterns and head groups take turns."""
    turns = zip(
        itertools.cycle(DIMS),
        itertools.cycle(DTYPES),
        itertools.cycle(SHAPES),
        itertools.count(),
        strict=False,
    )
    return [
        Case(
            dtype=dtype,
            batch=1 + turn % 2,
            key_heads=1 + turn % 3,
            group=1 + turn % 2,
            query_length=query_length,
            key_length=key_length,
            dim=dim,
            value_dim=value_dim,
            pattern=pattern,
            seed=turn,
        )
        for (query_length, key_length), ((dim, value_dim), dtype, pattern, turn) in zip(
            itertools.product(SIZES, SIZES), turns, strict=False
        )
    ]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", directed_cases()[::SHARE], ids=lambda c: f"{c.query_length}x{c.key_length}")
def test_directed_sizes(device, case):
    check(case, device=device)


def blocks(lengths: tuple[int, int]) -> sk.Pattern:
    rows, columns = (-(-length // 32) for length in lengths)
    layout = (
        torch.rand(4, rows, columns, generator=torch.Generator(torch.get_default_device()).manual_seed(rows))
        < 0.4
    )
    return sk.BlockSparse(layout, 32)


PATTERNS = {
    "dense": lambda lengths: sk.Dense(),
    "causal": lambda lengths: sk.Causal(),
    "local": lambda lengths: sk.Local(30, 17),
    "window": lambda lengths: sk.Local(40, 0),
    "strided": lambda lengths: sk.Strided(5) & sk.Causal(),
    "dilated": lambda lengths: sk.Dilated(8, 7),
    "global": lambda lengths: sk.GlobalTokens(3) | sk.Local(5),
    "blocks": blocks,
    "blocks and causal": lambda lengths: blocks(lengths) & sk.Causal() | sk.Local(1),
}
RELATIVE = {
    "no table": (),
    "key": (Table("key", 7, per_head=False),),
    "value": (Table("value", 7),),
    "key and value": (Table("key", 130), Table("value", 3, per_head=False, dtype=torch.float32)),
    "bias": (Table("bias", 200),),
    "slopes": (Table("slopes", dtype=torch.float32),),
    "all tables": ALL_TABLES,
}
MASKS = {
    "no mask": {},
    "bool": {"mask": Mask("bool", (False, True, True))},
    "float": {"mask": Mask("float", (True, True, True, True))},
    "float by key": {"mask": Mask("float", (True, False, False, True), torch.float32)},
    "holes": {"mask": Mask("holes", (True, True))},
    "lengths": {"lengths": (0, 51)},
    "packed": {"segments": "packed"},
    "scattered": {"segments": "scattered", "lengths": (51, 20)},
}
COLUMNS = {
    "pattern": list(PATTERNS),
    "relative": list(RELATIVE),
    "mask": list(MASKS),
    "dropout": [0.0, 0.3],
    "dtype": DTYPES,
    "lengths": [(67, 67), (130, 300), (150, 53)],
    "heads": [(4, 1), (1, 4), (2, 2)],
    "dims": [(64, 64), (24, 33)],
    "sinks": [False, True],
    "softcap": [None, 2.0],
    "through": ["both", "out", "lse"],
    "strides": [("contiguous",) * 3, ("heads inside",) * 3, ("gaps", "reversed", "contiguous")],
}


def case_of_row(row: dict, seed: int) -> Case:
    return Case(
        dtype=row["dtype"],
        key_heads=row["heads"][0],
        group=row["heads"][1],
        query_length=row["lengths"][0],
        key_length=row["lengths"][1],
        dim=row["dims"][0],
        value_dim=row["dims"][1],
        pattern=PATTERNS[row["pattern"]](row["lengths"]),
        tables=RELATIVE[row["relative"]],
        sinks=row["sinks"],
        softcap=row["softcap"],
        dropout_p=row["dropout"],
        through=row["through"],
        strides=row["strides"],
        seed=seed,
        **MASKS[row["mask"]],
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("row", "seed"),
    [(row, seed) for seed, row in enumerate(pairwise(COLUMNS))][::SHARE],
    ids=lambda value: (
        "-".join(str(value[n]) for n in ("pattern", "relative", "mask")) if isinstance(value, dict) else ""
    ),
)
def test_every_pair(device, row, seed):
    check(case_of_row(row, seed), device=device)


# Sums of heads wider than 128 take most registers: such kernels are others.
WIDE = COLUMNS | {
    "pattern": ["causal", "local", "blocks", "dense"],
    "relative": ["no table"],
    "mask": ["no mask", "bool", "lengths", "packed"],
    "lengths": [(67, 67), (70, 150), (150, 53)],
    "heads": [(4, 1), (2, 2)],
    "dims": [(160, 160), (192, 128), (256, 256), (64, 200)],
    "through": ["both", "out"],
    "strides": [("contiguous",) * 3, ("heads inside",) * 3],
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("row", "seed"),
    [(row, seed) for seed, row in enumerate(pairwise(WIDE))][::SHARE],
    ids=lambda value: (
        "-".join(str(value[n]) for n in ("dims", "pattern", "mask")) if isinstance(value, dict) else ""
    ),
)
def test_wide_heads(device, row, seed):
    check(case_of_row(row, seed), device=device)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_combination(device, pattern):
    others = {
        "dtype": DTYPES,
        "lengths": COLUMNS["lengths"],
        "heads": COLUMNS["heads"],
        "dims": COLUMNS["dims"],
    }
    rest = itertools.cycle(pairwise(others | {"sinks": [False, True], "softcap": [None, 2.0]}))
    fixed = {"pattern": pattern, "through": "both", "strides": ("contiguous",) * 3}
    for seed, (relative, mask, dropout) in enumerate(itertools.product(RELATIVE, MASKS, [0.0, 0.3])):
        row = fixed | next(rest) | {"relative": relative, "mask": mask, "dropout": dropout}
        check(case_of_row(row, seed), device=device)


BUSY = Case(
    group=2,
    query_length=130,
    key_length=300,
    pattern=sk.Local(90, 40) | sk.GlobalTokens(2),
    tables=ALL_TABLES,
    mask=Mask("float"),
    lengths=(300, 201),
    segments="packed",
    sinks=True,
    softcap=3.0,
    dropout_p=0.2,
)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_runs_are_bitwise_repeatable(device, dtype):
    case = dataclasses.replace(BUSY, dtype=dtype)
    first, second = (run(sk.attention, case, build(case, device)) for _ in range(2))
    for name, result in first.items():
        assert torch.equal(result, second[name]), name


@pytest.mark.parametrize("capability", LOWER)
def test_every_instruction_set(capability):
    """The directed sizes and pairs."""
    run_again(capability, *(f"{__file__}::{name}" for name in ("test_directed_sizes", "test_every_pair")))
