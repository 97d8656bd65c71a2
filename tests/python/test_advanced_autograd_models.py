"""The documented language model and its parts, by their documented import name and used as documented."""

from __future__ import annotations

import dataclasses
from typing import Any

import advanced_autograd_models as documented
import pytest
import torch
from torch import Tensor, nn

from seo_kernels.models.advanced_config import POSITION_ENCODINGS
from seo_kernels.nn.typed_attention import ATTENTION_TYPES, attention_pattern

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = {
    "AdvancedMultiHeadAttention",
    "AdvancedPositionalEncoding",
    "AdvancedTransformerModel",
    "LoRALayer",
    "LoRALinear",
    "ModelConfig",
    "P_TuningLayer",
    "apply_lora",
}


def test_every_documented_name() -> None:
    assert set(documented.__all__) >= NAMES
    brought: dict[str, Any] = {}
    exec("from advanced_autograd_models import *", brought)
    assert brought.keys() >= set(documented.__all__)
    assert all(getattr(documented, name).__doc__ for name in documented.__all__)


def test_configuration() -> None:
    """Every documented keyword is a field; what two blocks prove by leaving it out has a default."""
    given = {
        "vocab_size": 50257,
        "d_model": 768,
        "n_layers": 12,
        "n_heads": 12,
        "d_ff": 3072,
        "max_seq_len": 512,
        "dropout": 0.1,
        "activation": "gelu",
        "use_relative_pos": True,
        "use_rope": False,
        "use_flash_attention": False,
        "use_xformers": False,
        "gradient_checkpointing": True,
        "mixed_precision": True,
        "weight_decay": 0.01,
        "learning_rate": 1e-4,
        "warmup_steps": 1000,
        "max_grad_norm": 1.0,
        "label_smoothing": 0.1,
    }
    config = documented.ModelConfig(**given)
    assert given.items() <= dataclasses.asdict(config).items()
    assert {f.name for f in dataclasses.fields(config)} - given.keys() == {
        "attention_type",
        "max_relative_position",
        "position_encoding",
        "initialization_method",
        "focal_loss_alpha",
        "focal_loss_gamma",
    }
    small = documented.ModelConfig(vocab_size=50, d_model=32)
    assert (small.n_heads, small.d_ff, small.max_relative_position) == (8, None, 32)
    model = documented.AdvancedTransformerModel(dataclasses.replace(small, n_layers=1))
    assert model(torch.randint(50, (4, 50)))["logits"].shape == (4, 50, 50)
    assert model.layers.layers[0].feed_forward.up.out_features == 128


@pytest.mark.parametrize("shape", [(50, 32), (4, 50, 32)])
@pytest.mark.parametrize("learnable", [True, False])
@pytest.mark.parametrize("encoding_type", POSITION_ENCODINGS)
def test_positional_encoding(encoding_type: str, learnable: bool, shape: tuple[int, ...]) -> None:
    if encoding_type == "learnable" and not learnable:
        with pytest.raises(ValueError, match=r"'learnable' with use_learnable=False, which leaves nothing"):
            documented.AdvancedPositionalEncoding(32, 60, 0.1, encoding_type, learnable)
        return
    encoding = documented.AdvancedPositionalEncoding(
        d_model=32, max_len=60, encoding_type=encoding_type, use_learnable=learnable
    )
    assert encoding.dropout.p == 0.1
    x = torch.randn(shape, requires_grad=True)
    assert encoding(x).shape == shape
    encoding.eval()
    out = encoding(x)
    assert ((out - x).abs().amax(-1) > 1e-3)[..., 1:].all()  # each position but the first of rope
    parameters = list(encoding.parameters())
    assert len(parameters) == (1 if learnable else 0)
    for gradient in torch.autograd.grad(out.sin().sum(), [x, *parameters]):
        assert gradient.abs().max() > 0
    if encoding_type == "rope":
        torch.testing.assert_close(out.norm(dim=-1), x.norm(dim=-1))
    else:  # the same is added to whatever is there
        torch.testing.assert_close(out - x, encoding(torch.zeros(shape)), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="x is 61 positions long, expected at most max_len=60"):
        encoding(torch.randn(61, 32))
    with pytest.raises(ValueError, match="x has shape"):
        encoding(torch.randn(5, 31))


def test_a_position_encoding_that_is_none() -> None:
    with pytest.raises(ValueError, match="encoding_type is 'alibi', expected one of sinusoidal"):
        documented.AdvancedPositionalEncoding(32, encoding_type="alibi")
    with pytest.raises(ValueError, match="width of 33, expected an even one"):
        documented.AdvancedPositionalEncoding(33, encoding_type="rope")


@pytest.mark.parametrize("attention_type", ATTENTION_TYPES)
def test_attention(attention_type: str) -> None:
    attention = documented.AdvancedMultiHeadAttention(
        d_model=16, n_heads=2, dropout=0.1, attention_type=attention_type, max_relative_position=3
    )
    x = torch.randn(2, 20, 16, requires_grad=True)
    assert attention(x).shape == x.shape
    attention(x).sum().backward()
    assert x.grad is not None
    assert all(isinstance(getattr(attention, name), nn.Linear) for name in ("w_q", "w_k", "w_v", "w_o"))
    dense = documented.AdvancedMultiHeadAttention(16, 2)
    weights = {k: v for k, v in attention.state_dict().items() if not k.startswith("relative")}
    dense.load_state_dict(weights)
    seen = attention_pattern(attention_type, 3).dense_mask(20, 20).expand(2, -1, -1)
    same = torch.allclose(attention.eval()(x), dense.eval()(x, seen.float()), atol=1e-5)
    assert same == (attention_type != "relative")


@pytest.mark.parametrize("package", ["use_flash_attention", "use_xformers"])
def test_attention_without_the_package(package: str) -> None:
    attention = documented.AdvancedMultiHeadAttention(16, 2, attention_type="standard", **{package: True})
    assert attention(torch.randn(2, 5, 16)).shape == (2, 5, 16)


def test_lora_layer() -> None:
    lora = documented.LoRALayer(in_features=24, out_features=16, rank=4, alpha=8.0, dropout=0.1)
    x = torch.randn(4, 24)
    assert lora(x).shape == (4, 16)
    assert not lora(x).any()  # lora_b starts at zero
    assert all("lora" in name for name, _ in lora.named_parameters())
    nn.init.normal_(lora.lora_b)
    torch.testing.assert_close(lora.eval()(x), 2.0 * x @ lora.lora_a.T @ lora.lora_b.T, rtol=1e-4, atol=1e-5)
    lora.train()
    assert not torch.equal(lora(x), lora(x))  # dropout
    assert torch.autograd.gradcheck(lora.double().eval(), (x.double().requires_grad_(),))
    with pytest.raises(ValueError, match="rank is 17, expected 1 to 16"):
        documented.LoRALayer(24, 16, rank=17)


def test_lora_around_a_layer() -> None:
    linear = nn.Linear(24, 24)
    layer = documented.LoRALinear(linear, rank=16, alpha=32.0)
    x = torch.randn(2, 24)
    torch.testing.assert_close(layer(x), linear(x))
    named = dict(layer.named_parameters())
    assert {n for n, p in named.items() if p.requires_grad} == {n for n in named if "lora" in n} != set()


def test_apply_lora_to_gpt2() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 50, "n_positions": 12}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    ids = torch.randint(50, (2, 7))
    before = model(ids).logits
    assert documented.apply_lora(model, target="mlp", rank=4, alpha=8.0) == 4  # two Conv1D in each layer
    torch.testing.assert_close(model(ids).logits, before)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 8
    assert all("lora" in name and "mlp" in name for name in trained)


def test_apply_lora_to_ours() -> None:
    config = documented.ModelConfig(vocab_size=50, d_model=16, n_layers=2, n_heads=2, dropout=0.0)
    model, ids = documented.AdvancedTransformerModel(config), torch.randint(50, (2, 9))
    with pytest.raises(ValueError, match=r"target is 'mlp', which is in no linear layer's path.*w_q"):
        documented.apply_lora(model)
    with pytest.raises(TypeError, match="target is a list"):
        documented.apply_lora(model, target=["w_q"])
    assert documented.apply_lora(model, "attention.w_", rank=2) == 8
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(ids, labels=ids)["loss"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(model.get_parameter(name), value) for name, value in frozen.items())
    with torch.no_grad():  # decoding goes through the adapters too
        last = model.eval()(ids)["logits"][:, -1]
    torch.testing.assert_close(model.decode(ids, model.new_cache()), last)


class PromptedModel(nn.Module):
    """The document's P_TuningTransformer."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.p_tuning = documented.P_TuningLayer(config.d_model, prompt_length=10)
        self.transformer = documented.AdvancedTransformerModel(config)

    def forward(self, input_ids: Tensor, attention_mask: Any = None, labels: Any = None) -> dict[str, Tensor]:
        enhanced = self.p_tuning(self.transformer.embedding(input_ids))
        return self.transformer.forward_with_embeddings(enhanced, attention_mask, labels)


def test_prompts() -> None:
    layer = documented.P_TuningLayer(d_model=16, prompt_length=10, dropout=0.1).eval()
    x = torch.randn(4, 20, 16)
    out = layer(x)
    assert out.shape == (4, 30, 16)
    assert torch.equal(out[:, 10:], x)
    assert torch.equal(out[1, :10], layer.prompts)
    assert layer.prompts.std() < 0.1
    with pytest.raises(ValueError, match=r"x has shape \(20, 16\), expected \(batch, length, d_model=16\)"):
        layer(x[0])
    config = documented.ModelConfig(vocab_size=50, d_model=16, n_layers=1, n_heads=2, max_seq_len=20)
    model, ids = PromptedModel(config), torch.randint(50, (2, 9))
    outputs = model(ids, torch.ones(2, 9), ids)
    assert outputs["logits"].shape == (2, 19, 50)
    outputs["loss"].backward()
    assert (model.p_tuning.prompts.grad.abs().amax(1) > 0).sum() > 5
    with pytest.raises(ValueError, match="is 22 tokens long, prompts and cache included"):
        model(torch.randint(50, (2, 12)))


def test_the_documents_recipes() -> None:
    config = documented.ModelConfig(
        vocab_size=50, d_model=16, n_layers=2, n_heads=2, gradient_checkpointing=True
    )
    model, ids = documented.AdvancedTransformerModel(config), torch.randint(50, (2, 9))
    found = []

    def init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            found.append(module)
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)

    model.apply(init_weights)
    assert len(found) == 12
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    model(ids, labels=ids.clone())["loss"].backward()
    assert all(p.grad is not None for p in model.parameters())
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=config.max_grad_norm)
    assert norm.isfinite()
