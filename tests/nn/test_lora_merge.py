"""sk.nn.LoRALinear.merge and unmerge: the same function, and the very same weight again."""

import copy
import pickle
from typing import Any

import pytest
import torch
from nn.lora_twins import IN, KINDS, OUT, VARIANTS, base_layer, ours, peft_twin
from torch import nn

import seo_kernels as sk


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_merge_and_unmerge(kind: str, variant: dict[str, Any], dtype: torch.dtype) -> None:
    base = base_layer(kind, dtype)
    layer = ours(base, ("a", "b"), **variant)
    layer.set_adapter(["a", "b"])
    twin = peft_twin(layer, base)
    twin.merge()
    x = torch.randn(5, IN, dtype=dtype)
    expected, weight, values = layer(x), layer.weight, layer.weight.clone()
    tolerance = {"atol": 20 * torch.finfo(dtype).eps, "rtol": 20 * torch.finfo(dtype).eps}
    merged = None
    for _ in range(3):
        layer.merge()
        assert layer.merged
        assert merged is None or torch.equal(layer.weight, merged)
        merged = layer.weight.detach().clone()
        assert layer.weight.stride() == weight.stride()
        torch.testing.assert_close(layer.weight.data, twin.base_layer.weight.data, **tolerance)
        torch.testing.assert_close(layer(x), expected, **tolerance)
        layer.merge()  # nothing is added twice
        assert torch.equal(layer.weight, merged)
        layer.unmerge()
        layer.unmerge()
        assert layer.weight is weight
        assert torch.equal(weight, values)
        assert not layer.merged
        assert torch.equal(layer(x), expected)


def test_the_sum_is_rounded_once() -> None:
    layer = ours(base_layer(dtype=torch.bfloat16))
    adapter = layer.adapters["default"]
    exact = layer.weight.double() + adapter.scaling * adapter.lora_b.double() @ adapter.lora_a.double()
    layer.merge()
    assert (layer.weight == exact.bfloat16()).float().mean() > 0.95
    assert ((layer.weight - exact).abs() <= 0.51 * torch.finfo(torch.bfloat16).eps * exact.abs()).all()


def test_names_and_gradients_while_merged() -> None:
    layer = ours(base_layer(), use_dora=True)
    names = list(layer.state_dict())
    layer.merge()
    assert list(layer.state_dict()) == names
    assert {n for n, p in layer.named_parameters() if p.requires_grad} == {n for n in names if "lora" in n}
    x = torch.randn(3, IN, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in layer.parameters())


def test_a_shared_weight_stays_what_it_is_elsewhere() -> None:
    embedding = nn.Embedding(OUT, IN)
    head = nn.Linear(IN, OUT, bias=False)
    head.weight = embedding.weight
    values = embedding.weight.detach().clone()
    layer = ours(head)
    layer.weight = embedding.weight  # ours() copies
    layer.merge()
    assert torch.equal(embedding.weight, values)
    assert not torch.equal(layer.weight, values)
    layer.unmerge()
    assert layer.weight is embedding.weight


def test_disabled_while_merged_is_the_base() -> None:
    base = base_layer()
    layer = ours(base)
    x = torch.randn(5, IN, dtype=torch.float64)
    layer.merge()
    merged = layer(x)
    with layer.disabled():
        torch.testing.assert_close(layer(x), base(x))
    assert torch.equal(layer(x), merged)


def test_adapters_cannot_be_switched_while_merged_but_added() -> None:
    base = base_layer()
    layer = ours(base, ("a", "b"))
    layer.merge()
    with pytest.raises(
        RuntimeError, match=r"adapters \['a'\] are merged, expected unmerge\(\) before \['b'\]"
    ):
        layer.set_adapter("b")
    assert layer.active_adapters == ["a"]
    layer.set_adapter("a")
    layer.add_adapter("c", 2, use_dora=True)
    norms = torch.linalg.vector_norm(base.weight, dim=1)
    torch.testing.assert_close(layer.adapters["c"].lora_magnitude.data, norms.data)


def test_nothing_is_active() -> None:
    layer = ours(base_layer())
    layer.set_adapter([])
    layer.merge()
    assert not layer.merged


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_a_copy_of_a_merged_layer_unmerges(copied: Any) -> None:
    base = base_layer()
    layer = ours(base)
    layer.merge()
    other = copied(layer)
    other.unmerge()
    assert torch.equal(other.weight, base.weight)
    assert layer.merged
    assert isinstance(other.weight, nn.Parameter)


def test_a_merged_layer_that_was_converted_unmerges() -> None:
    base = base_layer()
    layer = ours(base)
    layer.merge()
    layer.float()
    layer.unmerge()
    assert isinstance(layer.weight, nn.Parameter)
    assert torch.equal(layer.weight, base.weight.float())
    assert "weight" in dict(layer.named_parameters())


def test_loading_into_a_merged_layer_is_refused() -> None:
    layer = ours(base_layer())
    state = layer.state_dict()
    layer.merge()
    with pytest.raises(RuntimeError, match=r"holds merged adapters, expected unmerge\(\) before loading"):
        layer.load_state_dict(state)


def test_a_merged_weight_loads_into_the_plain_layer() -> None:
    layer = ours(base_layer())
    x = torch.randn(5, IN, dtype=torch.float64)
    expected = layer(x)
    layer.merge()
    plain = nn.Linear(IN, OUT, dtype=torch.float64)
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if "lora" not in name})
    torch.testing.assert_close(plain(x), expected)
    assert not isinstance(plain, sk.nn.LoRALinear)
