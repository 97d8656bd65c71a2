"""Parents that read the weight of a layer inside them: replaced, kept from their fast path, or refused."""

from typing import Any

import pytest
import torch
from lora.models import adapted, assert_untouched, snapshot
from torch import nn

import seo_kernels as sk

DIM, HEADS, LENGTH = 8, 2, 6
LEFT_ALIGNED = torch.arange(LENGTH) >= torch.tensor([[LENGTH], [4], [1]])
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


def encoder(**options: Any) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(DIM, HEADS, 12, 0.0, batch_first=True, dtype=torch.float64, **options)
    return nn.TransformerEncoder(layer, 2)


def by_hand(model: nn.Module, ours: nn.Module) -> nn.Module:
    """The plain model with the adapters of ``ours`` added to its weights."""
    state = model.state_dict()
    for path, layer in ours.named_modules():
        if isinstance(layer, sk.nn.LoRALinear):
            adapter = layer.adapters["default"]
            state[f"{path}.weight"] = layer.weight + adapter.scaling * adapter.lora_b @ adapter.lora_a
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("mode", ["train", "eval", "eval no_grad"])
@pytest.mark.parametrize("padding", [None, LEFT_ALIGNED], ids=["full", "padded"])
@pytest.mark.parametrize("targets", [["linear1"], ["out_proj"], "all-linear"], ids=str)
def test_torchs_encoder(targets: Any, padding: torch.Tensor | None, mode: str) -> None:
    """Its fast path in eval reads every weight, and its attention layer reads out_proj's always."""
    model = encoder().train(mode == "train")
    ours = adapted(model, target_modules=targets)
    source = torch.randn(3, LENGTH, DIM, dtype=torch.float64)
    seen = torch.ones(3, LENGTH, dtype=torch.bool) if padding is None else ~padding
    with torch.set_grad_enabled(mode != "eval no_grad"):
        plain = model(source, src_key_padding_mask=padding)[seen]
        got = ours(source, src_key_padding_mask=padding)[seen]
        expected = by_hand(model, ours)(source, src_key_padding_mask=padding)[seen]
    torch.testing.assert_close(got, expected)
    assert (got - plain).abs().max() > 1e-2


def test_encoders_without_adapters_go_on_nesting() -> None:
    model = nn.ModuleList([encoder(), encoder()])
    sk.lora.apply(model, rank=2, alpha=4, target_modules=["0.layers.1.linear1"])
    assert [module.use_nested_tensor for module in model] == [False, True]


def test_the_attention_layer_is_replaced_and_reported() -> None:
    model = encoder()
    names = model.state_dict().keys()
    report = sk.lora.apply(model, rank=2, alpha=4, target_modules=["1.self_attn.out_proj"])
    assert report.replaced_parents == ("layers.1.self_attn",)
    assert "layers.1.self_attn: torch.nn.MultiheadAttention became" in str(report)
    assert type(model.layers[0].self_attn) is nn.MultiheadAttention
    assert type(model.layers[1].self_attn) is sk.nn.MultiheadAttention
    assert isinstance(model.layers[1].self_attn.out_proj, sk.nn.LoRALinear)
    assert names < model.state_dict().keys()
    source = torch.randn(3, LENGTH, DIM, dtype=torch.float64)
    model(source).sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        "layers.1.self_attn.out_proj.adapters.default.lora_a",
        "layers.1.self_attn.out_proj.adapters.default.lora_b",
    }


def test_our_attention_layer_stays() -> None:
    model = nn.Sequential(sk.nn.MultiheadAttention(DIM, HEADS))
    attention = model[0]
    assert sk.lora.apply(model, rank=2, alpha=4, target_modules=["out_proj"]).replaced_parents == ()
    assert model[0] is attention


def test_an_attention_layer_at_two_places() -> None:
    attention = nn.MultiheadAttention(DIM, HEADS)
    model = nn.ModuleList([attention, nn.ModuleList([attention])])
    report = sk.lora.apply(model, rank=2, alpha=4, target_modules="all-linear")
    assert report.replaced_parents == ("0",)
    assert model[0] is model[1][0]
    assert type(model[0]) is sk.nn.MultiheadAttention


class OwnAttention(nn.MultiheadAttention):
    pass


def hooked() -> nn.Module:
    layer = nn.MultiheadAttention(DIM, HEADS)
    layer.register_forward_hook(lambda module, args, output: None)
    return layer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: nn.Sequential(OwnAttention(DIM, HEADS)),
            r"0.out_proj is read as a weight .*: layer is a OwnAttention",
        ),
        (lambda: nn.Sequential(hooked()), "cannot be replaced: layer has forward or backward hooks"),
        (lambda: nn.MultiheadAttention(DIM, HEADS), "the model itself is a torch.nn.MultiheadAttention"),
    ],
)
def test_parents_that_cannot_be_replaced(make: Any, message: str) -> None:
    model = make()
    before = snapshot(model)
    with pytest.raises(ValueError, match=message):
        sk.lora.apply(model, rank=2, alpha=4, target_modules=["out_proj"])
    assert_untouched(model, before)


def test_state_space_models_read_out_proj() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, state_size=4)
    model = transformers.MambaForCausalLM(config)
    before = snapshot(model)
    with pytest.raises(ValueError, match="out_proj is read as a weight by mamba models"):
        sk.lora.apply(model, rank=1, alpha=4, target_modules="all-linear")
    assert_untouched(model, before)
    sk.lora.apply(model, rank=1, alpha=4, target_modules="all-linear", exclude_modules=["out_proj"])
