"""The oracle fails where it should: attention with one planted bug each, and passes where there is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from ops.attention_case import Case, Mask, Table, build, run
from ops.oracle import check
from ops.strategies import DTYPES
from torch import Tensor

import seo_kernels as sk
from seo_kernels.reference import attention

CASE = Case(
    key_heads=2,
    group=2,
    pattern=sk.Local(12, 6) | sk.GlobalTokens(1),
    tables=(Table("key", 4), Table("value", 5), Table("bias", 6), Table("slopes")),
    mask=Mask("float", (True, True, True)),
    lengths=(37, 30),
    segments="packed",
    sinks=True,
    softcap=3.0,
    dropout_p=0.2,
)


class Scaled(torch.autograd.Function):
    """The value as it is, the gradient times a factor."""

    @staticmethod
    def forward(ctx, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.factor, None


def with_arguments(change: Callable[[dict], dict]) -> Callable:
    return lambda **options: attention(**(options | change(options)))


def with_table(name: str, change: Callable[[Tensor], Tensor]) -> Callable:
    def bug(options: dict) -> dict:
        tables = {n: getattr(options["relative"], n) for n in ("key", "value", "bias", "slopes")}
        return {"relative": sk.RelativePosition(**tables | {name: change(tables[name])})}

    return with_arguments(bug)


def with_results(change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Callable:
    return lambda **options: change(*attention(**options))


def clipped_one_early(table: Tensor) -> Tensor:
    return torch.cat([table[:, 1:2], table[:, 1:-1], table[:, -2:-1]], 1)


def other_dropout_bits(**options: object) -> tuple[Tensor, Tensor]:
    torch.randint(9, ())
    return attention(**options)


def wrong_in_the_last_column(out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    factor = torch.ones_like(out)
    factor[-1, -1, -1, -1] = 1.05
    return out * factor, lse


BUGS = {
    "no scale": with_arguments(lambda given: {"scale": 1.0}),
    "position off by one": with_arguments(lambda given: {"query_offset": 5}),
    "window too narrow": with_arguments(lambda given: {"pattern": sk.Local(12, 5) | sk.GlobalTokens(1)}),
    "window too wide": with_arguments(lambda given: {"pattern": sk.Local(13, 6) | sk.GlobalTokens(1)}),
    "global tokens not seen": with_arguments(lambda given: {"pattern": sk.Local(12, 6)}),
    "key lengths off by one": with_arguments(lambda given: {"key_lengths": given["key_lengths"] - 1}),
    "segments ignored": with_arguments(lambda given: {"segment_ids": None}),
    "softcap ignored": with_arguments(lambda given: {"softcap": None}),
    "softcap a little off": with_arguments(lambda given: {"softcap": 3.01}),
    "sinks ignored": with_arguments(lambda given: {"sinks": given["sinks"] - 100}),
    "mask of another head": with_arguments(lambda given: {"mask": given["mask"].roll(1, 0)}),
    "no gradient of the mask": with_arguments(lambda given: {"mask": given["mask"].detach()}),
    "heads grouped the other way": with_arguments(
        lambda given: {name: given[name].repeat(1, 2, 1, 1) for name in ("key", "value")}
    ),
    "clip of the key table": with_table("key", clipped_one_early),
    "clip of the value table": with_table("value", clipped_one_early),
    "clip of the bias table": with_table("bias", clipped_one_early),
    "bias the other way round": with_table("bias", lambda table: table.flip(1)),
    "slopes with the wrong sign": with_table("slopes", torch.neg),
    "gradient of slopes a little off": with_table("slopes", lambda table: Scaled.apply(table, 1.01)),
    "gradient of the key table halved": with_table("key", lambda table: Scaled.apply(table, 0.5)),
    "gradient of key a little off": with_arguments(lambda given: {"key": Scaled.apply(given["key"], 1.001)}),
    "gradient of value with the wrong sign": with_arguments(
        lambda given: {"value": Scaled.apply(given["value"], -1.0)}
    ),
    "dropout not scaled": with_results(lambda out, lse: (out * 0.8, lse)),
    "other dropout bits": other_dropout_bits,
    "no gradient through lse": with_results(lambda out, lse: (out, lse.detach() + 0 * out.sum())),
    "lse in bits": with_results(lambda out, lse: (out, lse / torch.tensor(2.0).log())),
    "one element": with_results(wrong_in_the_last_column),
    "output of another dtype": with_results(lambda out, lse: (out.double(), lse)),
    "NaN in a gradient": with_arguments(lambda given: {"query": Scaled.apply(given["query"], torch.nan)}),
}


@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_found(bug):
    with pytest.raises(AssertionError):
        check(CASE, BUGS[bug])


COARSE_BUGS = [name for name in BUGS if "little" not in name and name != "one element"]


@pytest.mark.parametrize("bug", COARSE_BUGS)
def test_coarse_bugs_are_found_at_low_precision(bug):
    with pytest.raises(AssertionError):
        check(dataclasses.replace(CASE, dtype=torch.bfloat16), BUGS[bug])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key_length", [1, 37])
def test_other_roundings_pass(dtype, key_length):
    """The same formula with sums in another order: keys backwards, where nothing depends on their order."""
    case = Case(dtype=dtype, key_length=key_length, group=2, mask=Mask("float"), sinks=True, scale=0.3)

    def backwards(**options: object) -> tuple[Tensor, Tensor]:
        turned = {name: options[name].flip(2) for name in ("key", "value")}
        return attention(**(options | turned | {"mask": options["mask"].flip(3)}))

    check(case, backwards)
    check(case, attention)


def test_cases_build_the_same_inputs_every_time():
    first, second = (run(attention, CASE, build(CASE)) for _ in range(2))
    for name, result in first.items():
        assert torch.equal(result, second[name])
    assert set(first) == {"out", "lse"} | {f"d {name}" for name in build(CASE).leaves}
