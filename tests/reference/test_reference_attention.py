"""The oracle itself: against the formula in loops, against torch, and through every kind of derivative."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from reference.test_philox import philox_of_ints
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from seo_kernels import BlockSparse, Causal, Dense, GlobalTokens, Local, RelativePosition, Strided
from seo_kernels.ops.arguments import normalise
from seo_kernels.patterns import decode
from seo_kernels.reference import attention
from seo_kernels.reference.attention import attention_op, attention_tile


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        shape,
        generator=torch.Generator(torch.get_default_device()).manual_seed(seed + sum(shape)),
        dtype=dtype,
    )


def attention_in_loops(
    query,
    key,
    value,
    pattern=None,
    relative=None,
    mask=None,
    key_lengths=None,
    segment_ids=None,
    sinks=None,
    dropout_p=0.0,
    seed=0,
    scale=None,
    softcap=None,
    query_offset=None,
):
    """One number at a time: output (B, Hq, Tq, Dv) and lse as nested lists turned into tensors."""
    (batch, heads, rows, dim), columns = query.shape, key.shape[2]
    group = heads // key.shape[1]
    scale = dim**-0.5 if scale is None else scale
    offset = columns - rows if query_offset is None else query_offset
    seen = (pattern or Dense()).dense_mask(rows, columns, offset).expand(heads, rows, columns)
    q_segments, k_segments = segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)
    full_mask = None if mask is None else mask.expand(batch, heads, rows, columns)
    relative = relative or RelativePosition()
    out = torch.zeros(batch, heads, rows, value.shape[3], dtype=torch.float64)
    lse = torch.full((batch, heads, rows), -math.inf, dtype=torch.float64)

    def entry(table, head, distance):
        reach = table.shape[-2] // 2
        row = table[head] if table.ndim == 3 else table
        return row[max(-reach, min(reach, distance)) + reach]

    for b, h, i in itertools.product(range(batch), range(heads), range(rows)):
        scores = {}
        for j in range(columns):
            distance = j - (i + offset)
            hidden = not seen[h, i, j]
            hidden |= key_lengths is not None and j >= key_lengths[b]
            hidden |= segment_ids is not None and bool(q_segments[b, i] != k_segments[b, j])
            hidden |= mask is not None and mask.dtype == torch.bool and not full_mask[b, h, i, j]
            if hidden:
                continue
            k = key[b, h // group, j]
            if relative.key is not None:
                k = k + entry(relative.key, h, distance)
            score = scale * float(query[b, h, i] @ k)
            if softcap is not None:
                score = softcap * math.tanh(score / softcap)
            if relative.bias is not None:
                score += float(entry(relative.bias[..., None], h, distance))
            if relative.slopes is not None:
                score -= float(relative.slopes[h]) * abs(distance)
            if mask is not None and mask.dtype != torch.bool:
                score += float(full_mask[b, h, i, j])
            scores[j] = score
        total = sum(math.exp(score) for score in scores.values())
        total += 0.0 if sinks is None else math.exp(float(sinks[h]))
        if total == 0.0:
            continue
        lse[b, h, i] = math.log(total)
        for j, score in scores.items():
            weight = math.exp(score) / total
            if dropout_p > 0.0:
                word = philox_of_ints([j, i // 4, h, b], [seed % 2**32, seed >> 32])[i % 4]
                weight = weight / (1 - dropout_p) if word >= int(dropout_p * 2**32) else 0.0
            v = value[b, h // group, j]
            if relative.value is not None:
                v = v + entry(relative.value, h, j - (i + offset))
            out[b, h, i] += weight * v
    return out, lse


def tables(heads: int, dim: int, value_dim: int) -> RelativePosition:
    return RelativePosition(
        key=random(heads, 5, dim),
        value=random(3, value_dim),
        bias=random(heads, 7),
        slopes=random(heads).abs(),
    )


BLOCKS = BlockSparse(
    torch.tensor([[[1, 0], [0, 1], [1, 1]], [[0, 0], [1, 1], [0, 1]]], dtype=torch.bool).repeat(2, 1, 1), 3
)
HOLED = random(2, 1, 7, 6).masked_fill(random(2, 1, 7, 6, seed=1) > 0.5, -math.inf)
FEATURES = {
    "plain": {},
    "causal": {"pattern": Causal()},
    "scale": {"scale": -0.3},
    "softcap": {"softcap": 0.7, "scale": 2.0},
    "tables": {"relative": tables(4, 5, 3)},
    "blocks": {"pattern": BLOCKS | Local(0) & Causal()},
    "bool mask": {"mask": random(7, 6) > 0},
    "float mask": {"mask": random(4, 1, 6)},
    "float mask with holes": {"mask": HOLED},
    "lengths": {"key_lengths": torch.tensor([0, 4])},
    "segments": {
        "segment_ids": (torch.arange(7).expand(2, 7) // 3, torch.tensor([[0] * 6, [0, 0, 1, 1, 2, 5]]))
    },
    "sinks": {"sinks": random(4), "pattern": Local(1), "query_offset": -2},
    "offset": {"pattern": GlobalTokens(1) | Strided(3), "query_offset": 2, "relative": tables(4, 5, 3)},
    "dropout": {"dropout_p": 0.3, "relative": tables(4, 5, 3)},
    "all": {
        "pattern": (BLOCKS | GlobalTokens(1)) & Causal(),
        "relative": tables(4, 5, 3),
        "mask": HOLED,
        "key_lengths": torch.tensor([6, 4], dtype=torch.int32),
        "segment_ids": (torch.zeros(2, 7, dtype=torch.int64), torch.tensor([[0] * 6, [0, 0, 1, 0, 2, 5]])),
        "sinks": random(4),
        "dropout_p": 0.2,
        "softcap": 1.5,
        "query_offset": 1,
    },
}


def operands(batch=2, heads=4, key_heads=2, rows=7, columns=6, dim=5, value_dim=3) -> list[Tensor]:
    shapes = [
        (batch, heads, rows, dim),
        (batch, key_heads, columns, dim),
        (batch, key_heads, columns, value_dim),
    ]
    return [random(*shape, seed=i) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("name", FEATURES)
def test_against_loops(name):
    options = FEATURES[name]
    torch.manual_seed(3)
    seed = int(torch.randint(2**63 - 1, ()))
    expected, expected_lse = attention_in_loops(*operands(), seed=seed, **options)
    torch.manual_seed(3)
    out, lse = attention(*operands(), **options, return_lse=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_against_torch(dtype):
    query, key, value = (tensor.to(dtype) for tensor in operands())
    sdpa = torch.nn.functional.scaled_dot_product_attention
    tolerance = {"atol": 10 * torch.finfo(dtype).eps, "rtol": 10 * torch.finfo(dtype).eps}
    out, lse = attention(query, key, value, return_lse=True)
    assert out.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(out, sdpa(query, key, value, enable_gqa=True), **tolerance)
    square = (query[:, :, :6], key, value)
    causal = sdpa(*square, is_causal=True, enable_gqa=True)
    torch.testing.assert_close(attention(*square, pattern=Causal()), causal, **tolerance)
    mask = random(7, 6).to(dtype)
    masked = sdpa(query, key, value, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(attention(query, key, value, mask=mask), masked, **tolerance)


def differentiable(name: str):
    """The call as a function of all tensors that may get a gradient, and these tensors."""
    options = dict(FEATURES[name])
    given = options.pop("relative", None) or RelativePosition()
    leaves = dict(zip(("query", "key", "value"), operands(), strict=True))
    leaves |= {f"relative_{n}": getattr(given, n) for n in ("key", "value", "bias", "slopes")}
    leaves |= {"sinks": options.pop("sinks", None)}
    if options.get("mask") is not None and options["mask"].dtype != torch.bool:
        leaves["mask"] = options.pop("mask")
    names = [n for n, leaf in leaves.items() if leaf is not None]

    def call(*tensors: Tensor):
        torch.manual_seed(3)
        got = dict(zip(names, tensors, strict=True))
        shaw = {n: got.pop(f"relative_{n}", None) for n in ("key", "value", "bias", "slopes")}
        out, lse = attention(**got, relative=RelativePosition(**shaw), **options, return_lse=True)
        return out, torch.where(lse == -math.inf, 0.0, lse)

    return call, [leaves[n].clone().requires_grad_() for n in names]


@pytest.mark.parametrize(
    "name", ["plain", "softcap", "tables", "float mask with holes", "lengths", "sinks", "all"]
)
def test_derivatives(name):
    call, tensors = differentiable(name)
    assert gradcheck(call, tensors, check_forward_ad=True, check_batched_grad=name == "plain", fast_mode=True)
    assert gradgradcheck(call, tensors, fast_mode=True, atol=1e-4)


def test_rows_without_keys_are_zero_in_every_derivative():
    query, key, value = (tensor.requires_grad_() for tensor in operands())
    mask = torch.ones(7, 6, dtype=torch.bool)
    mask[2] = False
    out, lse = attention(query, key, value, mask=mask, key_lengths=torch.tensor([0, 6]), return_lse=True)
    assert bool((out[0] == 0).all() and (out[:, :, 2] == 0).all())
    assert bool((lse[0] == -math.inf).all() and (lse[:, :, 2] == -math.inf).all())
    assert bool(lse[1, :, 3].isfinite().all())
    first = torch.autograd.grad(
        (out, lse), (query, key, value), (out, torch.ones_like(lse)), create_graph=True
    )
    assert all(bool(g.isfinite().all()) for g in first)
    assert all(bool((g[0] == 0).all()) for g in first)
    assert bool((first[0][:, :, 2] == 0).all())
    second = torch.autograd.grad([g.square().sum() for g in first], (query, key, value))
    assert all(bool(g.isfinite().all()) for g in second)
    assert all(bool((g[0] == 0).all()) for g in second)


def test_row_without_keys_but_with_a_sink():
    query, key, value = operands()
    sinks = random(4).requires_grad_()
    out, lse = attention(query, key, value, sinks=sinks, key_lengths=torch.tensor([0, 6]), return_lse=True)
    assert bool((out[0] == 0).all())
    torch.testing.assert_close(lse[0], sinks[:, None].expand(4, 7))
    (gradient,) = torch.autograd.grad(lse[0].sum(), sinks)
    torch.testing.assert_close(gradient, torch.full((4,), 7.0, dtype=torch.float64))


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
def test_unseen_keys_may_hold_anything(garbage):
    options = {"key_lengths": torch.tensor([3, 6]), "mask": torch.arange(6) != 1, "relative": tables(4, 5, 3)}
    clean, dirty = operands(), operands()
    for key_or_value in dirty[1:]:
        key_or_value[0, :, 3:] = garbage
        key_or_value[:, :, 1] = garbage
    results = []
    for tensors in (clean, dirty):
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        out, lse = attention(*leaves, **options, return_lse=True)
        results.append((out, lse, *torch.autograd.grad((out.sum(), lse.sum()), leaves)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_empty_sizes():
    for sizes in ({"batch": 0}, {"rows": 0}, {"columns": 0}):
        leaves = [tensor.requires_grad_() for tensor in operands(**sizes)]
        out, lse = attention(*leaves, relative=tables(4, 5, 3), pattern=Causal(), return_lse=True)
        assert out.shape[3] == 3
        assert bool((out == 0).all() and (lse == -math.inf).all())
        gradients = torch.autograd.grad((out.sum(), lse.sum()), leaves)
        assert all(bool((g == 0).all()) for g in gradients)


def test_transforms():
    query, key, value = operands()
    options = {"pattern": Causal(), "key_lengths": torch.tensor([3, 6])}

    def loss(query: Tensor, key: Tensor) -> Tensor:
        return attention(query, key, value, **options).square().sum()

    hessian = torch.func.hessian(loss)(query[:, :, :2], key)
    assert hessian.shape == (2, 4, 2, 5, 2, 4, 2, 5)
    assert bool(hessian.isfinite().all())
    primal, tangent = torch.func.jvp(loss, (query, key), (query, key))
    gradients = torch.func.grad(loss, argnums=(0, 1))(query, key)
    torch.testing.assert_close(tangent, (gradients[0] * query).sum() + (gradients[1] * key).sum())
    torch.testing.assert_close(primal, loss(query, key))
    stacked = torch.stack([query, 2 * query, -query])
    batched = torch.func.vmap(loss, in_dims=(0, None))(stacked, key)
    torch.testing.assert_close(batched, torch.stack([loss(q, key) for q in stacked]))
    lengths = torch.tensor([[1, 2], [3, 4]])
    batched = torch.func.vmap(lambda n: attention(query, key, value, key_lengths=n))(lengths)
    expected = torch.stack([attention(query, key, value, key_lengths=n) for n in lengths])
    torch.testing.assert_close(batched, expected)


@pytest.mark.parametrize("name", ["tables", "all"])
def test_tiles_add_up(name):
    """Two groups of keys, weighted by their lse, give the whole; rows come in any order."""
    options = {n: v for n, v in FEATURES[name].items() if n != "sinks"}
    torch.manual_seed(3)
    arguments = normalise(*operands(), **options).values()
    query, key, value = arguments[:3]
    whole, whole_lse = attention_op(*arguments)
    rows = torch.tensor([6, 0, 3])
    parts = [
        attention_tile(
            query[:, :, rows], key[:, :, columns], value[:, :, columns], rows, columns, *arguments[3:]
        )
        for columns in (torch.tensor([5, 0, 2]), torch.tensor([1, 3, 4]))
    ]
    lse = torch.logaddexp(parts[0][1], parts[1][1])
    torch.testing.assert_close(lse, whole_lse[:, :, rows])
    out = sum(o * torch.exp(part_lse - lse).nan_to_num()[..., None] for o, part_lse in parts)
    torch.testing.assert_close(out, whole[:, :, rows])


def test_key_lengths_out_of_range():
    for lengths in ([7, 1], [-1, 1]):
        with pytest.raises(ValueError, match=r"key_lengths holds \[.*\], expected values from 0 to 6"):
            attention(*operands(), key_lengths=torch.tensor(lengths))


def test_compiled():
    query, key, value = operands()
    options = {n: v for n, v in FEATURES["all"].items() if n != "dropout_p"}
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(
        compiled(query, key, value, **options), attention(query, key, value, **options)
    )
    short = (query[:, :, :4], key, value)
    torch.testing.assert_close(compiled(*short, pattern=Causal()), attention(*short, pattern=Causal()))


def test_autocast():
    query, key, value = (tensor.float() for tensor in operands())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = attention(query, key, value, relative=tables(4, 5, 3))
    expected = attention(query.bfloat16(), key.bfloat16(), value.bfloat16(), relative=tables(4, 5, 3))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, expected)


def test_decode_is_what_the_op_sees():
    arguments = normalise(*operands(), pattern=BLOCKS & Causal())
    pattern = decode(arguments.pattern, arguments.layout)
    assert torch.equal(pattern.dense_mask(7, 6), (BLOCKS & Causal()).dense_mask(7, 6))
