"""sk.lora.save and load: adapters travel to PEFT and back with equal outputs; folders that do not fit."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lora.models import (
    MODELS,
    NAMES,
    adapted,
    assert_untouched,
    from_peft,
    make,
    our_paths,
    peft_model,
    snapshot,
    tokens,
)
from torch import nn

import seo_kernels as sk
from seo_kernels._extras import MissingExtraError

safetensors = pytest.importorskip("safetensors.torch")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "both": {"use_rslora": True, "use_dora": True},
    "patterns": {"rank_pattern": {"c_fc|down_proj|dense": 2}, "alpha_pattern": {"c_fc|v_proj|query": 9}},
}
variants = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


@variants
@pytest.mark.parametrize("name", MODELS)
def test_from_peft_to_us_and_back(name: str, variant: dict[str, Any], tmp_path: Path) -> None:
    model, ids = make(name), tokens()
    theirs = peft_model(
        model, r=3, lora_alpha=5, lora_dropout=0.1, target_modules=NAMES[name], **variant
    ).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = copy.deepcopy(model).eval()
    report = sk.lora.load(ours, tmp_path / "theirs")
    expected = theirs(ids).logits
    assert (expected - model(ids).logits).abs().max() > 0.01
    torch.testing.assert_close(ours(ids).logits, expected)
    assert {n for n, p in ours.named_parameters() if p.requires_grad} == {
        n for n, _ in ours.named_parameters() if "lora" in n
    }
    assert all(
        layer.get_submodule("adapters.default").dropout == 0.1
        for layer in map(ours.get_submodule, our_paths(ours))
    )

    sk.lora.save(ours, tmp_path / "ours")
    files = [
        safetensors.load_file(tmp_path / folder / "adapter_model.safetensors")
        for folder in ("theirs", "ours")
    ]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][key], files[1][key]) for key in files[0])
    torch.testing.assert_close(from_peft(tmp_path / "ours", model).eval()(ids).logits, expected)
    assert len(report) == len(our_paths(ours))


@variants
@pytest.mark.parametrize("name", MODELS)
def test_from_us_to_peft(name: str, variant: dict[str, Any], tmp_path: Path) -> None:
    model, ids = make(name), tokens()
    ours = adapted(model, target_modules="all-linear", dropout=0.25, adapter="mine", **variant).eval()
    sk.lora.save(ours, tmp_path, adapter="mine")
    theirs = from_peft(tmp_path, model).eval()
    torch.testing.assert_close(theirs(ids).logits, ours(ids).logits)
    config = theirs.peft_config["default"]
    assert config.lora_dropout == 0.25
    assert config.fan_in_fan_out == (name == "gpt2")
    again = copy.deepcopy(model).eval()
    sk.lora.load(again, tmp_path, adapter="other")
    assert torch.equal(again(ids).logits, ours(ids).logits)


def test_names_are_short_where_they_suffice(tmp_path: Path) -> None:
    model = make("llama")
    for targets, expected in (
        (["q_proj", "down_proj"], ["down_proj", "q_proj"]),
        (r".*1\..*q_proj", ["model.layers.1.self_attn.q_proj"]),
    ):
        sk.lora.save(adapted(model, target_modules=targets), tmp_path)
        assert json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"] == expected


def test_the_file_is_pefts(tmp_path: Path) -> None:
    sk.lora.save(adapted(make("gpt2"), target_modules=[r"h.0.attn.c_attn"], use_dora=True), tmp_path)
    file = safetensors.load_file(tmp_path / "adapter_model.safetensors")
    layer = "base_model.model.transformer.h.0.attn.c_attn"
    assert {key: tuple(value.shape) for key, value in file.items()} == {
        f"{layer}.lora_A.weight": (3, 16),
        f"{layer}.lora_B.weight": (48, 3),
        f"{layer}.lora_magnitude_vector": (48,),
    }
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert (config["r"], config["lora_alpha"], config["use_dora"], config["use_rslora"]) == (
        3,
        5,
        True,
        False,
    )


def test_a_second_adapter_is_loaded_beside_the_first(tmp_path: Path) -> None:
    model, ids = make("llama"), tokens()
    other = adapted(model, target_modules=["k_proj", "q_proj"])
    sk.lora.save(other, tmp_path)
    both = adapted(model, target_modules=["q_proj"])
    first = both(ids).logits
    sk.lora.load(both, tmp_path, adapter="other")
    torch.testing.assert_close(both(ids).logits, first)
    sk.lora.set_adapter(both, "other")
    torch.testing.assert_close(both(ids).logits, other(ids).logits)


def test_half_precision_and_torch_models(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)).bfloat16()
    ours = adapted(model, target_modules=["0", "2"])
    sk.lora.save(ours, tmp_path)
    again = copy.deepcopy(model)
    sk.lora.load(again, tmp_path)
    x = torch.randn(3, 6).bfloat16()
    assert torch.equal(again(x), ours(x))
    theirs = from_peft(tmp_path, model)
    torch.testing.assert_close(theirs(x), ours(x), atol=0.05, rtol=0.05)


def test_a_merged_model_saves_its_adapter(tmp_path: Path) -> None:
    model = adapted(make("llama"), target_modules=["q_proj"])
    sk.lora.save(model, tmp_path / "before")
    sk.lora.merge(model)
    sk.lora.save(model, tmp_path / "after")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "before" / file).read_bytes() == (tmp_path / "after" / file).read_bytes()


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(
        ValueError, match=r"adapter is 'default', expected one of the names given to sk\.lora\.apply"
    ):
        sk.lora.save(model, tmp_path / "folder")
    sk.lora.apply(model, rank=2, alpha=4, target_modules=["0"])
    with pytest.raises(ValueError, match=r"adapter is 'other', expected one of \['default'\]"):
        sk.lora.save(model, tmp_path / "folder", adapter="other")
    with pytest.raises(ValueError, match="model is a LoRALinear itself"):
        sk.lora.save(model[0], tmp_path / "folder")
    model[1] = sk.nn.LoRALinear(model[1], 2, 4, use_dora=True)
    with pytest.raises(ValueError, match=r"the layers have use_dora \[False, True\], expected one value"):
        sk.lora.save(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_without_safetensors_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = adapted(nn.Sequential(nn.Linear(4, 4)), target_modules=["0"])
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    for call in (sk.lora.save, sk.lora.load):
        with pytest.raises(MissingExtraError, match=r"safetensors.* pip install 'seo_kernels\[lora\]'"):
            call(model, tmp_path)


# Folders that do not fit
# -----------------------


def edit_config(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_config.json"
        config = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in config.items() if value != "gone"}))

    return edit


def edit_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        tensors = safetensors.load_file(file)
        change(tensors)
        safetensors.save_file(tensors, file)

    return edit


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


Q0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
BAD = {
    "no config": (
        lambda folder: (folder / "adapter_config.json").unlink(),
        r"there is no .*adapter_config.json",
    ),
    "no tensors": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        r"there is no .*safetensors",
    ),
    "no json": (write("adapter_config.json", "{"), "adapter_config.json' is no JSON"),
    "a list": (write("adapter_config.json", "[]"), "holds a list, expected an object"),
    "no safetensors": (
        write("adapter_model.safetensors", "x" * 99),
        "can't be read, expected a safetensors file",
    ),
    "another method": (edit_config(peft_type="IA3"), "has peft_type='IA3', expected 'LORA'"),
    "bias": (edit_config(bias="all"), "has bias='all', expected 'none'"),
    "modules_to_save": (
        edit_config(modules_to_save=["lm_head"]),
        r"has modules_to_save=\['lm_head'\], expected none",
    ),
    "layers": (
        edit_config(layers_to_transform=[1]),
        r"has layers_to_transform=\[1\], expected none of these",
    ),
    "unknown option": (edit_config(use_magic=True), "has use_magic=True, expected none of these"),
    "pissa": (
        edit_config(init_lora_weights="pissa_niter_4"),
        "'pissa_niter_4', which changed the base weights",
    ),
    "no rank": (edit_config(r="gone"), "lacks 'r', expected an adapter that PEFT wrote"),
    "rank 0": (edit_config(r=0), "rank is 0"),
    "alpha": (edit_config(lora_alpha=-1), "alpha is -1"),
    "dropout": (edit_config(lora_dropout=1.5), "dropout is 1.5"),
    "no targets": (
        edit_config(target_modules=["c_attn"]),
        r"\['c_attn'\], which matches no module; linear layers",
    ),
    "more targets": (
        edit_config(target_modules=["q_proj", "k_proj"]),
        "lacks .*layers.0.self_attn.k_proj.lora_A.weight",
    ),
    "fewer targets": (
        edit_config(target_modules=["0.self_attn.q_proj"]),
        r"has .*layers.1.self_attn.q_proj.*no place",
    ),
    "missing": (edit_tensors(lambda tensors: tensors.pop(Q0)), f"lacks {Q0}"),
    "unexpected": (edit_tensors(lambda tensors: tensors.update(extra=torch.ones(1))), "has extra, for which"),
    "shape": (
        edit_tensors(lambda tensors: tensors.update({Q0: torch.ones(3, 15)})),
        r"q_proj.lora_A.weight has shape \(3, 15\), expected \(3, 16\)",
    ),
    "rank": (edit_config(r=2), r"q_proj.lora_A.weight has shape \(3, 16\), expected \(2, 16\)"),
    "dora": (edit_config(use_dora=True), "lacks .*lora_magnitude_vector"),
}


@pytest.mark.parametrize(("edit", "message"), BAD.values(), ids=BAD)
def test_a_folder_that_does_not_fit_leaves_the_model_as_it_was(
    edit: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    model = make("llama")
    sk.lora.save(adapted(model, target_modules=["q_proj"]), tmp_path)
    edit(tmp_path)
    before = snapshot(model)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        sk.lora.load(model, tmp_path)
    assert_untouched(model, before)


@pytest.mark.parametrize(("source", "target"), [("gpt2", "llama"), ("llama", "bert"), ("bert", "gpt2")])
def test_an_adapter_of_another_architecture(source: str, target: str, tmp_path: Path) -> None:
    sk.lora.save(adapted(make(source), target_modules=NAMES[source]), tmp_path)
    model = make(target)
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"does not fit this model: target_modules .* matches no module"):
        sk.lora.load(model, tmp_path)
    assert_untouched(model, before)


def test_an_adapter_of_another_size(tmp_path: Path) -> None:
    small, wide = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 5))
    sk.lora.save(adapted(small, target_modules=["0"]), tmp_path)
    before = snapshot(wide)
    with pytest.raises(
        ValueError, match=r"0.lora_B.weight has shape \(4, 3\), expected \(5, 3\) in this model"
    ):
        sk.lora.load(wide, tmp_path)
    assert_untouched(wide, before)
    sk.lora.load(small, tmp_path)
    before = snapshot(small)
    with pytest.raises(ValueError, match="0 has an adapter 'default' already"):
        sk.lora.load(small, tmp_path)
    assert_untouched(small, before)
