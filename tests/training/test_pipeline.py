"""The pipeline around the documented model, a user's own, and one of transformers."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training.tokenizers_made_here import word_tokenizer

from seo_kernels.models import AdvancedTransformerModel, ModelConfig
from seo_kernels.training import AdvancedTokenizer, AdvancedTrainingPipeline

CONFIG = ModelConfig(
    vocab_size=258,
    d_model=16,
    n_layers=2,
    n_heads=2,
    max_seq_len=32,
    dropout=0.1,
    learning_rate=1e-2,
    warmup_steps=2,
    mixed_precision=False,
    label_smoothing=0.1,
)
TOKENIZER = AdvancedTokenizer("byte", max_length=16)
TEXTS = ["a fox", "jumps over", "the dog"]


def batch(**changes: Any) -> dict[str, Tensor]:
    coded = TOKENIZER.tokenize_text(TEXTS)
    return {**coded, "labels": coded["input_ids"].clone(), **changes}


def made(**changes: Any) -> AdvancedTrainingPipeline:
    torch.manual_seed(0)
    config = replace(CONFIG, **changes)
    return AdvancedTrainingPipeline(AdvancedTransformerModel(config), config, TOKENIZER, 20)


def named(pipeline: AdvancedTrainingPipeline) -> list[tuple[str, nn.Parameter]]:
    return list(pipeline.model.named_parameters())


def copied(module: nn.Module) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in module.state_dict().values()]


def test_a_step_is_what_it_says() -> None:
    pipeline, twin = made(dropout=0.0, max_grad_norm=0.5), made(dropout=0.0)
    decay = {name: 0.01 if name.endswith("weight") and p.dim() > 1 else 0.0 for name, p in named(twin)}
    groups = [{"params": [p], "weight_decay": decay[name]} for name, p in named(twin)]
    plain = torch.optim.AdamW(groups, lr=1e-2, foreach=False)
    for rate in (0.005, 0.01, 0.01):
        metrics = pipeline.train_step(batch())
        assert {type(value) for value in metrics.values()} == {float}
        for group in plain.param_groups:
            group["lr"] = rate
        plain.zero_grad()
        loss = twin.model(**batch())["loss"]
        loss.backward()
        norm = nn.utils.clip_grad_norm_(twin.model.parameters(), 0.5)
        plain.step()
        expected = {"loss": loss.item(), "learning_rate": rate, "grad_norm": float(norm), "skipped": 0.0}
        assert metrics == pytest.approx(expected, rel=1e-4)
        assert metrics["grad_norm"] > 0.5  # else nothing was clipped
    # the bias of keys moves all scores of a query alike: its gradient is noise around 0
    found, expected = ([p for name, p in named(each) if "w_k.bias" not in name] for each in (pipeline, twin))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mixed", [False, True])
def test_it_learns_a_batch(mixed: bool) -> None:
    pipeline = made(mixed_precision=mixed, label_smoothing=0.0, dropout=0.0, learning_rate=3e-2)
    losses = [pipeline.train_step(batch())["loss"] for _ in range(20)]
    assert losses[-1] < 0.5 * losses[0]
    assert pipeline.train_step(batch())["learning_rate"] == 0.0
    assert pipeline.model(torch.zeros(1, 1).long())["logits"].dtype == torch.float32


def test_mixed_precision_computes_in_bfloat16() -> None:
    seen = []
    pipeline = made(mixed_precision=True)
    norm = pipeline.model.get_submodule("layers.layers.0.attention.w_q")
    norm.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    pipeline.train_step(batch())
    pipeline.evaluate_step(batch())
    assert seen == [torch.bfloat16] * 2


def test_scaled_losses_in_float16() -> None:
    """What serves GPUs without bfloat16, here on the CPU: overflow lowers the scale, then it learns."""
    pipeline = made(mixed_precision=True, dropout=0.0)
    pipeline.precision = torch.float16
    pipeline.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = copied(pipeline.model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert pipeline.train_step(batch())["skipped"] == 1.0
    assert all(map(torch.equal, before, copied(pipeline.model)))
    assert pipeline.scaler.get_scale() == 2.0**39
    pipeline.scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
    found = pipeline.train_step(batch())
    assert found["grad_norm"] == pytest.approx(made(dropout=0.0).train_step(batch())["grad_norm"], rel=0.02)
    assert found["learning_rate"] == 0.005


def test_evaluation_changes_nothing() -> None:
    pipeline = made(dropout=0.5)
    pipeline.train_step(batch())
    pipeline.model.train()
    pipeline.model.get_submodule("norm").eval()
    before, state = copied(pipeline.model), torch.get_rng_state()
    modes = [module.training for module in pipeline.model.modules()]
    gradients = [p.grad.clone() for p in pipeline.model.parameters() if p.grad is not None]
    one, other = pipeline.evaluate_step(batch()), pipeline.evaluate_step(batch())
    assert one == other
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, before, copied(pipeline.model)))
    assert [module.training for module in pipeline.model.modules()] == modes
    after = [p.grad for p in pipeline.model.parameters() if p.grad is not None]
    assert all(map(torch.equal, gradients, after))


def test_random_numbers_drawn_while_evaluating_are_drawn_again() -> None:
    class Noisy(Classifier):
        def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
            outputs = super().forward(input_ids, labels)
            return {**outputs, "loss": outputs["loss"] + torch.rand(())}

    pipeline = AdvancedTrainingPipeline(Noisy(), CONFIG, TOKENIZER)
    state = torch.get_rng_state()
    pipeline.evaluate_step(rows_batch())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("changes", [{"label_smoothing": 0.0}, {}, {"focal_loss_gamma": 2.0}])
def test_perplexity_is_of_the_next_token_alone(changes: dict[str, Any]) -> None:
    pipeline = made(**changes)
    rows = batch()
    found = pipeline.evaluate_step(rows)
    logits = pipeline.model.eval()(rows["input_ids"], rows["attention_mask"])["logits"]
    counted = rows["attention_mask"][:, 1:].bool()
    nats = F.cross_entropy(logits[:, :-1][counted], rows["labels"][:, 1:][counted])
    assert found["perplexity"] == pytest.approx(math.exp(nats.item()), rel=1e-4)
    if changes == {"label_smoothing": 0.0}:
        assert found["perplexity"] == pytest.approx(math.exp(found["loss"]), rel=1e-4)


def test_padding_is_in_no_loss() -> None:
    pipeline = made()
    rows, other = batch(), batch()
    other["input_ids"] = torch.where(other["attention_mask"] == 0, 65, other["input_ids"])
    other["labels"] = torch.where(other["attention_mask"] == 0, 66, other["labels"])
    assert pipeline.evaluate_step(rows) == pytest.approx(pipeline.evaluate_step(other))


class Classifier(nn.Module):
    """A user's own: one class for each row, from a bag of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.EmbeddingBag(258, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.table(input_ids))
        return {"logits": logits, "loss": F.cross_entropy(logits, labels)}


def rows_batch() -> dict[str, Tensor]:
    return {"input_ids": batch()["input_ids"], "labels": torch.arange(3)}


def test_a_users_own_model_trains() -> None:
    pipeline = AdvancedTrainingPipeline(Classifier(), replace(CONFIG, learning_rate=0.2), TOKENIZER)
    before = pipeline.evaluate_step(rows_batch())
    assert before["perplexity"] == pytest.approx(math.exp(before["loss"]))
    for _ in range(30):
        pipeline.train_step(rows_batch())
    assert pipeline.evaluate_step(rows_batch())["loss"] < 0.1 * before["loss"]


def test_a_language_model_of_transformers_trains_and_writes() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = transformers.GPT2Config(
        vocab_size=100, n_embd=16, n_layer=1, n_head=2, eos_token_id=257, bos_token_id=257
    )
    with pytest.warns(UserWarning, match="258 tokens, the model's embedding 100 rows"):
        pipeline = AdvancedTrainingPipeline(transformers.GPT2LMHeadModel(sizes), CONFIG, TOKENIZER, 40)
    before = pipeline.evaluate_step(batch())["loss"]
    for _ in range(10):
        pipeline.train_step(batch())
    assert pipeline.evaluate_step(batch())["loss"] < 0.8 * before
    text = pipeline.generate_text("fox", max_length=9, temperature=0.0)
    assert text.startswith("fox")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_is_reported_and_updates_nothing(what: str) -> None:
    class Breaking(Classifier):
        def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
            outputs = super().forward(input_ids, labels)
            bad = outputs["loss"] * math.nan if what == "loss" else (outputs["loss"] * 0).sqrt()
            return {**outputs, "loss": bad}

    pipeline = AdvancedTrainingPipeline(Breaking(), CONFIG, TOKENIZER)
    before = copied(pipeline.model)
    with pytest.warns(RuntimeWarning, match=r"(the loss|the gradient's norm) is nan.*: this batch updates"):
        metrics = pipeline.train_step(rows_batch())
    assert metrics["skipped"] == 1.0
    assert not math.isfinite(metrics["loss" if what == "loss" else "grad_norm"])
    assert all(map(torch.equal, before, copied(pipeline.model)))
    assert metrics["learning_rate"] == pipeline.scheduler.get_last_lr()[0] == CONFIG.learning_rate / 2


def test_the_embedding_grows_before_the_optimizer_is_made(tmp_path: Path) -> None:
    config = replace(CONFIG, vocab_size=5)
    model = AdvancedTransformerModel(config)
    rows = model.embedding.weight.detach().clone()
    tokenizer = AdvancedTokenizer(word_tokenizer(tmp_path, eos_token="</s>"), max_length=6)
    with pytest.warns(UserWarning, match="8 tokens, the model's embedding 5 rows") as warned:
        pipeline = AdvancedTrainingPipeline(model, config, tokenizer)
    assert len(warned) == 1
    assert (config.vocab_size, model.config.vocab_size) == (5, 8)
    assert torch.equal(model.embedding.weight[:5], rows)
    known = {id(p) for group in pipeline.optimizer.param_groups for p in group["params"]}
    assert known == {id(p) for p in model.parameters()}
    coded = tokenizer.tokenize_text(["hello quick world", "the fox"])
    pipeline.train_step({**coded, "labels": coded["input_ids"].clone()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        AdvancedTrainingPipeline(model, config, tokenizer)


def test_text() -> None:
    pipeline = made(dropout=0.5)
    pipeline.model.train()
    texts = {pipeline.generate_text("fox", max_length=12, top_k=50, top_p=0.9, seed=n) for n in (1, 1, 2)}
    assert len(texts) == 2
    assert all(text.startswith("fox") for text in texts)
    assert pipeline.model.training
    greedy = pipeline.generate_text("fox", max_length=7, temperature=0.0)
    assert greedy == pipeline.generate_text("fox", max_length=7, temperature=0.0)
    # the likeliest alone, at a temperature that draws among many
    assert pipeline.generate_text("fox", max_length=7, temperature=50.0, top_k=1) == greedy
    ids = torch.tensor([list(b"fox")])
    for _ in range(4):  # without a cache
        ids = torch.cat([ids, pipeline.model.eval()(ids)["logits"][:, -1:].argmax(-1)], 1)
    assert TOKENIZER.decode_tokens(ids) == [greedy]


def test_only_tokens_that_the_tokenizer_knows_are_drawn() -> None:
    pipeline = made(vocab_size=3000)  # a random model of that many would soon draw another
    assert pipeline.generate_text("fox", max_length=32, temperature=2.0).startswith("fox")


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ([1, 2], TypeError, "batch is a list, expected a mapping with input_ids and labels"),
        ({}, ValueError, "batch has the keys none, expected input_ids too"),
        (TOKENIZER.tokenize_text("a"), ValueError, "keys input_ids, attention_mask, expected labels too"),
        (batch(labels=[1]), TypeError, r"batch\['labels'\] is a list"),
        (batch(input_ids=torch.zeros(3, 16)), TypeError, "has dtype torch.float32, expected token ids"),
        (batch(input_ids=torch.zeros(16).long()), ValueError, r"batch\['input_ids'\] has shape \(16,\)"),
        (batch(labels=torch.zeros(3, 15).long()), ValueError, r"batch\['labels'\] has shape \(3, 15\), exp"),
        (batch(labels=torch.zeros(3, 16)), TypeError, "labels has dtype torch.float32"),
        (batch(attention_mask=torch.ones(2, 16)), ValueError, r"batch\['attention_mask'\] has shape \(2, 16"),
        (batch(attention_mask=torch.full((3, 16), 0.5)), ValueError, "attention_mask holds 0.5"),
        (batch(weights=torch.ones(2)), ValueError, r"batch\['weights'\] has shape \(2,\), expected \(B=3, "),
        (batch(input_ids=torch.full((3, 16), 258)), ValueError, "expected 0 to 257"),
    ],
)
@pytest.mark.parametrize("step", ["train_step", "evaluate_step"])
def test_batches_that_do_not_fit(given: Any, error: type[Exception], message: str, step: str) -> None:
    with pytest.raises(error, match=message):
        getattr(made(), step)(given)


def test_prompts_that_do_not_fit() -> None:
    pipeline = made()
    for arguments, message in (
        (("",), "text is empty"),
        (("a fox", 5), "the prompt has 5 tokens, expected fewer than max_length=5"),
        (("a fox", 33), "max_length is 33, expected at most the model's max_seq_len=32"),
        (("a fox", 9, -1.0), "temperature is -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            pipeline.generate_text(*arguments)


def test_settings_and_models_that_do_not_fit() -> None:
    class Silent(nn.Module):
        def __init__(self, outputs: Any) -> None:
            super().__init__()
            self.outputs, self.weight = outputs, nn.Parameter(torch.zeros(2))

        def forward(self, input_ids: Tensor, labels: Tensor) -> Any:
            return self.outputs

    for outputs, message in (
        (torch.zeros(()), "the model gave a Tensor, expected a mapping with 'loss'"),
        ({"logits": torch.zeros(2)}, "the model gave the keys logits"),
        ({"loss": torch.zeros(2)}, r"the model's loss has shape \(2,\)"),
        ({"loss": 1.0}, r"the model's loss is a float \(1.0\)"),
    ):
        with pytest.raises(TypeError, match=message):
            AdvancedTrainingPipeline(Silent(outputs), CONFIG, TOKENIZER).train_step(rows_batch())
    with pytest.raises(TypeError, match="model is a str"):
        AdvancedTrainingPipeline("gpt2", CONFIG, TOKENIZER)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="config is a dict without 'max_grad_norm'"):
        AdvancedTrainingPipeline(Classifier(), {}, TOKENIZER)
    with pytest.raises(ValueError, match="warmup_steps is 2, expected fewer than num_training_steps=2"):
        AdvancedTrainingPipeline(Classifier(), CONFIG, TOKENIZER, 2)
