"""Gradients of what is added to scores (masks, relative biases, slopes) and of sinks, alone and together."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from ops.attention_case import DEVICES, Case, Mask, Table, build, run
from ops.oracle import check
from ops.strategies import DTYPES

import seo_kernels as sk


def layout(heads: int, rows: int, columns: int) -> torch.Tensor:
    generator = torch.Generator(torch.get_default_device()).manual_seed(heads)
    shown = torch.rand(heads, rows, columns, generator=generator) < 0.25
    shown[0, :2] = False  # other heads visit what the first does not
    return shown


# several tiles and panels, the last ones short, and more tiles than slots of a head
WIDE = Case(
    batch=3,
    key_heads=2,
    group=2,
    query_length=100,
    key_length=150,
    dim=40,
    value_dim=24,
    pattern=sk.Dense(),
)
VARIANTS = {
    "dense": WIDE,
    "causal": dataclasses.replace(WIDE, pattern=sk.Causal(), softcap=2.0),
    "local": dataclasses.replace(WIDE, pattern=sk.Local(70, 9), dropout_p=0.3),
    "blocks": dataclasses.replace(WIDE, pattern=sk.BlockSparse(layout(4, 4, 5), 32), segments="packed"),
    "lengths": dataclasses.replace(WIDE, pattern=sk.Local(90), lengths=(150, 0, 77), through="lse"),
    "tables": dataclasses.replace(
        WIDE, tables=(Table("key", 20), Table("value", 70, per_head=False)), softcap=3.0, query_offset=-30
    ),
    "wide": dataclasses.replace(WIDE, batch=1, key_heads=1, dim=136, value_dim=256),
}


def with_tables(case: Case, *tables: Table) -> Case:
    return dataclasses.replace(case, tables=(*case.tables, *tables))


# batch, head, query, key: what is not full is summed over
SHAPES = {
    "(1, 1, Tq, Tk)": (False, False, True, True),
    "(B, 1, 1, Tk)": (True, False, False, True),
    "(1, H, Tq, 1)": (False, True, True, False),
    "(B, H, Tq, Tk)": (True, True, True, True),
    "(1, 1, 1, 1)": (False, False, False, False),
    "(B, H, 1, Tk)": (True, True, False, True),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_masks(device, shape, variant):
    turn = list(SHAPES).index(shape) + list(VARIANTS).index(variant)
    mask = Mask(("float", "holes")[turn % 2], SHAPES[shape], torch.float32 if turn % 3 else None)
    dtype = DTYPES[turn % len(DTYPES)]
    check(
        dataclasses.replace(VARIANTS[variant], mask=mask, dtype=dtype, wanted=("mask",), seed=turn),
        device=device,
    )


# no distance inside, one, at the edges of tiles, and more than there are
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("reach", [0, 1, 63, 64, 65, 400])
@pytest.mark.parametrize("variant", VARIANTS)
def test_biases(device, variant, reach):
    case = with_tables(VARIANTS[variant], Table("bias", reach))
    dtype = DTYPES[reach % len(DTYPES)]
    check(dataclasses.replace(case, dtype=dtype, wanted=("relative_bias",), seed=reach), device=device)


ALONE = {
    "slopes": ((Table("slopes"),), False),
    "sinks": ((), True),
    "sinks beside a bias": ((Table("bias", 9),), True),
    "slopes beside a bias": ((Table("bias", 9), Table("slopes")), False),
    "all": ((Table("bias", 30), Table("slopes")), True),
}
WANTED = {
    "slopes": ("relative_slopes",),
    "sinks": ("sinks",),
    "sinks beside a bias": ("sinks",),
    "slopes beside a bias": ("relative_slopes",),
    "all": ("relative_bias", "relative_slopes", "sinks"),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("what", ALONE)
def test_slopes_and_sinks(device, what, variant):
    tables, sinks = ALONE[what]
    case = with_tables(VARIANTS[variant], *tables)
    dtype = DTYPES[len(what) % len(DTYPES)]
    check(dataclasses.replace(case, sinks=sinks, dtype=dtype, wanted=WANTED[what]), device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_they_are_bitwise_repeatable(device, dtype):
    case = with_tables(VARIANTS["blocks"], Table("bias", 30), Table("slopes"))
    case = dataclasses.replace(case, mask=Mask("float", (False, True, True, True)), sinks=True, dtype=dtype)
    first, second = (run(sk.attention, case, build(case, device)) for _ in range(2))
    for name, result in first.items():
        assert torch.equal(result, second[name]), name
