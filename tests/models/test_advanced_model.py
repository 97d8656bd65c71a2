"""The documented language model: causal, with a key cache, prompts, and a loss over the tokens that count."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seo_kernels import _library
from seo_kernels.models import AdvancedTransformerModel, ModelConfig
from seo_kernels.models.advanced_config import POSITION_ENCODINGS
from seo_kernels.nn.typed_attention import ATTENTION_TYPES, attention_pattern

pytestmark = pytest.mark.usefixtures("one_thread")
VOCABULARY, WIDTH, BATCH, LENGTH, REACH = 30, 16, 2, 13, 3
every_kind = pytest.mark.parametrize(
    ("attention_type", "positions"), list(product(ATTENTION_TYPES, POSITION_ENCODINGS))
)
CONFIG = ModelConfig(
    vocab_size=VOCABULARY,
    d_model=WIDTH,
    n_layers=2,
    n_heads=2,
    max_seq_len=80,
    max_relative_position=REACH,
    dropout=0.0,
    label_smoothing=0.0,
)


def made(**options: Any) -> AdvancedTransformerModel:
    """A model whose weights are all at work: biases, learned positions and relative tables too."""
    model = AdvancedTransformerModel(replace(CONFIG, **options)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def tokens(length: int = LENGTH, batch: int = BATCH) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length))


@every_kind
def test_a_later_token_changes_no_earlier_logits(attention_type: str, positions: str) -> None:
    model, ids = made(attention_type=attention_type, position_encoding=positions), tokens()
    other = ids.clone()
    other[:, 8] = (other[:, 8] + 1) % VOCABULARY
    before, after = model(ids)["logits"], model(other)["logits"]
    torch.testing.assert_close(before[:, :8], after[:, :8], rtol=0, atol=1e-12)
    assert (before[:, 8] - after[:, 8]).abs().amax(1).min() > 1e-3
    assert (before[:, 9] - after[:, 9]).abs().amax(1).min() > 1e-6  # and the next one sees it


@every_kind
def test_the_cache_gives_what_the_whole_sequence_gives(attention_type: str, positions: str) -> None:
    """In chunks of any size, past the cache's first capacity."""
    model, ids = made(attention_type=attention_type, position_encoding=positions), tokens(75)
    whole = model(ids)["logits"]
    for chunks in ((75,), (1, 1, 1, 60, 7, 5), (63, 1, 1, 10)):
        cache, end = model.new_cache(), 0
        for chunk in chunks:
            end += chunk
            logits = model.decode(ids[:, end - chunk : end], cache)
            torch.testing.assert_close(logits, whole[:, end - 1], rtol=0, atol=1e-10)
            assert cache.length == end
        assert not logits.requires_grad


def test_the_order_of_tokens_counts_by_each_encoding() -> None:
    """Without positions attention over the same set of earlier tokens would not see their order."""
    first = torch.tensor([[3, 7, 11, 5]])
    for positions in POSITION_ENCODINGS:
        model = made(attention_type="standard", position_encoding=positions)
        out = [model(ids)["logits"][0, -1] for ids in (first, first[:, [1, 0, 2, 3]])]
        assert (out[0] - out[1]).abs().max() > 1e-3, positions


@pytest.mark.parametrize(("encoding", "scale"), [("sinusoidal", WIDTH**0.5), ("learnable", 1.0)])
def test_words_are_not_drowned_by_added_sinusoids(encoding: str, scale: float) -> None:
    model = made(position_encoding=encoding)
    words = model.embedding(tokens())
    placed = model._placed(words, 0) - model._placed(torch.zeros_like(words), 0)
    torch.testing.assert_close(placed, words * scale)


def test_rope_sees_distances_only() -> None:
    """Prompts in front that nobody sees shift every position: the logits stay."""
    model = made(use_rope=True)
    embeddings = model.embedding(tokens())
    mask = torch.ones(BATCH, 5 + LENGTH)
    mask[:, :5] = 0
    shifted = model.forward_with_embeddings(F.pad(embeddings, (0, 0, 5, 0)), mask)["logits"][:, 5:]
    plain = model.forward_with_embeddings(embeddings)["logits"]
    torch.testing.assert_close(shifted, plain, rtol=0, atol=1e-5)  # the tables are float32
    other = made(position_encoding="learnable", attention_type="standard")
    moved = other.forward_with_embeddings(F.pad(embeddings, (0, 0, 5, 0)), mask)["logits"][:, 5:]
    assert not torch.allclose(moved, other.forward_with_embeddings(embeddings)["logits"], atol=1e-3)


@pytest.mark.parametrize("attention_type", ["local", "sparse"])
def test_against_the_dense_mask(attention_type: str) -> None:
    model, ids = made(attention_type=attention_type), tokens(25)
    dense = made(attention_type="standard")
    dense.load_state_dict(model.state_dict())
    seen = attention_pattern(attention_type, REACH).dense_mask(25, 25).expand(BATCH, -1, -1)
    expected = dense(ids, seen.float())["logits"]
    torch.testing.assert_close(model(ids)["logits"], expected, rtol=0, atol=1e-10)
    assert not torch.allclose(dense(ids)["logits"], expected, atol=1e-3)


def next_token_loss(logits: Tensor, ids: Tensor, counted: Tensor, **options: Any) -> Tensor:
    """The loss in plain torch: logits without the last position, labels without the first."""
    targets = ids.masked_fill(~counted, -100)[:, 1:]
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), **options)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss(smoothing: float) -> None:
    model, ids = made(label_smoothing=smoothing), tokens()
    outputs = model(ids, labels=ids)
    counted = torch.ones(BATCH, LENGTH, dtype=torch.bool)
    expected = next_token_loss(outputs["logits"], ids, counted, label_smoothing=smoothing)
    torch.testing.assert_close(outputs["loss"], expected)
    counted[0, 4:6] = False
    left_out = model(ids, torch.ones(BATCH, LENGTH), ids.masked_fill(~counted, -100))
    expected = next_token_loss(left_out["logits"], ids, counted, label_smoothing=smoothing)
    torch.testing.assert_close(left_out["loss"], expected)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, None), (None, 1.5), (2.0, 0.0), (0.5, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_focal_loss(alpha: float | None, gamma: float | None, smoothing: float) -> None:
    options = {"focal_loss_alpha": alpha, "focal_loss_gamma": gamma, "label_smoothing": smoothing}
    model, ids = made(**options), tokens()
    outputs = model(ids, labels=ids)
    logs = outputs["logits"][:, :-1].log_softmax(-1)
    target = logs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    power = 2.0 if gamma is None else gamma
    losses = (1 - smoothing) * (1 - target.exp()) ** power * -target - smoothing * logs.mean(-1)
    expected = (1.0 if alpha is None else alpha) * losses.mean()
    torch.testing.assert_close(outputs["loss"], expected)


@pytest.mark.parametrize("mask", ["left", "right", "pairs"])
def test_padding_has_no_part_in_the_loss(mask: str) -> None:
    """A row alone gives what it gives among padding, and what lies in the padding changes nothing."""
    model, ids, more = made(use_rope=True, label_smoothing=0.1), tokens(6, 1), tokens(LENGTH - 6, 1)
    alone = model(ids, labels=ids)["loss"]
    parts, present = ([more, ids], [0, 1]) if mask == "left" else ([ids, more], [1, 0])
    padded = torch.cat(parts, 1)
    attended = torch.cat([torch.full_like(x, p) for x, p in zip(parts, present, strict=True)], 1)
    given = attended[:, None] * attended[:, :, None] if mask == "pairs" else attended
    losses = []
    for content in (padded, (padded + 1 - attended) % VOCABULARY):
        outputs = model(content, given, content)
        assert outputs["logits"].isfinite().all()
        losses.append(outputs["loss"])
    torch.testing.assert_close(losses[0], alone, rtol=0, atol=1e-6)
    assert torch.equal(losses[0], losses[1])


def test_nothing_to_learn_from() -> None:
    """A batch of padding, or of single tokens: a loss of zero, and gradients of zero."""
    model, ids = made(), tokens()
    for outputs in (model(ids, torch.zeros(BATCH, LENGTH), ids), model(ids[:, :1], labels=ids[:, :1])):
        assert outputs["loss"].item() == 0.0
        assert outputs["logits"].isfinite().all()
        outputs["loss"].backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_prompts_in_front() -> None:
    model, ids = made(label_smoothing=0.1), tokens()
    prompts = torch.randn(BATCH, 4, WIDTH, dtype=torch.float64, requires_grad=True)
    embeddings = torch.cat((prompts, model.embedding(ids)), 1)
    mask = torch.ones(BATCH, LENGTH)
    mask[1, 9:] = 0
    outputs = model.forward_with_embeddings(embeddings, mask, ids)
    assert outputs["logits"].shape == (BATCH, 4 + LENGTH, VOCABULARY)

    everywhere = F.pad(ids, (4, 0), value=-100)
    whole = model.forward_with_embeddings(embeddings, F.pad(mask, (4, 0), value=1), everywhere)
    pairs = model.forward_with_embeddings(embeddings, mask[:, None].expand(-1, LENGTH, -1), ids)
    for other in (whole, pairs):
        torch.testing.assert_close(other["loss"], outputs["loss"])
        torch.testing.assert_close(other["logits"][0], outputs["logits"][0])
    counted = torch.cat((torch.zeros(BATCH, 4), mask), 1).bool()  # the last prompt gives the first token
    expected = next_token_loss(
        outputs["logits"], everywhere.clamp(min=0), counted, label_smoothing=0.1, ignore_index=-100
    )
    torch.testing.assert_close(outputs["loss"], expected)
    (gradient,) = torch.autograd.grad(outputs["loss"], prompts)
    assert (gradient.abs().amax(-1) > 0).all()
    labelled = model.forward_with_embeddings(embeddings, None, ids)  # without a mask, too
    assert labelled["loss"].isfinite()


def test_embeddings_in_place_of_ids() -> None:
    model, ids = made(), tokens()
    torch.testing.assert_close(
        model.forward_with_embeddings(model.embedding(ids))["logits"], model(ids)["logits"]
    )
    embeddings = model.embedding(ids).detach().float()
    mask = torch.ones(BATCH, LENGTH)
    mask[:, 7:] = 0
    single = made().float()
    clean = single.forward_with_embeddings(embeddings, mask)["logits"]
    embeddings[:, 7:] = float("nan")
    assert torch.equal(single.forward_with_embeddings(embeddings, mask)["logits"], clean)


def test_the_output_shares_the_embeddings_weight() -> None:
    model = AdvancedTransformerModel(CONFIG)
    matrices = [p for p in model.parameters() if p.shape == (VOCABULARY, WIDTH)]
    assert len(matrices) == 1
    hidden = {}
    model.norm.register_forward_hook(lambda module, args, out: hidden.update(out=out))
    logits = model(tokens())["logits"]
    torch.testing.assert_close(logits, hidden["out"] @ matrices[0].T, rtol=1e-4, atol=1e-5)


def test_more_tokens() -> None:
    config = replace(CONFIG, gradient_checkpointing=True)
    model = AdvancedTransformerModel(config).eval()
    ids = tokens()
    before = model(ids)["logits"]
    model.resize_token_embeddings(VOCABULARY + 5)
    assert config.vocab_size == VOCABULARY  # the caller's own
    assert model.config == replace(config, vocab_size=VOCABULARY + 5)
    assert model.arguments == {"config": model.config}
    assert model.embedding.weight.requires_grad
    after = model(ids + 5)["logits"]
    assert after.shape == (BATCH, LENGTH, VOCABULARY + 5)
    torch.testing.assert_close(model(ids)["logits"][..., :VOCABULARY], before)
    assert model.decode(ids, model.new_cache()).shape == (BATCH, VOCABULARY + 5)
    model.resize_token_embeddings(VOCABULARY - 5)
    torch.testing.assert_close(model(ids % 25)["logits"].shape, torch.Size([BATCH, LENGTH, 25]))


def test_the_configuration_is_the_models_own() -> None:
    config = replace(CONFIG)
    model = AdvancedTransformerModel(config)
    config.dropout = 0.5
    assert model.config == CONFIG


def test_checkpointing_by_configuration() -> None:
    assert AdvancedTransformerModel(
        replace(CONFIG, gradient_checkpointing=True)
    ).layers.gradient_checkpointing
    assert not AdvancedTransformerModel(CONFIG).layers.gradient_checkpointing


@pytest.mark.parametrize("method", ["xavier", "kaiming", "normal"])
def test_initialization_by_configuration(method: str) -> None:
    config = replace(CONFIG, d_model=64, initialization_method=method)
    weight = AdvancedTransformerModel(config).layers.layers[0].attention.w_q.weight
    deviation = {"xavier": (1 / 64) ** 0.5, "kaiming": (2 / 64) ** 0.5, "normal": 0.02}[method]
    assert abs(weight.std().item() / deviation - 1) < 0.1


def test_loss_under_autocast_and_in_bfloat16() -> None:
    model, ids = AdvancedTransformerModel(CONFIG), tokens()
    expected = model(ids, labels=ids)["loss"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(ids, labels=ids)
        cache = model.new_cache()
        logits = model.decode(ids, cache)
        logits = model.decode(logits.argmax(1, keepdim=True), cache)
    assert outputs["logits"].dtype == logits.dtype == torch.bfloat16
    for loss in (outputs["loss"], model.bfloat16()(ids, labels=ids)["loss"]):
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("options", [{}, {"use_rope": True, "attention_type": "sparse"}])
def test_compiled_training_step(options: dict[str, Any]) -> None:
    model, ids = AdvancedTransformerModel(replace(CONFIG, **options)), tokens()
    mask = torch.ones(BATCH, LENGTH)
    mask[0, 9:] = 0
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    found, expected = compiled(ids, mask, ids), model(ids, mask, ids)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    gradients = [torch.autograd.grad(out["loss"], list(model.parameters())) for out in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rope": True, "focal_loss_gamma": 2.0},
        {"attention_type": "local", "gradient_checkpointing": True},
    ],
)
def test_scripted(options: dict[str, Any], tmp_path: Path) -> None:
    model, ids = AdvancedTransformerModel(replace(CONFIG, **options)).eval(), tokens()
    torch.jit.script(model).save(tmp_path / "model.pt")
    scripted = torch.jit.load(tmp_path / "model.pt")
    mask = torch.ones(BATCH, LENGTH)
    mask[0, 9:] = 0
    for call in ((ids,), (ids, mask), (ids, None, ids), (ids, mask[:, None].expand(-1, LENGTH, -1), ids)):
        found, expected = scripted(*call), model(*call)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value)
    scripted.train()
    scripted(ids, mask, ids)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in scripted.parameters())
    with pytest.raises(torch.jit.Error, match="attention_mask has shape"):
        scripted(ids, torch.ones(2, 2, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda m: m(tokens() + VOCABULARY),
            ValueError,
            "input_ids holds token ids from .* expected 0 to 29",
        ),
        (lambda m: m(tokens()[0]), ValueError, r"input_ids has shape \(13\), expected \(batch, length\)"),
        (lambda m: m(tokens().float()), TypeError, "input_ids has dtype torch.float32"),
        (lambda m: m(tokens(81)), ValueError, "is 81 tokens long.* at most max_seq_len=80"),
        (lambda m: m(tokens(), torch.ones(BATCH, 14)), ValueError, r"attention_mask has shape \(2, 14\)"),
        (lambda m: m(tokens(), torch.ones(LENGTH)), ValueError, r"attention_mask has shape \(13\)"),
        (
            lambda m: m(tokens(), torch.full((BATCH, LENGTH), -1e9)),
            ValueError,
            "attention_mask holds -1000000",
        ),
        (lambda m: m(tokens(), labels=tokens(14)), ValueError, r"labels has shape \(2, 14\), expected"),
        (lambda m: m(tokens(), labels=tokens().float()), TypeError, "labels has dtype torch.float32"),
        (lambda m: m(tokens(), labels=tokens() + VOCABULARY), ValueError, "target"),
        (lambda m: m.forward_with_embeddings(torch.randn(2, 5, 3)), ValueError, "embeddings has shape"),
        (lambda m: m.forward_with_embeddings(tokens()), TypeError, "embeddings has dtype torch.int64"),
        (lambda m: m.decode(tokens(), None), TypeError, "cache is a NoneType, expected one that new_cache"),
        (lambda m: m.decode(tokens(81), m.new_cache()), ValueError, "is 81 tokens long"),
        (
            lambda m: m.decode(tokens(), AdvancedTransformerModel(replace(CONFIG, n_layers=1)).new_cache()),
            ValueError,
            "cache is of 1 layers",
        ),
        (lambda m: m.resize_token_embeddings(0), ValueError, "vocab_size is 0"),
        (
            lambda m: AdvancedTransformerModel({"d_model": 16}),
            TypeError,
            "config is a dict, expected a ModelConfig",
        ),
    ],
)
def test_errors(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(AdvancedTransformerModel(CONFIG).eval())


def test_a_failed_step_leaves_the_cache_as_it_was() -> None:
    model, ids = made(), tokens(70)
    cache = model.new_cache()
    model.decode(ids[:, :69], cache)
    for wrong in (tokens(12), tokens(1, batch=3), tokens(1) + VOCABULARY):
        with pytest.raises(ValueError, match=r"81 tokens long|batch is of 3|token ids from"):
            model.decode(wrong, cache)
        assert cache.length == 69
    torch.testing.assert_close(model.decode(ids[:, 69:], cache), model(ids)["logits"][:, -1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"vocab_size": 0}, ValueError, "vocab_size is 0"),
        ({"d_model": 20, "n_heads": 8}, ValueError, "d_model is 20 for n_heads=8"),
        ({"d_ff": -1}, ValueError, "d_ff is -1"),
        ({"n_layers": 1.5}, TypeError, "n_layers is a float"),
        ({"max_seq_len": "512"}, TypeError, "max_seq_len is a str"),
        ({"dropout": 1.0}, ValueError, "dropout is 1.0"),
        ({"activation": "gloo"}, ValueError, "activation is a str .'gloo'., expected one of gelu"),
        ({"attention_type": "dense"}, ValueError, "attention_type is 'dense', expected one of standard"),
        ({"position_encoding": "alibi"}, ValueError, "position_encoding is 'alibi', expected one of sinus"),
        ({"position_encoding": "learnable", "use_rope": True}, ValueError, "with use_rope=True"),
        ({"d_model": 24, "n_heads": 8, "use_rope": True}, ValueError, "even width of each head"),
        ({"attention_type": "sparse", "max_relative_position": 0}, ValueError, "max_relative_position is 0"),
        ({"initialization_method": "zeros"}, ValueError, "initialization_method is 'zeros', expected one of"),
        ({"use_relative_pos": 1}, TypeError, "use_relative_pos is an int"),
        ({"gradient_checkpointing": None}, TypeError, "gradient_checkpointing is a NoneType"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate is 0.0"),
        ({"weight_decay": -0.1}, ValueError, "weight_decay is -0.1"),
        ({"warmup_steps": -1}, ValueError, "warmup_steps is -1"),
        ({"max_grad_norm": float("nan")}, ValueError, "max_grad_norm is nan"),
        ({"label_smoothing": 1.5}, ValueError, "label_smoothing is 1.5"),
        ({"focal_loss_gamma": -1.0}, ValueError, "focal_loss_gamma is -1.0"),
        ({"focal_loss_alpha": 0.0}, ValueError, "focal_loss_alpha is 0.0"),
    ],
)
def test_configurations_that_are_none(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ModelConfig(**options)


def test_what_the_configuration_comes_to() -> None:
    assert ModelConfig().attention == "relative"
    assert ModelConfig(use_relative_pos=False).attention == "standard"
    rope = ModelConfig(use_rope=True)  # wins over use_relative_pos
    assert (rope.attention, rope.positions) == ("standard", "rope")
    assert ModelConfig(position_encoding="rope").attention == "standard"
    assert ModelConfig(attention_type="local", use_rope=True).attention == "local"
    assert ModelConfig(position_encoding="learnable").positions == "learnable"
    assert (ModelConfig().alpha, ModelConfig().gamma) == (1.0, 0.0)
    assert (ModelConfig(focal_loss_alpha=0.5).alpha, ModelConfig(focal_loss_alpha=0.5).gamma) == (0.5, 2.0)
    assert ModelConfig(focal_loss_gamma=1.0).gamma == 1.0
