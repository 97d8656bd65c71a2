"""sk.nn.MultiheadAttention compiled, exported, under autocast and torch.func, saved and copied."""

import copy
import io
import pickle

import pytest
import torch
from nn.layer_twins import EMBED, HEADS, assert_same, inputs, outcome, twins
from torch import nn

import seo_kernels as sk

LENGTH, DIM = 9, EMBED // HEADS


def layer(dropout: float = 0.0, **options) -> sk.nn.MultiheadAttention:
    """With a pattern and every table, in double."""
    tables = sk.nn.RelativePositionTables(2, DIM, HEADS, bias=True, alibi=True)
    nn.init.normal_(tables.bias)
    options = {"pattern": sk.Local(2) | sk.GlobalTokens(1), "relative": tables, **options}
    return sk.nn.MultiheadAttention(EMBED, HEADS, dropout, batch_first=True, **options).double()


CALLS = [
    {},
    {"need_weights": False},
    {"need_weights": False, "key_padding_mask": torch.arange(LENGTH) >= torch.tensor([[LENGTH], [6]])},
    {
        "average_attn_weights": False,
        "attn_mask": torch.linspace(-1, 1, LENGTH**2).view(LENGTH, LENGTH).double(),
    },
    {"attn_mask": torch.ones(LENGTH, LENGTH).triu(1).bool(), "is_causal": True, "need_weights": False},
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: " ".join(call) or "default")
def test_compile(call: dict) -> None:
    eager = layer()
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager", dynamic=True)
    tensors = inputs(eager, "self", queries=LENGTH)
    got = outcome(compiled, tensors, **call)
    assert_same(
        {name.replace("_orig_mod.", ""): t for name, t in got.items()}, outcome(eager, tensors, **call)
    )


def test_compile_inside_a_parent() -> None:
    parent = nn.TransformerEncoderLayer(EMBED, HEADS, 16, batch_first=True, dropout=0.0).double()
    parent.self_attn = layer()
    compiled = torch.compile(parent, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, LENGTH, EMBED, dtype=torch.float64)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(compiled.eval()(x), parent.eval()(x))


def test_export() -> None:
    eager = layer().eval()
    x = torch.randn(2, LENGTH, EMBED, dtype=torch.float64)
    length = torch.export.Dim("length", min=2)
    program = torch.export.export(
        eager, (x, x, x, None, False), dynamic_shapes=({1: length},) * 3 + (None, None)
    )
    longer = torch.randn(2, 2 * LENGTH, EMBED, dtype=torch.float64)
    torch.testing.assert_close(
        program.module()(longer, longer, longer, None, False)[0],
        eager(longer, longer, longer, need_weights=False)[0],
    )


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("config", [{}, {"add_bias_kv": True, "add_zero_attn": True}], ids=str)
def test_autocast(config: dict, need_weights: bool) -> None:
    theirs, ours = twins(torch.float32, **config)
    tensors = inputs(theirs, "self")
    exact = outcome(theirs, tensors, need_weights=need_weights)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(*tensors, need_weights=need_weights)[0].dtype == torch.bfloat16
        got = outcome(ours, tensors, need_weights=need_weights)
        peer = outcome(theirs, tensors, need_weights=need_weights)
    for name, value in exact.items():
        assert got[name].dtype == peer[name].dtype, name
        bound = 3 * (peer[name] - value).abs().max() + 0.01 * value.abs().max()
        assert (got[name] - value).abs().max() <= bound, name


@pytest.mark.parametrize("need_weights", [False, True])
def test_dropout(need_weights: bool) -> None:
    """In training only; the kept probabilities are scaled up, and the output is what they give."""
    half = sk.nn.MultiheadAttention(4, 1, dropout=0.5, bias=False)
    with torch.no_grad():
        half.in_proj_weight[:8] = 0.0  # every probability is 1 / length
        half.in_proj_weight[8:] = torch.eye(4)
        half.out_proj.weight.copy_(torch.eye(4))
    x = torch.ones(400, 3, 4)
    kept = half(x, x, x, need_weights=need_weights)[0]  # 2 * the share of keys kept
    assert 0.9 < kept.mean() < 1.1
    assert kept.std() > 0.02
    torch.manual_seed(5)
    first = half(x, x, x, need_weights=need_weights)
    torch.manual_seed(5)
    again = half(x, x, x, need_weights=need_weights)
    assert torch.equal(first[0], again[0])
    if need_weights:
        assert torch.equal(first[1], again[1])
        levels = first[1].unique()
        torch.testing.assert_close(levels, torch.tensor([0.0, 2.0 / 400]))
        torch.testing.assert_close(first[0], first[1].sum(-1).T[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(half.eval()(x, x, x, need_weights=need_weights)[0], x)


def test_saved_and_copied() -> None:
    for options in ({}, {"relative": None}, {"pattern": sk.BlockSparse(torch.ones(3, 3).tril().bool(), 3)}):
        original = layer(**options)
        tensors = inputs(original, "self", queries=LENGTH)
        expected = outcome(original, tensors)
        buffer = io.BytesIO()
        torch.save(original, buffer)
        buffer.seek(0)
        same_seed = layer(**options)
        same_seed.load_state_dict(original.state_dict(), strict=True)
        for other in (
            copy.deepcopy(original),
            pickle.loads(pickle.dumps(original)),
            torch.load(buffer, weights_only=False),
            same_seed,
        ):
            assert other.pattern == original.pattern
            assert_same(outcome(other, tensors), expected)


def test_transforms() -> None:
    module = layer()
    parameters = dict(module.named_parameters())
    x = torch.randn(3, 2, LENGTH, EMBED, dtype=torch.float64)

    def loss(parameters: dict, x: torch.Tensor) -> torch.Tensor:
        return (
            torch.func.functional_call(module, parameters, (x, x, x), {"need_weights": False})[0]
            .square()
            .sum()
        )

    per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(3):
        grads = torch.autograd.grad(loss(parameters, x[i]), list(parameters.values()))
        for name, grad in zip(parameters, grads, strict=True):
            torch.testing.assert_close(per_sample[name][i], grad)
