"""Positions, transformer layer, pooling, convolutions, recurrent layers: what each computes."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import seo_kernels as sk
from seo_kernels.nn.activation import activation_layer
from seo_kernels.nn.convolution import Conv1DBlock, MultiKernelConv, ResidualBlock, SequenceBatchNorm
from seo_kernels.nn.layer_stack import LayerStack
from seo_kernels.nn.pooling import POOLINGS, AttentionPooling, pooling_layer
from seo_kernels.nn.positional_encoding import PositionalEncoding, sinusoids
from seo_kernels.nn.recurrent import run_packed
from seo_kernels.nn.sequence_attention import SEQUENCE_ATTENTIONS, DotProductAttention, sequence_attention
from seo_kernels.nn.sequences import bool_mask, present_positions, readable
from seo_kernels.nn.transformer_layer import FeedForward, TransformerLayer
from seo_kernels.nn.typed_attention import TypedAttention
from seo_kernels.ops.checks import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("one_thread")
PRESENT = torch.tensor([[True, True, True, False, False], [False, True, False, True, True], [False] * 5])


# Positions
# ---------


def test_sinusoids_are_the_papers() -> None:
    table = sinusoids(40, 7)
    for position in (0, 3, 39):
        for column in range(7):
            angle = torch.tensor(position / 10000 ** (2 * (column // 2) / 7), dtype=torch.float64)
            expected = angle.sin() if column % 2 == 0 else angle.cos()
            torch.testing.assert_close(table[position, column], expected.float())


def test_sequence_lies_next_to_last() -> None:
    encoding = PositionalEncoding(6, max_len=9, dropout=0.0)
    with torch.no_grad():
        encoding.learned.normal_()
    x = torch.randn(4, 9, 6)
    out = encoding(x)
    assert out.shape == x.shape
    torch.testing.assert_close(out, x + sinusoids(9, 6) + encoding.learned)
    for row, expected in zip(x, out, strict=True):
        torch.testing.assert_close(encoding(row), expected)
    torch.testing.assert_close(encoding(x[:, :4]), out[:, :4])
    assert encoding(x.bfloat16()).dtype == torch.bfloat16
    out.sum().backward()
    assert encoding.learned.grad.eq(4).all()
    assert list(encoding.state_dict()) == ["learned"]
    assert not torch.equal(PositionalEncoding(6)(x), PositionalEncoding(6)(x))  # dropout
    with pytest.raises(ValueError, match="x is 10 positions long, expected at most max_len=9"):
        encoding(torch.randn(10, 6))
    with pytest.raises(ValueError, match=r"x has shape \(4, 5\), expected \(..., length, d_model=6\)"):
        encoding(torch.randn(4, 5))


# Transformer layer
# -----------------


@pytest.mark.parametrize("activation", ["gelu", "relu", "swish"])
def test_feed_forward(activation: str) -> None:
    module = FeedForward(6, 10, 0.0, activation).double()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    act = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}[activation]
    hidden = act(F.linear(x, module.up.weight, module.up.bias))
    torch.testing.assert_close(module(x), F.linear(hidden, module.down.weight, module.down.bias))
    assert FeedForward(6).up.out_features == 24


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("layer_norm", [False, True])
def test_transformer_layer(layer_norm: bool, residual: bool) -> None:
    layer = TransformerLayer(
        TypedAttention(8, 2, 0.0), 10, 0.0, layer_norm=layer_norm, residual=residual
    ).double()
    x, mask = torch.randn(3, 5, 8, dtype=torch.float64), PRESENT.float()
    inner = layer.attention(F.layer_norm(x, (8,)) if layer_norm else x, mask)
    hidden = x + inner if residual else inner
    inner = layer.feed_forward(F.layer_norm(hidden, (8,)) if layer_norm else hidden)
    torch.testing.assert_close(layer(x, mask), hidden + inner if residual else inner)
    assert any(isinstance(part, nn.LayerNorm) for part in layer.modules()) == layer_norm


def test_activations_by_name() -> None:
    x = torch.randn(9)
    for name in (*ACTIVATIONS, "swish"):
        torch.testing.assert_close(activation_layer(name)(x), sk.bias_act(x, None, name))
    with pytest.raises(ValueError, match=r"activation is a str \('gelo'\), expected one of gelu, gelu_tanh"):
        activation_layer("gelo")


def test_stack_counts_batch_statistics_once() -> None:
    stack = LayerStack([nn.Sequential(nn.Conv1d(3, 3, 3), nn.BatchNorm1d(3))])
    again = copy.deepcopy(stack)
    again.gradient_checkpointing = True
    x = torch.randn(4, 3, 9)
    for module in (stack, again):
        module(x).square().sum().backward()
    for ours, theirs in zip(again.buffers(), stack.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    norm = again.layers[0][1]
    assert norm.momentum == 0.1
    assert norm.num_batches_tracked == 1


# Masks
# -----


def test_pairs_that_nobody_sees_are_padding() -> None:
    pairs = torch.ones(3, 5, 5, dtype=torch.bool) & PRESENT[:, None]
    assert torch.equal(present_positions(pairs), PRESENT)
    assert present_positions(PRESENT) is PRESENT
    assert bool_mask(PRESENT, 3, 5, 5) is PRESENT


def test_values_are_not_read_where_that_breaks() -> None:
    assert readable(torch.ones(2))
    assert not readable(torch.ones(2, device="meta"))
    x = torch.randn(2, 3, 4, 8)
    layer = TypedAttention(8, 2).eval()
    out = torch.func.vmap(layer)(x, torch.ones(2, 3, 4))
    torch.testing.assert_close(out[1], layer(x[1]))


# Pooling
# -------


@pytest.mark.parametrize("name", POOLINGS)
def test_pooling(name: str) -> None:
    layer = pooling_layer(name, 4).double()
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    out = layer(x, PRESENT)
    for row in range(2):
        chosen = x[row, PRESENT[row]]
        if name == "attention":
            scores = (
                torch.tanh(F.linear(chosen, layer.hidden.weight, layer.hidden.bias)) @ layer.context.weight[0]
            )
            expected = scores.softmax(0) @ chosen
        elif name == "cls":
            expected = chosen[0]
        else:
            expected = chosen.mean(0) if name == "mean" else chosen.amax(0)
        torch.testing.assert_close(out[row], expected)
    assert not out[2].any()
    torch.testing.assert_close(layer(x), layer(x, torch.ones(3, 5, dtype=torch.bool)))
    torch.testing.assert_close(out, layer(x.masked_fill(~PRESENT[:, :, None], float("nan")), PRESENT))
    with pytest.raises(ValueError, match="pooling is 'sum', expected one of mean, max, attention, cls"):
        pooling_layer("sum", 4)
    assert isinstance(pooling_layer("attention", 4), AttentionPooling)


# Convolutions
# ------------


@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dilation", [1, 2])
def test_convolution_keeps_the_length(kernel_size: int, dilation: int) -> None:
    block = Conv1DBlock(2, 3, kernel_size, dilation=dilation, dropout=0.0, batch_norm=False)
    x = torch.randn(4, 2, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = block(x)
    reach = dilation * (kernel_size - 1)
    padded = F.pad(x, (reach // 2, reach - reach // 2))
    torch.testing.assert_close(
        out, F.conv1d(padded, block.conv.weight, block.conv.bias, dilation=dilation).relu()
    )


def test_convolution_with_a_stride() -> None:
    x = torch.randn(4, 2, 20)
    block = Conv1DBlock(2, 4, 5, stride=2, groups=2, bias=False, activation="swish", dropout=0.0)
    expected = F.conv1d(x, block.conv.weight, None, 2, 2, groups=2)
    expected = F.silu(F.batch_norm(expected, None, None, training=True))
    torch.testing.assert_close(block(x), expected)
    assert Conv1DBlock(2, 4, 3, padding=0)(x).shape == (4, 4, 18)
    with pytest.raises(ValueError, match="present is given, expected None: stride or padding"):
        block(x, torch.ones(4, 20, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"x has shape \(4, 3, 20\), expected \(batch, in_channels=2, length\)"
    ):
        block(torch.randn(4, 3, 20))
    with pytest.raises(ValueError, match="padding is -1"):
        Conv1DBlock(2, 4, padding=-1)


def test_batch_normalisation_over_what_is_present() -> None:
    norm = SequenceBatchNorm(4)
    x = torch.randn(3, 4, 5)
    out = norm(x, PRESENT)
    torch.testing.assert_close(
        out.transpose(1, 2)[PRESENT], F.batch_norm(x.transpose(1, 2)[PRESENT], None, None, training=True)
    )
    before = copy.deepcopy(norm.state_dict())
    assert norm(x, torch.zeros_like(PRESENT)).isfinite().all()
    torch.testing.assert_close(norm.state_dict(), before)


def test_several_kernels_and_residuals() -> None:
    layer = MultiKernelConv(2, 3, [3, 4], 0.0, "relu").eval()
    x = torch.randn(2, 2, 9)
    torch.testing.assert_close(layer(x), torch.cat([block(x) for block in layer.blocks], 1))
    block, x = ResidualBlock(4, 4, 0.0).eval(), torch.randn(2, 4, 9)
    with torch.no_grad():
        block.norm.norm.weight.zero_()
    torch.testing.assert_close(block(x), x.relu())


# Recurrent layers
# ----------------


def scores(layer: nn.Module, states: Tensor) -> Tensor:
    width = states.shape[-1]
    if isinstance(layer, DotProductAttention):
        return states @ states.mT / width**0.5
    if hasattr(layer, "score"):
        weight = torch.cat([layer.query.weight, layer.key.weight], 1)
        left, right = torch.broadcast_tensors(states[:, :, None], states[:, None])
        hidden = torch.tanh(F.linear(torch.cat([left, right], -1), weight, layer.query.bias))
        return hidden @ layer.score.weight[0]
    return layer.query(states) @ states.mT / width**0.5


@pytest.mark.parametrize("name", list(SEQUENCE_ATTENTIONS))
@pytest.mark.parametrize("tile", [1, 1 << 22])
def test_sequence_attention(name: str, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seo_kernels.nn.sequence_attention.TILE", tile)
    layer = sequence_attention(name, 4).double()
    states = torch.randn(3, 5, 4, dtype=torch.float64, requires_grad=True)
    pairs = torch.rand(3, 5, 5) < 0.6
    for mask, seen in ((None, torch.ones(3, 1, 5)), (PRESENT.long(), PRESENT[:, None]), (pairs, pairs)):
        out = layer(states, mask)
        weights = scores(layer, states).masked_fill(seen == 0, float("-inf")).softmax(-1).nan_to_num()
        expected = weights @ states
        torch.testing.assert_close(out, expected)
        ours, theirs = (
            torch.autograd.grad(x.sin().sum(), (states, *layer.parameters())) for x in (out, expected)
        )
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b.nan_to_num())


@pytest.mark.parametrize("width", [256, 257, 512])
def test_wide_states_are_split_into_heads(width: int) -> None:
    states = torch.randn(2, 5, width, dtype=torch.float64)
    heads = -(-width // 256)
    parts = states.split(-(-width // heads), 2)
    expected = [(part @ part.mT / width**0.5).softmax(-1) @ part for part in parts]
    torch.testing.assert_close(DotProductAttention(width)(states), torch.cat(expected, 2))


def test_packed_sequences() -> None:
    rnn = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
    x = torch.randn(3, 5, 3)
    out = run_packed(rnn, x, torch.tensor([3, 5, 0]))
    assert out.shape == (3, 5, 8)
    torch.testing.assert_close(out[:1, :3], rnn(x[:1, :3])[0])
    torch.testing.assert_close(out[1:2], rnn(x[1:2])[0])
    assert not out[0, 3:].any()
    assert not out[2].any()
