"""Small transformers models with random weights, made on the spot, and PEFT beside sk.lora on them."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import seo_kernels as sk

VOCABULARY, LENGTH = 32, 9


def gpt2() -> nn.Module:
    """Its linear layers are ``Conv1D``; lm_head shares the embedding's weight."""
    from transformers import GPT2Config, GPT2LMHeadModel

    options = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=VOCABULARY, n_positions=16, n_embd=16, n_layer=2, n_head=2, **options)
    )


def llama() -> nn.Module:
    """Grouped queries, SwiGLU, no biases."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=16,
        )
    )


def bert() -> nn.Module:
    """An encoder with a masked-language head."""
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


MODELS = {"gpt2": gpt2, "llama": llama, "bert": bert}
# target_modules per model; the regular expressions take the layers of the second block only
NAMES = {
    "gpt2": ["c_attn", "c_fc"],
    "llama": ["q_proj", "v_proj", "down_proj"],
    "bert": ["query", "output.dense"],
}
REGULAR = {
    "gpt2": r".*h\.1\..*c_(attn|proj)",
    "llama": r".*layers\.1\..*_proj",
    "bert": r".*layer\.1\..*(key|value)",
}


def make(name: str) -> nn.Module:
    pytest.importorskip("transformers")
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():  # all at scales where a mistake shows
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (2, LENGTH))


def randomise(model: nn.Module) -> None:
    """Values for the adapters, whose update is zero at first."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def peft_model(model: nn.Module, **options: Any) -> Any:
    """PEFT's model around a copy of ``model``, its adapter randomised; options of LoraConfig."""
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**options))
    randomise(adapted)
    return adapted


def from_peft(folder: Path, model: nn.Module) -> Any:
    """What PEFT reads from the folder, on a copy of ``model``."""
    peft = pytest.importorskip("peft")
    return peft.PeftModel.from_pretrained(copy.deepcopy(model), folder)


def adapted(model: nn.Module, **options: Any) -> nn.Module:
    """A copy of ``model`` with our adapter, randomised; options of sk.lora.apply."""
    other = copy.deepcopy(model)
    sk.lora.apply(other, **{"rank": 3, "alpha": 5.0, **options})
    randomise(other)
    return other


def peft_paths(model: Any) -> list[str]:
    """Where PEFT put adapters."""
    from peft.tuners.lora import LoraLayer

    return [path for path, module in model.base_model.model.named_modules() if isinstance(module, LoraLayer)]


def our_paths(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, sk.nn.LoRALinear)]


def snapshot(model: nn.Module) -> dict[str, Any]:
    """All that an error must leave as it was."""
    return {
        "modules": {path: id(module) for path, module in model.named_modules()},
        "parameters": {name: (id(p), p.requires_grad) for name, p in model.named_parameters()},
        "values": {name: value.clone() for name, value in model.state_dict().items()},
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    assert after["modules"] == before["modules"]
    assert after["parameters"] == before["parameters"]
    assert after["values"].keys() == before["values"].keys()
    for name, value in before["values"].items():
        assert torch.equal(after["values"][name], value), name
