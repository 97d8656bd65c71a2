"""Models of transformers give with this library's attention what they give with their own."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seo_kernels.integrations import transformers as integration
from seo_kernels.patterns import Causal, Local

transformers = pytest.importorskip("transformers")

NAME = "seo_kernels_in_tests"
TOKENS, WINDOW, LENGTH = 97, 9, 40
SIZES = {
    "vocab_size": TOKENS,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
DECODER = {**SIZES, "num_key_value_heads": 2, "max_position_embeddings": 256}
BOTH_KINDS = {**DECODER, "head_dim": 16, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}

DECODERS: dict[str, dict[str, Any]] = {
    "Llama": DECODER,
    "Mistral": {**DECODER, "sliding_window": WINDOW},
    "Gemma2": {**BOTH_KINDS, "sliding_window": WINDOW, "attn_logit_softcapping": 2.0},
    "GptOss": {**BOTH_KINDS, **EXPERTS, "sliding_window": WINDOW},
    "GPT2": {**GPT2, "vocab_size": TOKENS, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0},
    "Llama4": {
        **DECODER,
        **EXPERTS,
        "head_dim": 16,
        "intermediate_size_mlp": 96,
        "attention_chunk_size": 8,
        "layer_types": ["chunked_attention", "full_attention"],
    },
}
NAMES_OF_CONFIGS = {"Llama4": "Llama4TextConfig"}
HEADS = {"GPT2": "GPT2LMHeadModel"}
ENCODERS: dict[str, dict[str, Any]] = {
    "Bert": {**SIZES, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "ModernBert": {
        **SIZES,
        "cls_token_id": 1,
        "sep_token_id": 1,
        "local_attention": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    integration.register(NAME)
    yield
    for interface in (transformers.AttentionInterface, transformers.AttentionMaskInterface):
        interface._global_mapping.pop(NAME)


def decoder(name: str) -> nn.Module:
    config = getattr(transformers, NAMES_OF_CONFIGS.get(name, f"{name}Config"))(**DECODERS[name])
    return made(HEADS.get(name, f"{name}ForCausalLM"), config)


def made(class_name: str, config: Any, implementation: str = "eager") -> nn.Module:
    model: nn.Module = getattr(transformers, class_name)._from_config(
        config, attn_implementation=implementation
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.2)  # attention that is not nearly uniform
    return model


def on_our_kernels(model: nn.Module) -> nn.Module:
    ours = copy.deepcopy(model)
    ours.set_attn_implementation(NAME)  # type: ignore[operator]
    return ours


def tokens(batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(2, TOKENS, (batch, length))


def padded(side: str) -> Tensor:
    mask = torch.ones(2, LENGTH, dtype=torch.int64)
    mask[1, slice(0, 7) if side == "left" else slice(30, None)] = 0
    return mask


def agree(
    model: nn.Module,
    inputs: dict[str, Tensor | bool],
    kept: Tensor | None = None,
    prepare: Callable[[nn.Module], Callable[..., Any]] = lambda model: model,
    tolerance: float = 1e-4,
) -> None:
    """Outputs, where ``kept``, and gradients of both; each beside the largest of its kind."""
    results = []
    for candidate, call in ((model, model), (ours := on_our_kernels(model), prepare(ours))):
        result = call(**inputs)
        output = result.logits if "logits" in result else result.last_hidden_state
        output = output if kept is None else output[kept.bool()]
        output.square().mean().backward()
        gradients = {name: p.grad for name, p in candidate.named_parameters() if p.grad is not None}
        results.append((output.detach(), gradients))
    (expected, expected_gradients), (actual, gradients) = results
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    assert gradients.keys() == expected_gradients.keys()
    largest = max(float(gradient.abs().max()) for gradient in expected_gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            gradient,
            expected_gradients[name],
            rtol=tolerance,
            atol=tolerance * largest,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.parametrize("padding", [None, "right", "left"])
@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str, padding: str | None) -> None:
    mask = None if padding is None else padded(padding)
    agree(decoder(name), {"input_ids": tokens()} | ({} if mask is None else {"attention_mask": mask}), mask)


@pytest.mark.parametrize("name", DECODERS)
def test_packed_sequences(name: str) -> None:
    positions = torch.cat([torch.arange(25), torch.arange(LENGTH - 25)])[None].expand(2, -1)
    agree(decoder(name), {"input_ids": tokens(), "position_ids": positions, "use_cache": False})


@pytest.mark.parametrize("padding", [None, "right", "left"])
@pytest.mark.parametrize("name", ENCODERS)
def test_encoders(name: str, padding: str | None) -> None:
    model = made(f"{name}ForMaskedLM", getattr(transformers, f"{name}Config")(**ENCODERS[name]))
    mask = None if padding is None else padded(padding)
    agree(model, {"input_ids": tokens()} | ({} if mask is None else {"attention_mask": mask}), mask)


def test_position_biases_and_cross_attention() -> None:
    config = transformers.T5Config(
        vocab_size=TOKENS,
        d_model=64,
        d_ff=96,
        d_kv=16,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        decoder_start_token_id=0,
    )
    inputs = {
        "input_ids": tokens(),
        "attention_mask": padded("right"),
        "decoder_input_ids": tokens(length=17),
    }
    agree(made("T5ForConditionalGeneration", config), inputs)


def test_without_a_mask() -> None:
    config = transformers.ViTConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    agree(made("ViTModel", config), {"pixel_values": torch.randn(2, 3, 32, 32)})


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_masks_of_the_users_own(dtype: torch.dtype) -> None:
    seen = (torch.rand(2, 1, LENGTH, LENGTH) < 0.7) | torch.eye(LENGTH, dtype=torch.bool)
    mask = seen if dtype == torch.bool else torch.where(seen, 0.0, torch.finfo(dtype).min)
    config = transformers.LlamaConfig(**DECODER)
    # eager adds a bool mask as it is, 0 or 1: SDPA's is the meaning
    agree(made("LlamaForCausalLM", config, "sdpa"), {"input_ids": tokens(), "attention_mask": mask})


@pytest.mark.parametrize("cache", [{}, {"cache_implementation": "static", "disable_compile": True}], ids=str)
@pytest.mark.parametrize("name", DECODERS)
def test_generation(name: str, cache: dict[str, Any]) -> None:
    model = decoder(name).eval()
    inputs = {"input_ids": tokens(), "attention_mask": padded("left")}
    options = {**inputs, "max_new_tokens": 2 * WINDOW, "do_sample": False, **cache}
    expected, actual = (m.generate(**options) for m in (model, on_our_kernels(model)))  # type: ignore[operator]
    assert torch.equal(actual, expected)


def test_a_prompt_in_two_parts() -> None:
    model = on_our_kernels(decoder("Mistral").eval())
    ids = tokens()
    first = model(ids[:, :25])
    second = model(ids[:, 25:], past_key_values=first.past_key_values)
    parts = torch.cat([first.logits, second.logits], dim=1)
    torch.testing.assert_close(parts, model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "padding"), [("Llama", "left"), ("Mistral", None)])
def test_compiled(name: str, padding: str | None) -> None:
    mask = None if padding is None else padded(padding)
    inputs = {"input_ids": tokens(), "use_cache": False} | ({} if mask is None else {"attention_mask": mask})
    agree(
        decoder(name), inputs, mask, lambda model: torch.compile(model, fullgraph=True, backend="aot_eager")
    )


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed(reentrant: bool) -> None:
    model = decoder("Mistral").train()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]
    agree(
        model, {"input_ids": tokens(), "attention_mask": padded("left"), "use_cache": False}, padded("left")
    )


def test_dropout_follows_the_seed_and_the_mode() -> None:
    model = on_our_kernels(
        made("LlamaForCausalLM", transformers.LlamaConfig(**DECODER, attention_dropout=0.5))
    )
    ids = tokens()

    def logits(seed: int) -> Tensor:
        torch.manual_seed(seed)
        result: Tensor = model(ids).logits
        return result

    model.train()
    assert torch.equal(logits(0), logits(0))
    assert not torch.equal(logits(0), logits(1))
    model.eval()
    assert torch.equal(logits(0), logits(1))


def test_what_is_refused() -> None:
    query = torch.randn(1, 2, 5, 8)
    with pytest.raises(ValueError, match="output_attentions is True"):
        integration.attention_forward(nn.Module(), query, query, query, None, output_attentions=True)
    with pytest.raises(ValueError, match="cache is of object, expected None"):
        integration.attention_forward(nn.Module(), query, query, query, None, cache=object())


def test_an_old_transformers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "4.57.1")
    with pytest.raises(ImportError, match=r"transformers is 4.57.1, expected 5.20 or newer"):
        integration.register("another")


def test_nothing_is_made_of_a_sliding_window() -> None:
    seen = integration.visible_keys(1, 64, 64, mask_function=sliding(9))
    assert seen == integration.VisibleKeys(Local(8, 0), None, 0)
    everything = torch.ones(1, 64, dtype=torch.bool)
    seen = integration.visible_keys(1, 64, 64, attention_mask=everything)
    assert seen == integration.VisibleKeys(Causal(), None, 0)


def sliding(window: int) -> Callable[..., Any]:
    function: Callable[..., Any] = transformers.masking_utils.sliding_window_causal_mask_function(window)
    return function
