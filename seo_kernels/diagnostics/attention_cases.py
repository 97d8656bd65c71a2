"""The features of ``sk.attention`` that the gradient verification runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seo_kernels import patterns
from seo_kernels.diagnostics.checked_op import CheckedOp, Feature, Problem, Size
from seo_kernels.patterns import Pattern
from seo_kernels.relative import RelativePosition

DROPOUT_SEED = 7
TABLES = ("relative_key", "relative_value", "relative_bias", "slopes")


@dataclass(frozen=True)
class AttentionCase:
    """Arguments of one case; lengths and windows scale with the size that is asked for."""

    name: str
    pattern: Callable[[int], Pattern] = lambda length: patterns.Dense()  # of the key length
    tables: tuple[str, ...] = ()
    table_heads: bool = True  # one relative key and value table per head, or one for all
    groups: int = 1  # query heads per key head
    fewer_queries: bool = False
    query_offset: int | None = None
    mask: str = ""  # "bool", "float" (1, H, Tq, Tk) or "padding" (B, 1, 1, Tk)
    key_lengths: bool = False
    segments: bool = False
    sinks: bool = False
    softcap: float | None = None
    dropout_p: float = 0.0
    return_lse: bool = False
    transposed: bool = False  # inputs are (B, T, H, D) views


def op() -> CheckedOp:
    """``sk.attention`` against ``sk.reference.attention``."""
    import seo_kernels as sk

    wide = (*TABLES, "sinks")
    features = [Feature(case.name, _problem_maker(case)) for case in CASES]
    features.append(Feature("float32 tables, bias and sinks", _problem_maker(CASES[-1]), wide=wide))
    return CheckedOp("attention", sk.attention, sk.reference.attention, tuple(features))


def _local(length: int) -> Pattern:
    return patterns.Local(length // 4, length // 8)


def _window(length: int) -> Pattern:
    return patterns.Local(length // 4, 0)


def _blocks(length: int) -> Pattern:
    size = 2 if length < 16 else 32
    count = -(-length // size)
    layout = torch.zeros(2, count, count, dtype=torch.bool)
    layout[0] = torch.eye(count, dtype=torch.bool)
    layout[1] = torch.ones(count, count).tril(-1).bool()  # the first block of rows sees nothing
    return patterns.BlockSparse(layout, block_size=size)


CASES = (
    AttentionCase("dense"),
    AttentionCase("dense, (B, T, H, D) views", transposed=True),
    AttentionCase("causal, fewer queries than keys", lambda length: patterns.Causal(), fewer_queries=True),
    AttentionCase("local", _local),
    AttentionCase("causal window, grouped queries", _window, groups=2),
    AttentionCase("block sparse per head", _blocks),
    AttentionCase("strided & causal", lambda length: patterns.Strided(3) & patterns.Causal()),
    AttentionCase("dilated", lambda length: patterns.Dilated(length // 8, 2)),
    AttentionCase("local | global tokens", lambda length: _local(length) | patterns.GlobalTokens(1)),
    AttentionCase("query_offset", _window, fewer_queries=True, query_offset=1),
    AttentionCase("relative key", tables=("relative_key",)),
    AttentionCase("shared relative key and value, local", _local, TABLES[:2], table_heads=False),
    AttentionCase("relative key and value, grouped queries", _window, TABLES[:2], groups=2),
    AttentionCase("relative bias, causal", lambda length: patterns.Causal(), ("relative_bias",)),
    AttentionCase("slopes, causal", lambda length: patterns.Causal(), ("slopes",)),
    AttentionCase("every table, local", _local, TABLES),
    AttentionCase("softcap with relative key", tables=("relative_key",), softcap=1.5),
    AttentionCase("sinks, local", _local, sinks=True),
    AttentionCase("bool mask with rows that see nothing", mask="bool"),
    AttentionCase("float mask", mask="float"),
    AttentionCase("broadcast float mask, local", _local, mask="padding"),
    AttentionCase("key_lengths", key_lengths=True),
    AttentionCase("segment_ids, local", _local, segments=True),
    AttentionCase("dropout", _window, ("relative_value",), dropout_p=0.3),
    AttentionCase("lse", _local, return_lse=True),
    AttentionCase("lse with sinks", sinks=True, return_lse=True),
    AttentionCase(
        "everything", _local, TABLES, groups=2, mask="float", key_lengths=True, sinks=True, softcap=2.0,
        dropout_p=0.2, return_lse=True,
    ),
)  # fmt: skip


def _problem_maker(case: AttentionCase) -> Callable[[Size, str], Problem]:
    return lambda size, device: _problem(case, size, device)


def _problem(case: AttentionCase, size: Size, device: str) -> Problem:
    batch, heads, keys, dim, value_dim, radius = (
        (2, 2, 5, 3, 2, 2) if size == "tiny" else (2, 4, 131, 24, 40, 20)
    )
    if "block" in case.name and size == "odd":
        heads = 2  # as many as the layout has
    queries = keys - (2 if case.fewer_queries else 0)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    table_shape = (heads, 2 * radius + 1) if case.table_heads else (2 * radius + 1,)
    inputs = {
        "query": draw(batch, heads, queries, dim),
        "key": draw(batch, heads // case.groups, keys, dim),
        "value": draw(batch, heads // case.groups, keys, value_dim),
        "relative_key": draw(*table_shape, dim),
        "relative_value": draw(*table_shape, value_dim),
        "relative_bias": draw(heads, 2 * (radius + 1) + 1),  # each table has a radius of its own
        "slopes": draw(heads).abs() / 4,
        "sinks": draw(heads),
        "mask": draw(batch, 1, 1, keys) if case.mask == "padding" else draw(1, heads, queries, keys),
    }
    present = {
        "query", "key", "value", *case.tables,
        *(["sinks"] if case.sinks else []), *(["mask"] if case.mask in ("float", "padding") else []),
    }  # fmt: skip
    arguments: dict[str, Any] = {
        "pattern": case.pattern(keys),
        "softcap": case.softcap,
        "dropout_p": case.dropout_p,
        "query_offset": case.query_offset,
        "return_lse": case.return_lse,
    }
    if case.mask == "bool":
        seen = torch.rand(batch, 1, queries, keys, generator=generator) < 0.6
        seen[:, :, 1] = False
        arguments["mask"] = seen.to(device)
    if case.key_lengths:
        arguments["key_lengths"] = torch.tensor([keys, keys - 2], device=device)
    if case.segments:
        arguments["segment_ids"] = (torch.arange(keys, device=device) * 2 // keys).expand(batch, keys)
    if case.transposed:
        inputs.update({name: inputs[name].transpose(1, 2).contiguous() for name in ("query", "key", "value")})

    def call(function: Callable[..., Any], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        query, key, value = (
            values[name].transpose(1, 2) if case.transposed else values[name]
            for name in ("query", "key", "value")
        )
        rest = dict(arguments)
        if case.tables:
            rest["relative"] = RelativePosition(
                **{name.removeprefix("relative_"): values[name] for name in case.tables}
            )
        rest.update({name: values[name] for name in ("sinks", "mask") if name in values})
        devices = [torch.cuda.current_device()] if device == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(DROPOUT_SEED)
            outputs = function(query, key, value, **rest)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    return Problem({name: value for name, value in inputs.items() if name in present}, call)
