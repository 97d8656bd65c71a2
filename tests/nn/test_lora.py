"""sk.nn.LoRALinear: what it computes, held against PEFT's layer; names, adapters, bad input."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nn.lora_twins import (
    ALPHA,
    IN,
    KINDS,
    OUT,
    RANK,
    VARIANTS,
    assert_same,
    base_layer,
    ours,
    outcome,
    peft_parameters,
    peft_twin,
    randomise,
)
from torch import nn

import seo_kernels as sk


def own(layer: sk.nn.LoRALinear) -> dict[str, nn.Parameter]:
    return dict(layer.adapters.named_parameters())


@pytest.mark.parametrize("shape", [(5, IN), (IN,), (2, 3, IN), (0, IN), (2, 0, IN)], ids=str)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_pefts(kind: str, variant: dict[str, Any], shape: tuple[int, ...]) -> None:
    if len(shape) == 1 and (kind == "conv1d" or variant.get("use_dora")):
        shape = (1, IN)  # Conv1D refuses a vector, PEFT's DoRA returns a matrix for one
    base = base_layer(kind)
    layer = ours(base, **variant)
    twin = peft_twin(layer, base)
    x = torch.randn(shape, dtype=torch.float64)
    got = outcome(layer, x, own(layer))
    assert_same(got, outcome(twin, x, peft_parameters(twin, layer)))
    assert len(got) == 4 + bool(variant.get("use_dora"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_other_dtypes(variant: dict[str, Any], dtype: torch.dtype) -> None:
    base = base_layer(dtype=dtype)
    layer = ours(base, **variant)
    assert {parameter.dtype for parameter in own(layer).values()} == {torch.float32}
    x = torch.randn(20, IN).to(dtype)
    exact = ours(base.double(), **variant)
    for name, parameter in own(layer).items():
        own(exact)[name].data = parameter.detach().double()
    got, expected = outcome(layer, x, own(layer)), outcome(exact, x.double(), own(exact))
    assert got["out"].dtype == got["input"].dtype == dtype
    rounding = torch.finfo(dtype).eps
    for name, value in got.items():
        error = (value.double() - expected[name]).norm() / expected[name].norm()
        assert error < 3 * rounding, name


@pytest.mark.parametrize("active", [["a"], ["b"], ["a", "b"], ["b", "a"], ["a", "b", "c"], []], ids=str)
@pytest.mark.parametrize("dora", [(), ("a",), ("b",), ("a", "b", "c")], ids=str)
@pytest.mark.parametrize("kind", ["linear", "no_bias"])
def test_several_adapters_are_summed_as_peft_does(
    kind: str, dora: tuple[str, ...], active: list[str]
) -> None:
    base = base_layer(kind)
    layer = ours(base, ("a",), use_dora="a" in dora)
    for name, rank in (("b", 2), ("c", 4)):
        layer.add_adapter(name, rank, 3.0, use_dora=name in dora, use_rslora=name == "c")
    randomise(layer)
    layer.set_adapter(active)
    twin = peft_twin(layer, base)
    x = torch.randn(5, IN, dtype=torch.float64)
    got = outcome(layer, x, own(layer))
    assert_same(got, outcome(twin, x, peft_parameters(twin, layer)))
    assert {name.split(".")[0] for name in got} - {"out", "input"} == set(active)
    layer.merge()
    twin.merge()
    torch.testing.assert_close(layer.weight.data, twin.base_layer.weight.data)
    torch.testing.assert_close(layer(x), got["out"])


def test_a_new_adapter_changes_nothing_and_starts_as_in_peft() -> None:
    base = base_layer()
    x = torch.randn(5, IN, dtype=torch.float64)
    for variant in VARIANTS:
        layer = sk.nn.LoRALinear(base, RANK, ALPHA, **variant)
        torch.testing.assert_close(layer(x), base(x))
        adapter = layer.adapters["default"]
        assert adapter.lora_a.shape == (RANK, IN)
        assert adapter.lora_b.shape == (OUT, RANK)
        assert not adapter.lora_b.any()
        assert 0.8 * IN**-0.5 < adapter.lora_a.abs().max() <= IN**-0.5  # uniform up to 1 / sqrt(in_features)
    spread = sk.nn.LoRALinear(nn.Linear(400, 400), 100, 1.0, init="gaussian").adapters["default"].lora_a.std()
    assert spread.item() == pytest.approx(1 / 100, rel=0.05)


def test_scaling() -> None:
    for options, expected in (({}, ALPHA / RANK), ({"use_rslora": True}, ALPHA / RANK**0.5)):
        assert sk.nn.LoRALinear(base_layer(), RANK, ALPHA, **options).adapters["default"].scaling == expected
    assert sk.nn.LoRALinear(nn.Linear(99, 99)).adapters["default"].scaling == 2.0


# Dropout
# -------


def test_dropout_acts_on_the_input_of_the_adapter_alone() -> None:
    layer = sk.nn.LoRALinear(nn.Linear(64, 64), 64, 64.0, dropout=0.25)
    with torch.no_grad():
        layer.adapters["default"].lora_a.copy_(torch.eye(64))
        layer.adapters["default"].lora_b.copy_(torch.eye(64))
    x = torch.rand(200, 64) + 1
    kept = (layer(x) - F.linear(x, layer.weight, layer.bias)) / x
    assert kept.detach().round(decimals=3).unique().tolist() == pytest.approx([0.0, 1 / 0.75], abs=1e-3)
    assert kept.mean().item() == pytest.approx(1.0, abs=0.03)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    torch.testing.assert_close(layer.eval()(x), F.linear(x, layer.weight, layer.bias) + x)


def test_dropout_with_dora_is_pefts() -> None:
    """It draws from torch's generator as PEFT does, so that equal seeds give equal outputs."""
    base = base_layer()
    layer = ours(base, dropout=0.4, use_dora=True)
    twin = peft_twin(layer, base)
    x = torch.randn(5, IN, dtype=torch.float64)
    for mode in (True, False):
        layer.train(mode)
        twin.train(mode)
        torch.manual_seed(1)
        got = outcome(layer, x, own(layer))
        torch.manual_seed(1)
        assert_same(got, outcome(twin, x, peft_parameters(twin, layer)))


def test_each_of_several_adapters_has_its_own_dropout() -> None:
    layer = ours(base_layer(), ("a", "b"), dropout=0.5)
    layer.set_adapter(["a", "b"])
    x = torch.randn(4000, IN, dtype=torch.float64)
    with torch.no_grad():
        mean = torch.stack([layer(x[:4]) for _ in range(4000)]).mean(0)
        torch.testing.assert_close(mean, layer.eval()(x[:4]), atol=0.1, rtol=0)


# Names, and what is trained
# --------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_names(kind: str) -> None:
    base = base_layer(kind)
    layer = ours(base, ("a", "b"), use_dora=True)
    wrapped = nn.Sequential(layer)
    assert base.state_dict().keys() < layer.state_dict().keys()
    with_lora = {name for name, _ in wrapped.named_parameters() if "lora" in name}
    assert with_lora == {f"0.adapters.{n}.lora_{p}" for n in "ab" for p in ("a", "b", "magnitude")}


def test_the_weight_is_taken_over_and_frozen() -> None:
    base = nn.Linear(IN, OUT)
    layer = sk.nn.LoRALinear(base, RANK)
    assert layer.weight is base.weight
    assert layer.bias is base.bias
    assert {name for name, p in layer.named_parameters() if p.requires_grad} == {
        "adapters.default.lora_a",
        "adapters.default.lora_b",
    }
    layer.weight.requires_grad_()
    layer.bias.requires_grad_()
    layer(torch.randn(3, IN)).sum().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


def test_active_adapters_are_the_trained_ones() -> None:
    layer = ours(base_layer(), ("a", "b"))
    assert layer.active_adapters == ["a"]
    for active in (["a"], ["b"], ["b", "a"], []):
        layer.set_adapter(active)
        trained = {name.split(".")[0] for name, p in own(layer).items() if p.requires_grad}
        assert trained == set(active)


def test_disabled_is_the_base_and_ends() -> None:
    base = base_layer()
    layer = ours(base, use_dora=True)
    x = torch.randn(5, IN, dtype=torch.float64)
    expected = layer(x)
    with layer.disabled():
        with pytest.raises(ValueError, match="input"), layer.disabled():
            layer(x[:, 1:])  # too narrow
        torch.testing.assert_close(layer(x), base(x))
    assert torch.equal(layer(x), expected)


# Bad input
# ---------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0, expected 1 to 7, the smaller of in_features=12 and out_features=7"),
        ({"rank": 8}, "rank is 8, expected 1 to 7"),
        ({"rank": -1}, "rank is -1"),
        ({"alpha": 0.0}, "alpha is 0.0, expected a positive finite number"),
        ({"alpha": -2}, "alpha is -2"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha": float("inf")}, "alpha is inf"),
        ({"dropout": 1.0}, r"dropout is 1.0, expected a number in \[0, 1\)"),
        ({"dropout": -0.1}, "dropout is -0.1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"init": "zeros"}, "init is 'zeros', expected one of kaiming, gaussian"),
        ({"adapter": ""}, "adapter name is ''"),
        ({"adapter": "a.b"}, "adapter name is 'a.b', expected a word without dots"),
        ({"adapter": "keys"}, "adapter name is 'keys'"),
    ],
)
def test_numbers_and_names_out_of_range(options: dict[str, Any], message: str) -> None:
    base = base_layer()
    with pytest.raises(ValueError, match=message):
        sk.nn.LoRALinear(base, **{"rank": 2, **options})
    assert all(parameter.requires_grad for parameter in base.parameters())
    layer = ours(base)
    before = list(layer.state_dict())
    name = options.pop("adapter", "another")
    with pytest.raises(ValueError, match=message):
        layer.add_adapter(name, **{"rank": 2, **options})
    assert list(layer.state_dict()) == before


@pytest.mark.parametrize("rank", [2.0, True, "2"])
def test_a_rank_that_is_no_int(rank: Any) -> None:
    with pytest.raises(TypeError, match=f"rank is {rank!r}, expected an int"):
        sk.nn.LoRALinear(base_layer(), rank)


def test_unknown_adapters() -> None:
    layer = ours(base_layer(), ("a", "b"))
    with pytest.raises(ValueError, match=r"adapters are \['c'\], expected some of \['a', 'b'\]"):
        layer.set_adapter("c")
    with pytest.raises(ValueError, match=r"adapters are \['a', 'a'\]"):
        layer.set_adapter(["a", "a"])
    with pytest.raises(ValueError, match="adapter 'a' exists already"):
        layer.add_adapter("a", 2)
    assert layer.active_adapters == ["a"]


class Doubling(nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class Named(nn.Linear):
    """With nothing of its own."""


def test_layers_that_are_wrapped() -> None:
    for base in (Named(4, 4), nn.modules.linear.NonDynamicallyQuantizableLinear(4, 4), sk.nn.Linear(4, 4)):
        x = torch.randn(3, 4)
        torch.testing.assert_close(sk.nn.LoRALinear(base, 2)(x), base(x))
    assert sk.nn.LoRALinear(nn.Linear(4, 4, device="meta"), 2).adapters["default"].lora_a.is_meta


def test_the_activation_of_our_linear_layer_acts_on_the_sum() -> None:
    base = sk.nn.Linear(IN, OUT, dtype=torch.float64, activation="gelu")
    layer = ours(base)
    x = torch.randn(5, IN, dtype=torch.float64)
    expected = F.gelu(F.linear(x, base.weight + adapter_update(layer), base.bias))
    torch.testing.assert_close(layer(x), expected)
    with layer.disabled():
        torch.testing.assert_close(layer(x), base(x))
    layer.merge()
    torch.testing.assert_close(layer(x), expected)
    if sk.info()["native"]:
        torch.testing.assert_close(torch.jit.script(layer)(x), expected)


def adapter_update(layer: sk.nn.LoRALinear) -> torch.Tensor:
    adapter = layer.adapters["default"]
    return adapter.scaling * adapter.lora_b @ adapter.lora_a


def test_layers_that_cannot_be_wrapped() -> None:
    with pytest.raises(TypeError, match=r"base is a Conv1d, expected a torch\.nn\.Linear"):
        sk.nn.LoRALinear(nn.Conv1d(4, 4, 1), 2)
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Linear"):
        sk.nn.LoRALinear(torch.ones(3, 3), 2)
    with pytest.raises(TypeError, match=r"Doubling with a forward of its own, which would be lost"):
        sk.nn.LoRALinear(Doubling(4, 4), 2)
    patched = nn.Linear(4, 4)
    patched.forward = lambda input: input  # type: ignore[method-assign]
    with pytest.raises(TypeError, match="forward of its own"):
        sk.nn.LoRALinear(patched, 2)
    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, args, output: None)
    with pytest.raises(ValueError, match="has forward or backward hooks"):
        sk.nn.LoRALinear(hooked, 2)
    computed = nn.utils.parametrizations.orthogonal(nn.Linear(4, 4))
    with pytest.raises((TypeError, ValueError), match="parametrization"):
        sk.nn.LoRALinear(computed, 2)
    integers = nn.Linear(4, 4)
    integers.weight = nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(TypeError, match=r"base.weight is torch.int8"):
        sk.nn.LoRALinear(integers, 2)
    with pytest.raises(TypeError, match="LoRALinear"):
        sk.nn.LoRALinear(ours(base_layer()), 2)
