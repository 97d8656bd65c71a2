"""Which package computes attention: the choice, what is said of it, and the call, with packages made here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seo_kernels.models import AdvancedMultiHeadAttention, AdvancedTransformerModel, ModelConfig
from seo_kernels.nn import attention_packages

pytestmark = pytest.mark.usefixtures("one_thread", "nothing_said")
BOTH = ("flash_attn", "xformers")


@pytest.fixture
def nothing_said() -> Iterator[None]:
    for cached in (attention_packages._installed, attention_packages._say_once):
        cached.cache_clear()
    yield
    for cached in (attention_packages._installed, attention_packages._say_once):
        cached.cache_clear()


def sdpa(query: Tensor, key: Tensor, value: Tensor, causal: bool, dropout_p: float) -> Tensor:
    """(B, T, H, D), the last query at the last key."""
    assert dropout_p == 0.0
    mask = torch.ones(query.shape[1], key.shape[1]).tril(key.shape[1] - query.shape[1]).bool()
    out = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (query, key, value)), attn_mask=mask if causal else None
    )
    return out.transpose(1, 2)


def install(monkeypatch: pytest.MonkeyPatch, calls: list[str], on: str = "cpu") -> None:
    """Packages with the functions that are called of the real ones, which run on the CPU."""

    def flash_attn_func(
        q: Tensor, k: Tensor, v: Tensor, dropout_p: float = 0.0, causal: bool = False
    ) -> Tensor:
        calls.append("flash_attn")
        return sdpa(q, k, v, causal, dropout_p)

    class LowerTriangularFromBottomRightMask:
        pass

    def memory_efficient_attention(
        query: Tensor, key: Tensor, value: Tensor, attn_bias: Any = None, p: float = 0.0
    ) -> Tensor:
        calls.append("xformers")
        assert attn_bias is None or isinstance(attn_bias, LowerTriangularFromBottomRightMask)
        return sdpa(query, key, value, attn_bias is not None, p)

    flash, ops = ModuleType("flash_attn"), ModuleType("xformers.ops")
    flash.flash_attn_func = flash_attn_func  # type: ignore[attr-defined]
    ops.memory_efficient_attention = memory_efficient_attention  # type: ignore[attr-defined]
    bias = SimpleNamespace(LowerTriangularFromBottomRightMask=LowerTriangularFromBottomRightMask)
    ops.fmha = SimpleNamespace(attn_bias=bias)  # type: ignore[attr-defined]
    for name, module in (("flash_attn", flash), ("xformers", ModuleType("xformers")), ("xformers.ops", ops)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(attention_packages, "DEVICES", (on,))


def uninstall(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flash_attn", "xformers", "xformers.ops"):
        monkeypatch.setitem(sys.modules, name, None)


def heads(length: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(2, 3, length, 8, dtype=dtype)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attention_type": "local"}, "attention of type local is none of its"),
        ({"masked": True}, "it takes no mask"),
        ({"query": heads(dtype=torch.float32)}, "takes float16 and bfloat16, not float32"),
        ({"key": heads(4)}, "more queries than keys"),
    ],
)
def test_refusals(
    change: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(monkeypatch, [])
    call = {"packages": BOTH, "query": heads(), "key": heads(), "attention_type": "standard", "masked": False}
    assert attention_packages.chosen_package(**call) == "flash_attn"
    for _ in range(2):
        assert attention_packages.chosen_package(**{**call, **change}) is None
    (record,) = caplog.records
    assert record.getMessage() == (
        f"attention is computed by seo_kernels (flash_attn: {reason}; xformers: {reason})"
    )
    assert record.levelno == logging.WARNING


def test_where_there_is_none(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    uninstall(monkeypatch)
    assert attention_packages.chosen_package((), heads(), heads(), "standard", False) is None
    assert not caplog.records  # nobody asked
    assert attention_packages.chosen_package(BOTH, heads(), heads(), "standard", False) is None
    assert "(flash_attn: not installed; xformers: not installed)" in caplog.text


def test_not_on_this_device(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    install(monkeypatch, [], on="cuda")
    assert attention_packages.chosen_package(("xformers",), heads(), heads(), "standard", False) is None
    assert "runs on cuda, not on cpu" in caplog.text


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("package", BOTH)
def test_the_layer_by_a_package(
    package: str, causal: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    calls: list[str] = []
    install(monkeypatch, calls)
    wanted = {"use_flash_attention": package == "flash_attn", "use_xformers": package == "xformers"}
    layer = AdvancedMultiHeadAttention(16, 2, 0.0, causal=causal, **wanted).bfloat16()
    x = torch.randn(2, 7, 16, dtype=torch.bfloat16)
    query = x[:, :3]
    found = layer.attend(query, x, x, None)
    assert calls == [package]
    layer.attend(query, x, x, None)
    assert [record.getMessage() for record in caplog.records] == [f"attention is computed by {package}"]
    layer.packages = ()
    torch.testing.assert_close(found, layer.attend(query, x, x, None), rtol=0.02, atol=0.02)
    assert len(calls) == 2


def test_the_model_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    install(monkeypatch, calls)
    config = ModelConfig(vocab_size=9, d_model=16, n_layers=2, n_heads=2, use_rope=True, use_xformers=True)
    model, ids = AdvancedTransformerModel(config).bfloat16().eval(), torch.randint(9, (2, 6))
    logits = model(ids)["logits"]
    assert calls == ["xformers"] * 2
    cache = model.new_cache()
    for token in ids.unbind(1):
        last = model.decode(token[:, None], cache)
    assert calls == ["xformers"] * 14
    torch.testing.assert_close(last, logits[:, -1], rtol=0.05, atol=0.05)
    model(ids, torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]]))  # a mask: ours
    assert len(calls) == 14
