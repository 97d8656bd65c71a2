"""sk.nn.MultiheadAttention under TorchScript, which calls the compiled op itself."""

import io

import pytest
import torch
from nn.layer_twins import EMBED, HEADS, assert_same, inputs, outcome, twins
from torch import nn

import seo_kernels as sk

pytestmark = [
    pytest.mark.skipif(not sk.info()["native"], reason="TorchScript calls the compiled op"),
    pytest.mark.filterwarnings("ignore:`torch.jit", "ignore:The PyTorch API of nested tensors"),
]

LENGTH, DIM = 9, EMBED // HEADS
TWICE = range(2)  # the profiling executor compiles anew for the second call
BLOCKS = torch.tensor([[[1, 0], [0, 1]], [[1, 1], [1, 1]], [[0, 1], [1, 0]]]).bool()


def layer(dropout: float = 0.0) -> sk.nn.MultiheadAttention:
    """With a pattern and every table."""
    tables = sk.nn.RelativePositionTables(2, DIM, HEADS, bias=True, alibi=True)
    nn.init.normal_(tables.bias)
    pattern = sk.Local(2) | sk.GlobalTokens(1)
    return sk.nn.MultiheadAttention(
        EMBED, HEADS, dropout, batch_first=True, pattern=pattern, relative=tables
    ).double()


@pytest.mark.parametrize(
    "call",
    [
        {},
        {"need_weights": False, "key_padding_mask": torch.arange(LENGTH) >= torch.tensor([[LENGTH], [6]])},
        {
            "average_attn_weights": False,
            "attn_mask": torch.linspace(-1, 1, LENGTH**2).view(LENGTH, LENGTH).double(),
        },
        {"attn_mask": torch.ones(LENGTH, LENGTH).triu(1).bool(), "is_causal": True, "need_weights": False},
    ],
    ids=lambda call: " ".join(call) or "default",
)
def test_saved_and_loaded(call: dict) -> None:
    eager = layer()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(eager), buffer)
    buffer.seek(0)
    scripted = torch.jit.load(buffer)
    tensors = inputs(eager, "self", queries=LENGTH)
    expected = outcome(eager, tensors, **call)
    for _ in TWICE:
        assert_same(outcome(scripted, tensors, **call), expected)


@pytest.mark.parametrize(
    "config",
    [
        {"pattern": sk.BlockSparse(BLOCKS, 5) | sk.Local(0)},
        {"kdim": 5, "vdim": 9},
        {"add_bias_kv": True, "add_zero_attn": True},
        {"bias": False, "batch_first": True},
    ],
    ids=lambda config: " ".join(config),
)
def test_configurations(config: dict) -> None:
    theirs, ours = twins(**config)
    scripted = torch.jit.script(ours)
    length = LENGTH if "pattern" in config else 5
    for kind in ("cross",) if "kdim" in config else ("memory", "cross"):
        tensors = inputs(theirs, kind, queries=length, keys=length)
        for call in ({}, {"need_weights": False}):
            assert_same(outcome(scripted, tensors, **call), outcome(ours, tensors, **call))
    tensors = [tensor[:, 0] for tensor in tensors]
    torch.testing.assert_close(scripted(*tensors), ours(*tensors))


def test_weights_of_more_keys_than_a_value_has_columns() -> None:
    eager = sk.nn.MultiheadAttention(4, 2, pattern=sk.Strided(7) | sk.Local(3, 1))
    x = torch.randn(300, 4)
    torch.testing.assert_close(torch.jit.script(eager)(x, x, x), eager(x, x, x))


def test_dropout_and_errors() -> None:
    scripted = torch.jit.script(layer(dropout=0.5))
    x = torch.randn(2, LENGTH, EMBED, dtype=torch.float64)
    for need_weights in (False, True):
        first, second = (scripted.train()(x, x, x, need_weights=need_weights)[0] for _ in TWICE)
        assert not torch.equal(first, second)
        first, second = (scripted.eval()(x, x, x, need_weights=need_weights)[0] for _ in TWICE)
        assert torch.equal(first, second)
    with pytest.raises(
        torch.jit.Error, match=r"query has shape \(2, 9, 5\), expected \(batch, length, embed_dim=12\)"
    ):
        scripted(x[..., :5], x, x)


@pytest.mark.parametrize("need_weights", [False, True])
def test_autocast(need_weights: bool) -> None:
    eager = sk.nn.MultiheadAttention(EMBED, HEADS, add_bias_kv=True)
    scripted = torch.jit.script(eager)
    x = torch.randn(LENGTH, 2, EMBED)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in TWICE:
            got, expected = (m(x, x, x, need_weights=need_weights)[0] for m in (scripted, eager))
            assert got.dtype == torch.bfloat16
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("grad", [False, True])
def test_in_a_parent(grad: bool) -> None:
    """A scripted parent has a fast path too, and sees no hooks; the encoder makes nested tensors."""
    parent = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    parent.self_attn = sk.nn.MultiheadAttention(8, 2, batch_first=True, pattern=sk.Local(1))
    encoder = nn.TransformerEncoder(parent, 2).eval()
    x, padding = torch.randn(2, 5, 8), torch.arange(5) >= torch.tensor([[5], [3]])
    for module in (parent, encoder):
        scripted = torch.jit.script(module)
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(scripted(x), module(x))
            got, expected = (m(x, src_key_padding_mask=padding)[~padding] for m in (scripted, module))
            torch.testing.assert_close(got, expected)
