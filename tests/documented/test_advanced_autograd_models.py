"""Section 1.8: advanced_autograd_models."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from advanced_autograd_models import (
    AdvancedLossFunctions,
    AdvancedMultiHeadAttention,
    AdvancedOptimizers,
    AdvancedPositionalEncoding,
    AdvancedTokenizer,
    AdvancedTrainingPipeline,
    AdvancedTransformerModel,
    LoRALayer,
    LoRALinear,
    ModelConfig,
    P_TuningLayer,
)
from torch import Tensor, nn
from torch.nn import functional as F

Binds = Callable[..., dict[str, Any]]
DOCUMENTED = {
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


def small(**options: Any) -> ModelConfig:
    return ModelConfig(
        **{"vocab_size": 50, "d_model": 32, "n_layers": 2, "n_heads": 4, "dropout": 0.0, **options}
    )


def test_configuration() -> None:
    assert dataclasses.is_dataclass(ModelConfig)
    config = ModelConfig(**DOCUMENTED)
    assert DOCUMENTED.items() <= dataclasses.asdict(config).items()
    names = {field.name for field in dataclasses.fields(ModelConfig)}
    assert {"focal_loss_alpha", "focal_loss_gamma", "attention_type", "max_relative_position"} <= names
    for width in (64, 32):
        model = AdvancedTransformerModel(ModelConfig(vocab_size=100, d_model=width))
        assert model(torch.randint(100, (1, 5)))["logits"].shape == (1, 5, 100)


@pytest.mark.parametrize("encoding_type", ["sinusoidal", "learnable", "rope"])
def test_positional_encoding(encoding_type: str, binds: Binds) -> None:
    binds(
        AdvancedPositionalEncoding,
        ("d_model", "max_len", "encoding_type", "use_learnable"),
        d_model=512,
        max_len=5000,
        dropout=0.1,
        encoding_type="sinusoidal",
        use_learnable=True,
    )
    encoding = AdvancedPositionalEncoding(512, 5000, 0.1, encoding_type=encoding_type, use_learnable=True)
    x = torch.randn(50, 512, requires_grad=True)
    assert encoding(x).shape == (50, 512)
    encoding.eval()
    torch.testing.assert_close(encoding(x[None])[0], encoding(x))
    encoding(x).square().sum().backward()
    assert x.grad is not None
    learned = list(encoding.parameters())
    assert learned
    assert all(parameter.grad is not None for parameter in learned)
    assert ((encoding(x) - x).abs().amax(1)[1:] > 1e-3).all()


@pytest.mark.parametrize("attention_type", ["standard", "relative", "local", "sparse"])
def test_attention(attention_type: str, binds: Binds) -> None:
    binds(
        AdvancedMultiHeadAttention,
        ("d_model", "n_heads"),
        d_model=512,
        n_heads=8,
        dropout=0.1,
        attention_type="standard",
        max_relative_position=32,
        use_flash_attention=True,
        use_xformers=True,
    )
    attention = AdvancedMultiHeadAttention(
        d_model=64, n_heads=8, dropout=0.1, attention_type=attention_type, max_relative_position=32
    )
    x = torch.randn(4, 20, 64, requires_grad=True)
    assert attention(x).shape == (4, 20, 64)
    attention(x).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is not None for parameter in attention.parameters())
    assert all(isinstance(getattr(attention, name), nn.Linear) for name in ("w_q", "w_k", "w_v", "w_o"))


@pytest.mark.parametrize("package", ["use_flash_attention", "use_xformers"])
def test_attention_falls_back_where_the_package_is_missing(package: str) -> None:
    attention = AdvancedMultiHeadAttention(d_model=64, n_heads=8, **{package: True})
    assert attention(torch.randn(4, 20, 64)).shape == (4, 20, 64)


@pytest.mark.parametrize("window", [1, 4])
def test_local_attention_sees_its_window_alone(window: int) -> None:
    attention = AdvancedMultiHeadAttention(
        d_model=32, n_heads=4, attention_type="local", max_relative_position=window
    ).eval()
    x = torch.randn(1, 20, 32, requires_grad=True)
    attention(x)[0, 10].sum().backward()
    assert x.grad is not None
    seen = x.grad[0].abs().amax(1) > 0
    assert seen.nonzero().flatten().tolist() == list(range(10 - window, 10 + window + 1))


def test_sparse_attention_has_a_pattern() -> None:
    attention = AdvancedMultiHeadAttention(
        d_model=32, n_heads=4, attention_type="sparse", max_relative_position=4
    ).eval()
    x = torch.randn(1, 30, 32, requires_grad=True)
    attention(x)[0, 16].sum().backward()
    assert x.grad is not None
    seen = set((x.grad[0].abs().amax(1) > 0).nonzero().flatten().tolist())
    near = set(range(12, 21))
    assert near < seen < set(range(30))
    assert all((16 - j) % 4 == 0 for j in seen - near)


def test_lora_layer(binds: Binds) -> None:
    binds(
        LoRALayer,
        ("in_features", "out_features"),
        in_features=768,
        out_features=768,
        rank=16,
        alpha=32.0,
        dropout=0.1,
    )
    layer = LoRALayer(in_features=768, out_features=768, rank=16, alpha=32.0, dropout=0.1)
    x = torch.randn(4, 768)
    assert layer(x).shape == (4, 768)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    matrix = layer.eval()(torch.eye(768))
    assert int(torch.linalg.matrix_rank(matrix.detach())) == 16
    doubled = LoRALayer(768, 768, rank=16, alpha=64.0).eval()
    doubled.load_state_dict(layer.state_dict())
    torch.testing.assert_close(doubled(x), 2.0 * layer(x))
    assert not torch.equal(layer.train()(x), layer(x))  # dropout


def test_lora_linear() -> None:
    assert LoRALinear(nn.Linear(24, 24), rank=4)(torch.randn(2, 24)).shape == (2, 24)  # alpha may be left out
    linear = nn.Linear(768, 768)
    layer = LoRALinear(linear, rank=16, alpha=32.0)
    x = torch.randn(2, 768)
    assert layer(x).shape == (2, 768)
    torch.testing.assert_close(layer(x), linear(x))  # the low-rank part starts at zero
    optimizer = torch.optim.SGD([p for p in layer.parameters() if p.requires_grad], lr=0.1)
    before = {name: parameter.detach().clone() for name, parameter in layer.named_parameters()}
    for _ in range(2):
        layer(x).square().sum().backward()
        optimizer.step()
    moved = {name for name, p in layer.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora" in name} != set()


def test_prompts(binds: Binds) -> None:
    binds(P_TuningLayer, ("d_model",), d_model=768, prompt_length=10, dropout=0.1)
    layer = P_TuningLayer(d_model=768, prompt_length=10, dropout=0.1).eval()
    x = torch.randn(4, 20, 768)
    out = layer(x)
    assert out.shape == (4, 30, 768)
    torch.testing.assert_close(out[:, 10:], x)
    torch.testing.assert_close(out[0, :10], out[3, :10])
    out.sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_focal_loss() -> None:
    predictions, targets = torch.randn(4, 3), torch.randint(0, 3, (4,))
    p = predictions.softmax(1).gather(1, targets[:, None])[:, 0]
    for alpha, gamma in ((1.0, 2.0), (0.25, 0.5)):
        loss = AdvancedLossFunctions.focal_loss(predictions, targets, alpha=alpha, gamma=gamma)
        torch.testing.assert_close(loss, (alpha * (1 - p) ** gamma * -p.log()).mean())
    default = AdvancedLossFunctions.focal_loss(predictions, targets)
    torch.testing.assert_close(default, ((1 - p) ** 2 * -p.log()).mean())


def test_label_smoothing() -> None:
    predictions, targets = torch.randn(4, 3), torch.randint(0, 3, (4,))
    for smoothing in (0.0, 0.1, 0.4):
        loss = AdvancedLossFunctions.label_smoothing_loss(predictions, targets, smoothing=smoothing)
        torch.testing.assert_close(loss, F.cross_entropy(predictions, targets, label_smoothing=smoothing))
    default = AdvancedLossFunctions.label_smoothing_loss(predictions, targets)
    torch.testing.assert_close(default, F.cross_entropy(predictions, targets, label_smoothing=0.1))


def test_contrastive_loss() -> None:
    embeddings, labels = torch.randn(8, 128), torch.arange(8) % 3
    loss = AdvancedLossFunctions.contrastive_loss(embeddings, labels, temperature=0.07, margin=1.0)
    assert loss.shape == ()
    torch.testing.assert_close(AdvancedLossFunctions.contrastive_loss(embeddings, labels), loss)
    for extreme in (torch.arange(8), torch.zeros(8, dtype=torch.int64)):
        assert AdvancedLossFunctions.contrastive_loss(embeddings, extreme).isfinite()
    for option in ({"temperature": 0.5}, {"margin": 1.5}):
        assert AdvancedLossFunctions.contrastive_loss(embeddings, labels, **option) != loss
    grouped = F.one_hot(labels, 128).float()
    together = AdvancedLossFunctions.contrastive_loss(grouped, labels)
    assert together < AdvancedLossFunctions.contrastive_loss(grouped, labels.roll(1))


def test_triplet_loss() -> None:
    anchor, positive, negative = torch.randn(3, 4, 64)
    near, far = (anchor - positive).norm(dim=1), (anchor - negative).norm(dim=1)
    for margin in (1.0, 0.2):
        loss = AdvancedLossFunctions.triplet_loss(anchor, positive, negative, margin=margin)
        torch.testing.assert_close(loss, (near - far + margin).clamp(min=0).mean())
    assert AdvancedLossFunctions.triplet_loss(anchor, anchor, anchor) == 1.0  # the margin
    assert AdvancedLossFunctions.triplet_loss(anchor, anchor, anchor + 9.0) == 0.0


def test_optimizer() -> None:
    config = small(learning_rate=3e-4, weight_decay=0.05)
    model = AdvancedTransformerModel(config)
    optimizer = AdvancedOptimizers.create_optimizer(model, config)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert len(decay) == len(list(model.parameters()))
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            assert decay[id(module.weight)] == 0.05
        if isinstance(module, nn.LayerNorm):
            assert decay[id(module.weight)] == decay[id(module.bias)] == 0.0
        if isinstance(module, nn.Linear) and module.bias is not None:
            assert decay[id(module.bias)] == 0.0
    assert {group["lr"] for group in optimizer.param_groups} == {3e-4}


def test_schedule() -> None:
    config = small(learning_rate=1.0, warmup_steps=10)
    optimizer = AdvancedOptimizers.create_optimizer(nn.Linear(2, 2), config)
    scheduler = AdvancedOptimizers.create_scheduler(optimizer, config, num_training_steps=110)
    rates = []
    for _ in range(111):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:] == pytest.approx([(1 + math.cos(math.pi * i / 100)) / 2 for i in range(101)])
    default = AdvancedOptimizers.create_scheduler(optimizer, small(warmup_steps=1000))
    assert default.lr_lambdas[0](5500) == pytest.approx(0.5)  # half-way from 1000 to 10000


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a tokenizer like GPT-2's: bytes, one special token that ends texts, none that pads."""
    pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import PreTrainedTokenizerFast

    coder = tokenizers.Tokenizer(tokenizers.models.BPE())
    coder.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    coder.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    )
    coder.train_from_iterator(["the quick brown fox jumps over the lazy dog"] * 9, trainer)
    folder = tmp_path_factory.mktemp("gpt2")
    end = "<|endoftext|>"
    wrapped = PreTrainedTokenizerFast(tokenizer_object=coder, eos_token=end, bos_token=end, unk_token=end)
    wrapped.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=["byte", "gpt2"])
def tokenizer(request: pytest.FixtureRequest) -> AdvancedTokenizer:
    name = "byte" if request.param == "byte" else request.getfixturevalue("gpt2")
    return AdvancedTokenizer(name, max_length=16)


def test_tokenizer(tokenizer: AdvancedTokenizer, binds: Binds) -> None:
    binds(
        AdvancedTokenizer,
        ("model_name", "max_length"),
        model_name="gpt2",
        max_length=512,
        padding="max_length",
        truncation=True,
    )
    one = tokenizer.tokenize_text("the quick fox")
    assert {name: (value.dtype, tuple(value.shape)) for name, value in one.items()} == {
        "input_ids": (torch.int64, (1, 16)),
        "attention_mask": (torch.int64, (1, 16)),
    }
    two = tokenizer.tokenize_text(["the dog", "the quick brown fox jumps over the lazy dog " * 3])
    assert two["input_ids"].shape == two["attention_mask"].shape == (2, 16)
    assert two["attention_mask"][1].sum() == 16  # truncated
    padded = int(two["attention_mask"][0].sum())
    assert two["attention_mask"][0].tolist() == [1] * padded + [0] * (16 - padded)
    assert padded < 16
    torch.testing.assert_close(tokenizer.create_attention_mask(two["input_ids"]), two["attention_mask"])
    assert tokenizer.create_attention_mask(torch.ones(2, 10, dtype=torch.int64)).shape == (2, 10)
    assert tokenizer.decode_tokens(one["input_ids"]) == ["the quick fox"]  # without what pads
    ids = torch.randint(len(tokenizer), (2, 5))
    decoded = tokenizer.decode_tokens(ids)
    assert len(decoded) == 2
    assert all(isinstance(text, str) for text in decoded)


def test_model() -> None:
    ids = torch.randint(50, (4, 50))
    model = AdvancedTransformerModel(small())
    outputs = model(ids)
    assert outputs["logits"].shape == (4, 50, 50)
    assert "loss" not in outputs or outputs["loss"] is None
    outputs = model(ids, attention_mask=torch.ones(4, 50), labels=ids)
    assert outputs["loss"].shape == ()
    outputs["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.embedding(ids).shape == (4, 50, 32)


@pytest.mark.parametrize(
    "options",
    [
        {"use_rope": True},
        {"use_relative_pos": False},
        {"gradient_checkpointing": False},
        {"attention_type": "local", "max_relative_position": 3},
        {"attention_type": "sparse", "max_relative_position": 4},
        {"activation": "swish"},
        {"use_flash_attention": True, "use_xformers": True},
    ],
    ids=str,
)
def test_model_options(options: dict[str, Any]) -> None:
    ids = torch.randint(50, (2, 9))
    model = AdvancedTransformerModel(small(**options))
    model(ids, labels=ids)["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_model_is_causal_and_shifts_its_labels() -> None:
    model = AdvancedTransformerModel(small(label_smoothing=0.2)).eval()
    ids = torch.randint(50, (2, 12))
    other = ids.clone()
    other[:, 7:] = torch.randint(50, (2, 5))
    logits = model(ids)["logits"]
    torch.testing.assert_close(model(other)["logits"][:, :7], logits[:, :7])
    labels = ids.clone()
    labels[0, 3:6] = -100
    expected = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, label_smoothing=0.2
    )
    torch.testing.assert_close(model(ids, labels=labels)["loss"], expected)


def test_a_masked_token_reaches_no_other() -> None:
    model = AdvancedTransformerModel(small()).eval()
    ids, mask = torch.randint(50, (2, 12)), torch.ones(2, 12)
    mask[:, 4] = 0.0
    other = ids.clone()
    other[:, 4] = (ids[:, 4] + 1) % 50
    one, two = model(ids, mask)["logits"], model(other, mask)["logits"]
    kept = [i for i in range(12) if i != 4]
    torch.testing.assert_close(one[:, kept], two[:, kept])


def test_focal_loss_of_the_model() -> None:
    ids = torch.randint(50, (2, 9))
    model = AdvancedTransformerModel(small(label_smoothing=0.0, focal_loss_alpha=0.5, focal_loss_gamma=3.0))
    model.eval()
    logits = model(ids)["logits"][:, :-1].flatten(0, 1)
    expected = AdvancedLossFunctions.focal_loss(logits, ids[:, 1:].flatten(), alpha=0.5, gamma=3.0)
    torch.testing.assert_close(model(ids, labels=ids)["loss"], expected)


def test_forward_with_embeddings() -> None:
    model = AdvancedTransformerModel(small()).eval()
    ids, mask = torch.randint(50, (2, 9)), torch.ones(2, 9)
    embeddings = model.embedding(ids)
    torch.testing.assert_close(model.forward_with_embeddings(embeddings)["logits"], model(ids)["logits"])
    given, expected = model.forward_with_embeddings(embeddings, mask, ids), model(ids, mask, ids)
    torch.testing.assert_close(given["loss"], expected["loss"])
    leaf = embeddings.detach().requires_grad_()
    model.forward_with_embeddings(leaf)["logits"].sum().backward()
    assert leaf.grad is not None
    prompts = P_TuningLayer(32, prompt_length=10)(model.embedding(ids))
    outputs = model.forward_with_embeddings(prompts, mask, ids)
    assert outputs["logits"].shape == (2, 19, 50)
    assert outputs["loss"].isfinite()


def test_checkpointing_on_and_off() -> None:
    model, ids = AdvancedTransformerModel(small(gradient_checkpointing=False)), torch.randint(50, (2, 9))
    found = []
    for switch in (None, model.gradient_checkpointing_enable, model.gradient_checkpointing_enable):
        if switch is not None:
            switch()  # twice is as good as once
        model.zero_grad()
        model(ids, labels=ids)["loss"].backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
    model.gradient_checkpointing_disable()


@pytest.fixture
def pipeline() -> AdvancedTrainingPipeline:
    config = small(vocab_size=258, max_seq_len=64, warmup_steps=4, learning_rate=0.01, mixed_precision=False)
    tokenizer = AdvancedTokenizer("byte", max_length=20)
    return AdvancedTrainingPipeline(AdvancedTransformerModel(config), config, tokenizer)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_pipeline_trains(pipeline: AdvancedTrainingPipeline, dtype: torch.dtype) -> None:
    batch = {
        "input_ids": torch.randint(0, 258, (4, 20)),
        "attention_mask": torch.ones(4, 20, dtype=dtype),
    }
    batch["labels"] = batch["input_ids"].clone()
    state = {name: value.clone() for name, value in pipeline.model.state_dict().items()}
    before = pipeline.evaluate_step(batch)
    assert set(before) == {"loss", "perplexity"}
    assert all(isinstance(value, float) for value in before.values())
    for name, value in pipeline.model.state_dict().items():
        assert torch.equal(value, state[name])
    rates = []
    for _ in range(8):
        metrics = pipeline.train_step(batch)
        assert isinstance(metrics["loss"], float)
        assert math.isfinite(metrics["loss"])
        rates.append(metrics["learning_rate"])
    assert rates[:4] == pytest.approx([0.0025, 0.005, 0.0075, 0.01])
    assert pipeline.evaluate_step(batch)["loss"] < before["loss"]


def test_pipeline_clips() -> None:
    """However large the loss, the gradient that is applied is at most ``max_grad_norm`` long."""

    class Steep(AdvancedTransformerModel):
        def forward(self, *inputs: Any, **options: Any) -> dict[str, Tensor]:
            outputs = dict(super().forward(*inputs, **options))
            outputs["loss"] = 1e3 * outputs["loss"]
            return outputs

    config = small(vocab_size=258, max_grad_norm=0.5, mixed_precision=False)
    pipeline = AdvancedTrainingPipeline(Steep(config), config, AdvancedTokenizer("byte", max_length=20))
    norms = []
    pipeline.optimizer.register_step_pre_hook(
        lambda *_: norms.append(
            math.hypot(*(float(p.grad.norm()) for p in pipeline.model.parameters() if p.grad is not None))
        )
    )
    ids = torch.randint(0, 258, (4, 20))
    pipeline.train_step({"input_ids": ids, "labels": ids})
    assert norms == [pytest.approx(0.5, rel=1e-4)]


def test_pipeline_leaves_padding_out(pipeline: AdvancedTrainingPipeline) -> None:
    batch = pipeline.tokenizer.tokenize_text(["the dog", "a fox"])
    batch["labels"] = batch["input_ids"].clone()
    other = {**batch, "labels": batch["labels"].masked_fill(batch["attention_mask"] == 0, 7)}
    assert pipeline.evaluate_step(batch) == pipeline.evaluate_step(other)


def test_pipeline_grows_the_vocabulary() -> None:
    config = small(vocab_size=100)
    model = AdvancedTransformerModel(config)
    with pytest.warns(UserWarning, match="grows to 258"):
        AdvancedTrainingPipeline(model, config, AdvancedTokenizer("byte", max_length=20))
    assert model(torch.tensor([[257, 3]]))["logits"].shape == (1, 2, 258)


def test_pipeline_generates(pipeline: AdvancedTrainingPipeline, binds: Binds) -> None:
    binds(
        pipeline.generate_text,
        ("prompt", "max_length", "temperature"),
        prompt="The",
        max_length=100,
        temperature=0.8,
        top_k=50,
        top_p=0.9,
    )
    text = pipeline.generate_text("The", max_length=30, temperature=0.8, top_k=50, top_p=0.9)
    assert text.startswith("The")
    assert len(text.encode()) <= 3 * 30  # a byte that is no character is shown as one
    greedy = {pipeline.generate_text("The", max_length=12, temperature=0.0) for _ in range(2)}
    assert len(greedy) == 1


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_recipes_of_the_document(tmp_path: Path) -> None:
    model, ids = AdvancedTransformerModel(small(gradient_checkpointing=False)), torch.randint(50, (2, 9))

    def init_weights(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, mean=0.0, std=0.02)

    model.apply(init_weights)
    assert abs(float(model.embedding.weight.detach().std()) - 0.02) < 0.003
    model.eval()
    scripted = torch.jit.script(model)
    torch.testing.assert_close(scripted(ids)["logits"], model(ids)["logits"])
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = AdvancedTransformerModel(small()).eval()
    other.load_state_dict(torch.load(tmp_path / "model.pt"))
    torch.testing.assert_close(other(ids)["logits"], model(ids)["logits"])
