"""Section 1.5: custom_model_architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from custom_model_architectures import (
    MODEL_CONFIGS,
    CNNFeatureExtractor,
    CNNLSTMHybrid,
    ConcatAttention,
    Conv1DBlock,
    CustomCNNModel,
    CustomRNNModel,
    CustomTransformer,
    CustomTransformerModel,
    DeepResidualCNN,
    DotProductAttention,
    GeneralAttention,
    HierarchicalAttentionNetwork,
    LSTMWithAttention,
    ModelFactory,
    MultiHeadAttentionWithRelativePosition,
    MultiTaskModel,
    PositionalEncoding,
    ResidualBlock,
    TransformerBlock,
    TransformerCNN,
)
from torch import Tensor, nn

Binds = Callable[..., dict[str, Any]]


def learns(model: nn.Module, output: Tensor) -> None:
    """Every parameter gets a gradient from what the model gave."""
    output.sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_positional_encoding(binds: Binds) -> None:
    binds(PositionalEncoding, ("d_model",), d_model=512, max_len=5000, dropout=0.1)
    encoding = PositionalEncoding(d_model=512, max_len=5000, dropout=0.1)
    x = torch.randn(50, 512)
    assert encoding(x).shape == (50, 512)
    encoding.eval()
    torch.testing.assert_close(encoding(x[None])[0], encoding(x))
    added = (encoding(x) - x).detach()
    position, column = 7.0, 4
    expected = torch.tensor(position / 10000 ** (column / 512)).sin()
    learned = dict(encoding.named_parameters())
    assert learned  # sinusoids plus learned parameters, which start small
    assert abs(float(added[7, column] - expected)) < 0.2
    assert not torch.equal(encoding.train()(x), encoding.eval()(x))  # dropout


@pytest.mark.parametrize("mask", [None, torch.ones(4, 20, 20), torch.ones(4, 20, 20, dtype=torch.int64)])
def test_attention_with_relative_positions(mask: Tensor | None, binds: Binds) -> None:
    binds(
        MultiHeadAttentionWithRelativePosition,
        ("d_model",),
        d_model=512,
        n_heads=8,
        dropout=0.1,
        max_relative_position=32,
    )
    attention = MultiHeadAttentionWithRelativePosition(
        d_model=64, n_heads=8, dropout=0.1, max_relative_position=32
    )
    x = torch.randn(4, 20, 64)
    out = attention(x) if mask is None else attention(x, mask)
    assert out.shape == (4, 20, 64)
    attention.eval()
    torch.testing.assert_close(attention(x, mask), attention(x))


def test_a_mask_hides_where_it_is_zero() -> None:
    attention = MultiHeadAttentionWithRelativePosition(d_model=32, n_heads=4).eval()
    x, mask = torch.randn(2, 20, 32), torch.ones(2, 20, 20)
    mask[:, :, 11:] = 0.0
    other = x.clone()
    other[:, 11:] = torch.randn(2, 9, 32)
    torch.testing.assert_close(attention(x, mask)[:, :11], attention(other, mask)[:, :11])
    assert not torch.allclose(attention(x)[:, :11], attention(other)[:, :11])


def test_relative_positions_are_clipped() -> None:
    """Beyond the maximum distance positions are alike: far tokens may be swapped."""
    attention = MultiHeadAttentionWithRelativePosition(d_model=32, n_heads=4, max_relative_position=3).eval()
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(1, 20, 32)
    far, near = x.clone(), x.clone()
    far[:, [12, 17]] = x[:, [17, 12]]
    near[:, [1, 2]] = x[:, [2, 1]]
    torch.testing.assert_close(attention(far)[:, 0], attention(x)[:, 0])
    assert not torch.allclose(attention(near)[:, 0], attention(x)[:, 0])


@pytest.mark.parametrize("kind", ["standard", "relative", "local", "sparse"])
def test_attention_types(kind: str) -> None:
    attention = MultiHeadAttentionWithRelativePosition(d_model=32, n_heads=4, attention_type=kind)
    learns(attention, attention(torch.randn(2, 20, 32)))


@pytest.mark.parametrize("activation", ["gelu", "relu", "swish"])
@pytest.mark.parametrize("use_relative_pos", [True, False])
def test_transformer_block(activation: str, use_relative_pos: bool, binds: Binds) -> None:
    binds(
        TransformerBlock,
        ("d_model",),
        d_model=512,
        n_heads=8,
        d_ff=2048,
        dropout=0.1,
        activation="gelu",
        use_relative_pos=True,
    )
    block = TransformerBlock(
        d_model=32,
        n_heads=8,
        d_ff=64,
        dropout=0.1,
        activation=activation,
        use_relative_pos=use_relative_pos,
    )
    x, mask = torch.randn(4, 20, 32), torch.ones(4, 20, 20)
    assert block(x, mask).shape == (4, 20, 32)
    learns(block, block(x))
    assert any(isinstance(module, nn.LayerNorm) for module in block.modules())


def test_transformer(binds: Binds) -> None:
    binds(
        CustomTransformer,
        ("vocab_size", "d_model"),
        vocab_size=30000,
        d_model=512,
        n_layers=6,
        n_heads=8,
        d_ff=2048,
        max_len=5000,
        dropout=0.1,
        activation="gelu",
        use_relative_pos=True,
    )
    ids = torch.randint(0, 1000, (4, 50))
    model = CustomTransformer(vocab_size=1000, d_model=256)
    assert model(ids).shape == (4, 50, 256)
    assert model(ids, torch.ones(4, 50, 50)).shape == (4, 50, 256)
    learns(model, model(ids))
    assert len([module for module in model.modules() if isinstance(module, TransformerBlock)]) == 6


def test_transformer_learns_positions_and_takes_embeddings() -> None:
    model = CustomTransformer(vocab_size=100, d_model=32, n_layers=1, use_relative_pos=False).eval()
    ids = torch.randint(100, (1, 1)).expand(1, 9)
    out = model(ids)
    assert not torch.allclose(out[:, 0], out[:, 5])  # one token at two places
    embeddings = torch.randn(2, 9, 32, requires_grad=True)
    model(embeddings).sum().backward()
    assert embeddings.grad is not None


@pytest.mark.parametrize("kernel_size", [1, 3, 4, 5])
def test_conv_block_keeps_the_length(kernel_size: int) -> None:
    x = torch.randn(4, 64, 20)
    block = Conv1DBlock(64, 128, kernel_size=kernel_size, activation="relu", dropout=0.1, batch_norm=True)
    assert block(x).shape == (4, 128, 20)
    learns(block, block(x))


def test_conv_block_options() -> None:
    x = torch.randn(4, 64, 20)
    shapes = {
        "stride": (Conv1DBlock(64, 128, kernel_size=3, stride=2), (4, 128, 10)),
        "padding": (Conv1DBlock(64, 128, kernel_size=3, padding=0), (4, 128, 18)),
        "dilation": (Conv1DBlock(64, 128, kernel_size=3, dilation=2), (4, 128, 20)),
        "groups": (Conv1DBlock(64, 128, kernel_size=3, groups=4), (4, 128, 20)),
    }
    for name, (block, expected) in shapes.items():
        assert block(x).shape == expected, name
    weights = {name: block.conv.weight.shape for name, (block, _) in shapes.items()}
    assert weights["groups"] == (128, 16, 3)
    biases = [Conv1DBlock(64, 128, kernel_size=3, bias=bias).conv.bias is not None for bias in (True, False)]
    assert biases == [True, False]
    norms = [
        any(
            isinstance(m, nn.BatchNorm1d)
            for m in Conv1DBlock(64, 128, kernel_size=3, batch_norm=on).modules()
        )
        for on in (True, False)
    ]
    assert norms == [True, False]


@pytest.mark.parametrize("pool_type", ["max", "avg"])
def test_feature_extractor(pool_type: str, binds: Binds) -> None:
    binds(
        CNNFeatureExtractor,
        ("input_dim",),
        input_dim=300,
        hidden_dims=[128, 256, 512],
        kernel_sizes=[3, 4, 5],
        dropout=0.1,
        activation="relu",
        pool_type="max",
    )
    model = CNNFeatureExtractor(
        input_dim=30, hidden_dims=[8, 16, 32], kernel_sizes=[3, 4, 5], pool_type=pool_type
    )
    assert model.output_dim == 3 * 32
    for length in (20, 7):
        assert model(torch.randn(4, length, 30)).shape == (4, 96)
    learns(model, model(torch.randn(4, 20, 30)))


@pytest.mark.parametrize("attention_type", ["dot", "general", "concat"])
def test_lstm_with_attention(attention_type: str, binds: Binds) -> None:
    binds(
        LSTMWithAttention,
        ("input_size", "hidden_size"),
        input_size=256,
        hidden_size=128,
        num_layers=2,
        bidirectional=True,
        dropout=0.1,
        attention_type="dot",
    )
    model = LSTMWithAttention(
        input_size=24,
        hidden_size=12,
        num_layers=2,
        bidirectional=True,
        dropout=0.1,
        attention_type=attention_type,
    )
    x, lengths = torch.randn(4, 20, 24), torch.tensor([5, 20, 1, 13])
    assert model(x, lengths).shape == (4, 20, 24)
    learns(model, model(x, lengths))
    model.eval()
    torch.testing.assert_close(model(x), model(x, torch.full((4,), 20)))
    other = x.clone()
    for row, length in enumerate(lengths.tolist()):
        other[row, length:] = torch.randn(20 - length, 24)
    for row, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(model(x, lengths)[row, :length], model(other, lengths)[row, :length])
        alone = model(x[row : row + 1, :length])
        torch.testing.assert_close(model(x, lengths)[row, :length], alone[0])


@pytest.mark.parametrize("kind", [DotProductAttention, GeneralAttention, ConcatAttention])
def test_sequence_attention(kind: type[nn.Module], binds: Binds) -> None:
    binds(kind, ("hidden_size",), hidden_size=128)
    attention = kind(hidden_size=128)
    x = torch.randn(3, 9, 128, requires_grad=True)
    out = attention(x)
    assert out.shape == (3, 9, 128)
    out.sum().backward()
    assert x.grad is not None
    trained = list(attention.parameters())
    assert all(parameter.grad is not None for parameter in trained)
    assert bool(trained) == (kind is not DotProductAttention)


def test_cnn_lstm_hybrid(binds: Binds) -> None:
    binds(
        CNNLSTMHybrid,
        ("vocab_size",),
        vocab_size=15000,
        embed_dim=300,
        hidden_dims=[128, 256, 512],
        kernel_sizes=[3, 4, 5],
        lstm_hidden_size=256,
        num_classes=3,
        dropout=0.2,
        bidirectional=True,
    )
    model = CNNLSTMHybrid(
        vocab_size=1500,
        embed_dim=30,
        hidden_dims=[8, 12],
        kernel_sizes=[3, 4, 5],
        lstm_hidden_size=16,
        num_classes=3,
        dropout=0.2,
        bidirectional=True,
    )
    ids, lengths = torch.randint(0, 1500, (4, 50)), torch.tensor([30, 50, 7, 21])
    assert model(ids, lengths).shape == (4, 3)
    learns(model, model(ids, lengths))
    model.eval()
    other = ids.clone()
    for row, length in enumerate(lengths.tolist()):
        other[row, length:] = torch.randint(0, 1500, (50 - length,))
    torch.testing.assert_close(model(ids, lengths), model(other, lengths))


def test_transformer_cnn(binds: Binds) -> None:
    binds(
        TransformerCNN,
        ("vocab_size",),
        vocab_size=20000,
        d_model=256,
        n_layers=4,
        n_heads=8,
        d_ff=1024,
        cnn_hidden_dims=[128, 256, 512],
        cnn_kernel_sizes=[3, 4, 5],
        num_classes=10,
        dropout=0.15,
    )
    model = TransformerCNN(
        vocab_size=2000,
        d_model=32,
        n_layers=2,
        n_heads=8,
        d_ff=64,
        cnn_hidden_dims=[8, 12],
        cnn_kernel_sizes=[3, 4, 5],
        num_classes=10,
        dropout=0.15,
    )
    ids, mask = torch.randint(0, 2000, (4, 60)), torch.ones(4, 60, 60)
    assert model(ids, mask).shape == (4, 10)
    assert model(ids, torch.ones(4, 60)).shape == (4, 10)
    learns(model, model(ids))


def test_multi_task_model(binds: Binds) -> None:
    tasks = {
        "sentiment": {"num_classes": 3, "type": "classification"},
        "readability": {"num_classes": 1, "type": "regression"},
        "tags": {"num_classes": 7, "type": "sequence"},
    }
    binds(
        MultiTaskModel,
        ("vocab_size", "task_configs"),
        vocab_size=12000,
        d_model=384,
        n_layers=3,
        n_heads=6,
        d_ff=1536,
        task_configs=tasks,
        dropout=0.1,
    )
    model = MultiTaskModel(
        vocab_size=120, d_model=36, n_layers=2, n_heads=6, d_ff=64, task_configs=tasks, dropout=0.1
    )
    ids = torch.randint(0, 120, (4, 50))
    assert model(ids, "sentiment").shape == (4, 3)
    assert model(ids, task_name="readability").shape == (4, 1)
    assert model(ids, "tags").shape == (4, 50, 7)
    learns(model, torch.cat([model(ids, task).flatten() for task in tasks]))
    with pytest.raises(ValueError, match="sentiment, readability, tags"):
        model(ids, "topic")


def test_hierarchical_network(binds: Binds) -> None:
    binds(
        HierarchicalAttentionNetwork,
        ("vocab_size",),
        vocab_size=8000,
        embed_dim=200,
        hidden_size=128,
        num_classes=4,
        num_sentences=25,
        dropout=0.2,
    )
    model = HierarchicalAttentionNetwork(
        vocab_size=800, embed_dim=20, hidden_size=12, num_classes=4, num_sentences=25, dropout=0.2
    )
    ids = torch.randint(0, 800, (3, 25, 20))
    assert model(ids).shape == (3, 4)
    learns(model, model(ids))


def test_residual_block(binds: Binds) -> None:
    binds(ResidualBlock, ("channels",), channels=64, kernel_size=3, dropout=0.1)
    for kernel_size in (3, 4):
        block = ResidualBlock(channels=64, kernel_size=kernel_size, dropout=0.1)
        x = torch.randn(4, 64, 20)
        assert block(x).shape == (4, 64, 20)
        learns(block, block(x))
        assert any(isinstance(module, nn.BatchNorm1d) for module in block.modules())


def test_deep_residual_cnn(binds: Binds) -> None:
    binds(
        DeepResidualCNN,
        ("input_dim",),
        input_dim=300,
        hidden_dims=[64, 128, 256, 512],
        num_classes=6,
        num_residual_blocks=3,
        dropout=0.15,
    )
    model = DeepResidualCNN(
        input_dim=30, hidden_dims=[8, 16, 32], num_classes=6, num_residual_blocks=3, dropout=0.15
    )
    for length in (40, 17):
        assert model(torch.randn(5, length, 30)).shape == (5, 6)
    learns(model, model(torch.randn(5, 40, 30)))
    assert len([module for module in model.modules() if isinstance(module, ResidualBlock)]) == 9


def test_factory() -> None:
    config = {
        "vocab_size": 300,
        "d_model": 32,
        "n_layers": 2,
        "n_heads": 4,
        "d_ff": 64,
        "dropout": 0.1,
    }
    model = ModelFactory.create_model("transformer", config)
    assert type(model) is CustomTransformer
    assert model(torch.randint(300, (2, 9))).shape == (2, 9, 32)
    with pytest.raises(ValueError, match="transformer") as unknown:
        ModelFactory.create_model("tranformer", config)
    assert all(name in str(unknown.value) for name in MODEL_CONFIGS)
    with pytest.raises((TypeError, ValueError), match="d_modell"):
        ModelFactory.create_model("transformer", {**config, "d_modell": 3})


def test_configurations() -> None:
    made = {name: type(ModelFactory.create_model(name, dict(config))) for name, config in SMALL.items()}
    assert made.keys() == MODEL_CONFIGS.keys()
    assert made["transformer"] is CustomTransformer
    assert {
        CustomTransformer,
        CNNFeatureExtractor,
        LSTMWithAttention,
        CNNLSTMHybrid,
        TransformerCNN,
        MultiTaskModel,
        HierarchicalAttentionNetwork,
        DeepResidualCNN,
    } <= set(made.values())


# a size that takes no time, for each
SMALL = {
    name: {
        key: min(value, 24)
        if isinstance(value, int) and not isinstance(value, bool) and key != "n_heads"
        else value
        for key, value in config.items()
    }
    for name, config in MODEL_CONFIGS.items()
}


def test_language_model(binds: Binds) -> None:
    binds(CustomTransformerModel, ("vocab_size",), vocab_size=1000, d_model=128)
    model = CustomTransformerModel(vocab_size=1000, d_model=128)
    output = model(torch.randint(0, 1000, (8, 16)))
    assert output.shape == (8, 16, 1000)
    learns(model, output)


@pytest.mark.parametrize("size", [(32, 32), (17, 40), (5, 3)])
def test_image_model(size: tuple[int, int], binds: Binds) -> None:
    binds(CustomCNNModel, (), input_channels=3, num_classes=10)
    model = CustomCNNModel(input_channels=3, num_classes=10)
    batch = {"images": torch.randn(4, 3, *size)}
    assert model(batch["images"]).shape == (4, 10)
    learns(model, model(batch["images"]))


def test_recurrent_model(binds: Binds) -> None:
    binds(CustomRNNModel, ("input_size",), input_size=100, hidden_size=128)
    model = CustomRNNModel(input_size=100, hidden_size=128)
    sequence = torch.randn(4, 9, 100)
    output = model(sequence)
    assert isinstance(output, Tensor)
    assert output.shape == (4, 9, 128)
    model.eval()
    torch.testing.assert_close(model(sequence[0]), model(sequence)[0])
    learns(model, model(sequence))


def test_initialisation_finds_the_layers() -> None:
    """The recipe of the document looks for torch's layer types."""
    seen = set()

    def init_weights(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Conv1d)):
            seen.add("linear" if isinstance(module, nn.Linear) else "convolution")
            nn.init.constant_(module.weight, 0.01)

    model = TransformerCNN(
        vocab_size=100, d_model=16, n_layers=1, n_heads=2, cnn_hidden_dims=[4], num_classes=2
    )
    model.apply(init_weights)
    assert seen == {"linear", "convolution"}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted() -> None:
    ids = torch.randint(100, (2, 9))
    model = CustomTransformer(vocab_size=100, d_model=32, n_layers=1).eval()
    torch.testing.assert_close(torch.jit.script(model)(ids), model(ids))
    embeddings = torch.randn(2, 9, 12)
    cnn = DeepResidualCNN(12, hidden_dims=[8], num_classes=3, num_residual_blocks=1).eval()
    torch.testing.assert_close(torch.jit.script(cnn)(embeddings), cnn(embeddings))
