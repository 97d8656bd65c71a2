"""sk.lora.apply: which layers, held against PEFT on transformers models; what it reports and refuses."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from lora.models import (
    MODELS,
    NAMES,
    REGULAR,
    adapted,
    assert_untouched,
    make,
    our_paths,
    peft_model,
    peft_paths,
    randomise,
    snapshot,
    tokens,
)
from torch import nn

import seo_kernels as sk

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.mark.parametrize(
    "kind", ["names", "paths", "regular", "all-linear", "ALL-LINEAR", "excluded", "excluded regular"]
)
@pytest.mark.parametrize("name", MODELS)
def test_the_layers_that_peft_adapts(name: str, kind: str) -> None:
    model = make(name)
    options: dict[str, Any] = {"target_modules": NAMES[name]}
    if kind == "paths":
        options["target_modules"] = [
            path for path, _ in model.named_modules() if path.endswith(NAMES[name][0])
        ][:1]
    elif kind == "regular":
        options["target_modules"] = REGULAR[name]
    elif kind.lower() == "all-linear":
        options["target_modules"] = kind
    elif kind == "excluded":
        options |= {"target_modules": "all-linear", "exclude_modules": NAMES[name]}
    elif kind == "excluded regular":
        options["exclude_modules"] = r".*\.1\..*"
    expected = peft_paths(peft_model(model, r=3, **options))
    ours = copy.deepcopy(model)
    report = sk.lora.apply(ours, rank=3, alpha=5.0, **options)
    assert our_paths(ours) == expected == [layer.path for layer in report.layers]
    assert len(report) == len(expected) > 0
    trained = {n for n, p in ours.named_parameters() if p.requires_grad}
    assert trained == {n for n, _ in ours.named_parameters() if "lora" in n}
    assert report.trainable_parameters == sum(p.numel() for p in ours.parameters() if p.requires_grad)
    assert model.state_dict().keys() < ours.state_dict().keys()
    ids = tokens()
    torch.testing.assert_close(ours(ids).logits, model(ids).logits)


@pytest.mark.parametrize("variant", [{}, {"use_rslora": True}, {"use_dora": True}], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_is_pefts(name: str, variant: dict[str, Any]) -> None:
    model = make(name).double()
    ours = adapted(model, target_modules=NAMES[name], **variant)
    theirs = peft_model(model, r=3, lora_alpha=5, target_modules=NAMES[name], **variant)
    parameters = {}
    for path in our_paths(ours):
        adapter, twin = (
            ours.get_submodule(path).adapters["default"],
            theirs.base_model.model.get_submodule(path),
        )
        parameters[f"{path}.a"] = adapter.lora_a, twin.lora_A["default"].weight
        parameters[f"{path}.b"] = adapter.lora_b, twin.lora_B["default"].weight
        if variant.get("use_dora"):
            parameters[f"{path}.m"] = adapter.lora_magnitude, twin.lora_magnitude_vector["default"].weight
    for one, other in parameters.values():
        other.data = one.detach().clone()
    ids = tokens()
    losses = [module(ids, labels=ids).loss for module in (ours, theirs)]
    torch.testing.assert_close(*losses)
    for loss in losses:
        loss.backward()
    for path, (one, other) in parameters.items():
        torch.testing.assert_close(one.grad, other.grad, msg=lambda m, p=path: f"{p}: {m}")


@pytest.mark.parametrize("name", MODELS)
def test_transformers_own_checkpointing(name: str) -> None:
    model = adapted(make(name), target_modules="all-linear", dropout=0.3).train()
    ids = tokens()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        torch.manual_seed(1)
        model(ids, labels=ids).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
        model.gradient_checkpointing_enable()
    assert gradients[0].keys() == gradients[1].keys()
    for parameter, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][parameter], gradient)


def test_a_saved_model_loads_into_the_plain_one(tmp_path: Path) -> None:
    """transformers' own files of an adapted model: the base's keys are where they were."""
    model = make("llama")
    ours = adapted(model, target_modules="all-linear")
    ours.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_patterns_of_rank_and_alpha_are_pefts() -> None:
    model = make("llama")
    patterns = {
        "rank_pattern": {
            "down_proj": 2,
            r"layers\.1\.self_attn\.q_proj": 1,
            "^model.layers.0.self_attn.v_proj": 4,
            "proj": 9,
        },
        "alpha_pattern": {"q_proj": 7, "0.mlp.down_proj": 11},
    }
    theirs = peft_model(model, r=3, lora_alpha=5, target_modules=NAMES["llama"], **patterns)
    ours = adapted(model, target_modules=NAMES["llama"], **patterns)
    found = set()
    for path in our_paths(ours):
        adapter, twin = (
            ours.get_submodule(path).adapters["default"],
            theirs.base_model.model.get_submodule(path),
        )
        assert (adapter.rank, adapter.alpha) == (twin.r["default"], twin.lora_alpha["default"])
        found.add((adapter.rank, adapter.alpha))
    assert len(found) >= 5


def test_report() -> None:
    model = nn.ModuleDict({"first": nn.Linear(8, 6), "second": nn.Linear(6, 4, bias=False)})
    report = sk.lora.apply(model, rank=2, alpha=4, target_modules=["second"], rank_pattern={"second": 3})
    assert report.layers == (sk.lora.AdaptedLayer("second", "Linear", 6, 4, 3),)
    assert str(report).splitlines() == [
        "adapter 'default' on 1 layers; 30 of 108 parameters (27.78%) are trained",
        "  second: Linear 6 -> 4, rank 3",
    ]


def test_a_module_at_two_places_is_replaced_at_both() -> None:
    model = nn.Module()
    model.first = nn.Sequential(nn.Linear(4, 4))
    model.second = nn.Sequential(model.first[0])
    sk.lora.apply(model, rank=2, alpha=4, target_modules=["0"])
    assert isinstance(model.first[0], sk.nn.LoRALinear)
    assert model.second[0] is model.first[0]


def test_further_adapters() -> None:
    model = make("llama")
    ids = tokens()
    plain = model(ids).logits
    sk.lora.apply(model, rank=2, alpha=4, target_modules=["q_proj"])
    randomise(model)
    first = model(ids).logits
    report = sk.lora.apply(
        model, rank=3, alpha=5, target_modules=["q_proj", "k_proj"], adapter="second", use_dora=True
    )
    assert [layer.kind for layer in report.layers] == ["LoRALinear", "Linear"] * 2
    assert sk.lora.adapter_names(model) == ["default", "second"]
    torch.testing.assert_close(model(ids).logits, first)
    assert {n.split(".")[-2] for n, p in model.named_parameters() if p.requires_grad} == {"default"}
    sk.lora.set_adapter(model, "second")
    torch.testing.assert_close(model(ids).logits, plain)
    assert {n.split(".")[-2] for n, p in model.named_parameters() if p.requires_grad} == {"second"}


# Tied weights
# ------------


def test_a_tied_head_warns_and_merges_alone() -> None:
    model = make("gpt2")
    ids = tokens()
    with pytest.warns(
        UserWarning, match=r"lm_head: another module shares the weight; .* merging gives this layer"
    ):
        report = sk.lora.apply(model, rank=2, alpha=4, target_modules=["lm_head"])
    assert report.tied == ("lm_head",)
    assert "lm_head: another module shares its weight" in str(report)
    randomise(model)
    expected = model(ids).logits
    sk.lora.merge(model)
    torch.testing.assert_close(model(ids).logits, expected)
    sk.lora.unmerge(model)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert torch.equal(model(ids).logits, expected)


# Refused
# -------


class Doubling(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def odd_model() -> nn.Module:
    model = nn.ModuleDict(
        {
            "first": nn.Linear(8, 6),
            "embedding": nn.Embedding(5, 8),
            "attention": nn.MultiheadAttention(8, 2),
            "doubling": Doubling(6, 6),
            "last": nn.Linear(6, 4),
        }
    )
    model["last"].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"target_modules": ["nothing"]},
            ValueError,
            r"\['nothing'\], which matches no module; linear layers here: first, out_proj",
        ),
        ({"target_modules": "firs"}, ValueError, "'firs', which matches no module"),
        ({"target_modules": ["irst"]}, ValueError, "which matches no module"),
        ({"target_modules": []}, ValueError, "which matches no module"),
        (
            {"target_modules": ["first"], "exclude_modules": ["first"]},
            ValueError,
            "takes out all that it matches",
        ),
        (
            {"target_modules": "fi(rst"},
            ValueError,
            "target_modules is 'fi\\(rst', expected a regular expression",
        ),
        ({"target_modules": [1]}, TypeError, r"target_modules is \[1\], expected a str or a list of str"),
        ({"target_modules": None}, TypeError, "target_modules is None"),
        ({"target_modules": ["first"], "exclude_modules": 3}, TypeError, "exclude_modules is 3"),
        (
            {"target_modules": ["first", "embedding"]},
            TypeError,
            "embedding cannot be adapted: base is an Embedding",
        ),
        (
            {"target_modules": ["first", "doubling"]},
            TypeError,
            "doubling cannot be adapted: .* forward of its own",
        ),
        (
            {"target_modules": ["attention"]},
            TypeError,
            "attention cannot be adapted: base is a MultiheadAttention",
        ),
        ({"rank": 0}, ValueError, "first: rank is 0, expected 1 to 6"),
        ({"rank": 5}, ValueError, "last: rank is 5, expected 1 to 4"),
        ({"rank_pattern": {"last": 5}}, ValueError, "last: rank is 5"),
        (
            {"rank_pattern": {"la(st": 5}},
            ValueError,
            "rank_pattern is 'la\\(st', expected a regular expression",
        ),
        ({"alpha": 0}, ValueError, "first: alpha is 0"),
        ({"alpha_pattern": {"last": -1}}, ValueError, "last: alpha is -1"),
        ({"dropout": 1.0}, ValueError, "dropout is 1.0"),
        ({"init": "zeros"}, ValueError, "init is 'zeros'"),
        ({"adapter": "a.b"}, ValueError, "adapter name is 'a.b'"),
    ],
    ids=str,
)
def test_errors_leave_the_model_as_it_was(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = odd_model()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        sk.lora.apply(model, **{"rank": 2, "alpha": 4, "target_modules": ["first", "last"], **options})
    assert_untouched(model, before)


def test_a_name_that_is_taken() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    sk.lora.apply(model, rank=2, alpha=4, target_modules=["1"])
    before = snapshot(model)
    with pytest.raises(ValueError, match="1 has an adapter 'default' already, expected another name"):
        sk.lora.apply(model, rank=2, alpha=4, target_modules=["0", "1"])
    assert_untouched(model, before)


def test_an_unexpected_failure_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before = snapshot(model)
    made = []
    real = sk.nn.LoRALinear.__init__

    def failing(self: Any, *args: Any, **options: Any) -> None:
        real(self, *args, **options)
        made.append(self)
        if len(made) == 2:
            raise MemoryError

    monkeypatch.setattr(sk.nn.LoRALinear, "__init__", failing)
    with pytest.raises(MemoryError):
        sk.lora.apply(model, rank=2, alpha=4, target_modules="all-linear")
    assert_untouched(model, before)
