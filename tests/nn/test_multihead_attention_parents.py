"""sk.nn.MultiheadAttention inside torch's transformer layers, whose fast path must not be taken."""

import copy

import pytest
import torch
from torch import Tensor, nn

import seo_kernels as sk

DIM, HEADS, LENGTH = 8, 2, 9
PATTERN = sk.Local(1) | sk.GlobalTokens(1)
LEFT_ALIGNED = torch.arange(LENGTH) >= torch.tensor([[LENGTH], [4], [1]])
SCATTERED = torch.tensor([[False, True] * 4 + [False], [False] * 9, [False] * 3 + [True] * 6])


def encoder_layer(**options) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(DIM, HEADS, 16, batch_first=True, dtype=torch.float64, **options)


def put_in_place(parent: nn.Module, **options) -> nn.Module:
    """A copy with our attention, on copies of the weights, wherever torch's was."""
    parent = copy.deepcopy(parent)
    for module in list(parent.modules()):
        for name, child in module.named_children():
            if type(child) is nn.MultiheadAttention:
                setattr(module, name, sk.nn.MultiheadAttention.from_torch(child, **options))
    return parent


def as_mask(pattern: sk.Pattern | None) -> Tensor | None:
    """The pattern as torch's layers take it: True hides."""
    return None if pattern is None else ~pattern.dense_mask(LENGTH, LENGTH)[0]


@pytest.fixture(params=["eval no_grad", "eval", "train"])
def mode(request: pytest.FixtureRequest):
    with torch.set_grad_enabled(request.param != "eval no_grad"):
        yield request.param == "train"


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(
    "padding", [None, LEFT_ALIGNED, SCATTERED], ids=["full", "left_aligned", "scattered"]
)
def test_encoder_layer(mode: bool, padding: Tensor | None, norm_first: bool) -> None:
    theirs = encoder_layer(norm_first=norm_first, dropout=0.0).train(mode)
    source = torch.randn(3, LENGTH, DIM, dtype=torch.float64)
    outputs = {}
    for pattern in (None, PATTERN):
        ours = put_in_place(theirs, pattern=pattern)
        expected = theirs(source, src_mask=as_mask(pattern), src_key_padding_mask=padding)
        outputs[pattern] = ours(source, src_key_padding_mask=padding)
        torch.testing.assert_close(outputs[pattern], expected)
    assert (outputs[None] - outputs[PATTERN]).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "padding", [None, LEFT_ALIGNED, SCATTERED], ids=["full", "left_aligned", "scattered"]
)
def test_encoder(mode: bool, padding: Tensor | None, nested: bool) -> None:
    """In eval under no_grad, the encoder makes nested tensors of left-aligned padding."""
    theirs = nn.TransformerEncoder(encoder_layer(dropout=0.0), 2, enable_nested_tensor=nested).train(mode)
    source = torch.randn(3, LENGTH, DIM, dtype=torch.float64)
    seen = torch.ones(3, LENGTH, dtype=torch.bool) if padding is None else ~padding
    for pattern in (None, PATTERN):
        expected = theirs(source, mask=as_mask(pattern), src_key_padding_mask=padding)
        got = put_in_place(theirs, pattern=pattern)(source, src_key_padding_mask=padding)
        # what stands at padded positions depends on whether tensors are nested
        torch.testing.assert_close(got[seen], expected[seen])


@pytest.mark.parametrize("is_causal", [None, True])
def test_decoder(mode: bool, is_causal: bool | None) -> None:
    layer = nn.TransformerDecoderLayer(DIM, HEADS, 16, dropout=0.0, batch_first=True, dtype=torch.float64)
    theirs = nn.TransformerDecoder(layer, 2).train(mode)
    target, memory = (torch.randn(3, n, DIM, dtype=torch.float64) for n in (LENGTH, 5))
    given = {
        "tgt_mask": nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=torch.float64),
        "memory_key_padding_mask": torch.arange(5) >= torch.tensor([[5], [2], [1]]),
        "tgt_is_causal": is_causal,
    }
    torch.testing.assert_close(put_in_place(theirs)(target, memory, **given), theirs(target, memory, **given))


@pytest.mark.parametrize("relative", [False, True])
def test_a_copied_or_loaded_layer_is_still_guarded(relative: bool) -> None:
    tables = sk.nn.RelativePositionTables(2, DIM // HEADS, HEADS, bias=True).double() if relative else None
    layer = encoder_layer().eval()
    layer.self_attn = sk.nn.MultiheadAttention.from_torch(layer.self_attn, pattern=PATTERN, relative=tables)
    source = torch.randn(3, LENGTH, DIM, dtype=torch.float64)
    expected = layer(source)  # with gradients there is no fast path
    with torch.no_grad():
        for other in (
            layer,
            copy.deepcopy(layer),
            *nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).layers,
        ):
            torch.testing.assert_close(other(source), expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors() -> None:
    """As torch's fast path takes them: weights come padded, with zeros for what does not exist."""
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True, dtype=torch.float64).eval()
    ours = sk.nn.MultiheadAttention.from_torch(theirs)
    sequences = [torch.randn(n, DIM, dtype=torch.float64) for n in (5, 2, 7)]
    nested = torch.nested.nested_tensor(sequences)
    with torch.no_grad():
        for average in (True, False):
            got, expected = (m(nested, nested, nested, average_attn_weights=average) for m in (ours, theirs))
            torch.testing.assert_close(got[1], expected[1])
            for a, b in zip(got[0].unbind(), expected[0].unbind(), strict=True):
                torch.testing.assert_close(a, b)
    leaf = torch.nested.nested_tensor(sequences, requires_grad=True)
    (together,) = torch.autograd.grad(
        ours(leaf, leaf, leaf, need_weights=False)[0].to_padded_tensor(0.0).sum(), leaf
    )
    for gradient, sequence in zip(together.unbind(), sequences, strict=True):
        sequence.requires_grad_()
        (alone,) = torch.autograd.grad(ours(sequence, sequence, sequence)[0].sum(), sequence)
        torch.testing.assert_close(gradient, alone)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_refused() -> None:
    layer = sk.nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    sequences = [torch.randn(n, DIM) for n in (5, 2)]
    nested = torch.nested.nested_tensor(sequences)
    other = torch.nested.nested_tensor(sequences)
    with pytest.raises(ValueError, match="is a nested tensor, expected one tensor as all three"):
        layer(nested, other, other)
    with pytest.raises(ValueError, match=r"is a nested tensor, .* neither key_padding_mask nor attn_mask"):
        layer(nested, nested, nested, key_padding_mask=torch.zeros(2, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="batch_first=True"):
        sk.nn.MultiheadAttention(DIM, HEADS)(nested, nested, nested)
    jagged = torch.nested.nested_tensor(sequences, layout=torch.jagged)
    with pytest.raises(
        TypeError, match=r"query is a nested tensor of layout torch.jagged, expected torch.strided"
    ):
        layer(jagged, jagged, jagged)
