"""sk.lora's set_adapter, disabled, merge and unmerge on whole models, beside PEFT."""

import copy

import pytest
import torch
from lora.models import MODELS, adapted, make, peft_model, randomise, tokens
from torch import nn

import seo_kernels as sk

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


@pytest.mark.parametrize("name", MODELS)
def test_merge_unmerge_disable(name: str) -> None:
    model, ids = make(name), tokens()
    ours = adapted(model, target_modules="all-linear", use_dora=True)
    expected, plain = ours(ids).logits, model(ids).logits
    weights = {n: p.detach().clone() for n, p in ours.named_parameters()}
    for _ in range(2):
        sk.lora.merge(ours)
        torch.testing.assert_close(ours(ids).logits, expected)
        with sk.lora.disabled(ours):
            torch.testing.assert_close(ours(ids).logits, plain)
        sk.lora.unmerge(ours)
        assert torch.equal(ours(ids).logits, expected)
        assert all(torch.equal(p, weights[n]) for n, p in ours.named_parameters())
    with pytest.raises(IndexError), sk.lora.disabled(ours):
        ours(ids + 10**6)  # no such tokens
    assert torch.equal(ours(ids).logits, expected)


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_on_different_layers_are_switched_as_in_peft(dora: bool) -> None:
    peft = pytest.importorskip("peft")
    model, ids = make("llama").double(), tokens()
    theirs = peft_model(model, r=3, lora_alpha=5, target_modules=["q_proj", "k_proj"], use_dora=dora)
    theirs.add_adapter("second", peft.LoraConfig(r=2, lora_alpha=3, target_modules=["k_proj", "up_proj"]))
    randomise(theirs)
    ours = copy.deepcopy(model)
    sk.lora.apply(ours, rank=3, alpha=5, target_modules=["q_proj", "k_proj"], use_dora=dora)
    sk.lora.apply(ours, rank=2, alpha=3, target_modules=["k_proj", "up_proj"], adapter="second")
    for path, module in ours.named_modules():
        if isinstance(module, sk.nn.LoRALinear):
            twin = theirs.base_model.model.get_submodule(path)
            for name, adapter in module.adapters.items():
                adapter.lora_a.data = twin.lora_A[name].weight.detach().clone()
                adapter.lora_b.data = twin.lora_B[name].weight.detach().clone()
                if adapter.use_dora:
                    adapter.lora_magnitude.data = twin.lora_magnitude_vector[name].weight.detach().clone()
    outputs = []
    for names in (["default"], ["second"], ["default", "second"], ["second", "default"]):
        sk.lora.set_adapter(ours, names)
        theirs.base_model.set_adapter(names)
        outputs.append(ours(ids).logits)
        torch.testing.assert_close(outputs[-1], theirs(ids).logits)
        trained = {n.split(".")[-2] for n, p in ours.named_parameters() if p.requires_grad}
        assert trained == set(names)
    assert not torch.allclose(outputs[0], outputs[1])
    sk.lora.set_adapter(ours, [])
    torch.testing.assert_close(ours(ids).logits, model(ids).logits)


def test_errors() -> None:
    plain = nn.Sequential(nn.Linear(4, 4))
    for call in (sk.lora.merge, sk.lora.unmerge, lambda model: sk.lora.set_adapter(model, "default")):
        with pytest.raises(ValueError, match=r"model has no adapters, expected one that sk\.lora\.apply"):
            call(plain)
    with pytest.raises(ValueError, match="model has no adapters"), sk.lora.disabled(plain):
        pass
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    sk.lora.apply(model, rank=2, alpha=4, target_modules=["0"])
    sk.lora.apply(model, rank=2, alpha=4, target_modules=["1"], adapter="second")
    with pytest.raises(
        ValueError, match=r"adapters are \['third'\], expected some of \['default', 'second'\]"
    ):
        sk.lora.set_adapter(model, "third")
    with pytest.raises(ValueError, match=r"each once"):
        sk.lora.set_adapter(model, ["second", "second"])
    sk.lora.merge(model)
    with pytest.raises(RuntimeError, match=r"0 holds \['default'\] merged, expected unmerge\(\)"):
        sk.lora.set_adapter(model, "second")
    assert model[1].active_adapters == []
