"""A LoRALinear and PEFT's layer around equal weights, and what comes out of one call of either."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import seo_kernels as sk

IN, OUT, RANK, ALPHA = 12, 7, 3, 5.0
KINDS = ["linear", "no_bias", "conv1d"]
VARIANTS: list[dict[str, Any]] = [{}, {"use_rslora": True}, {"use_dora": True}]


def base_layer(kind: str = "linear", dtype: torch.dtype = torch.float64) -> nn.Module:
    """A layer to wrap, with random bias."""
    if kind == "conv1d":
        layer: nn.Module = pytest.importorskip("transformers.pytorch_utils").Conv1D(OUT, IN)
        nn.init.normal_(layer.weight)
    else:
        layer = nn.Linear(IN, OUT, bias=kind == "linear")
    if layer.bias is not None:
        nn.init.normal_(layer.bias)
    return layer.to(dtype)


def randomise(layer: nn.Module) -> None:
    """Values for the adapters, whose update is zero at first."""
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "lora" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def ours(base: nn.Module, names: tuple[str, ...] = ("default",), **options: Any) -> sk.nn.LoRALinear:
    """A layer around a copy of ``base`` with random adapters; options for one, as given, apply to all."""
    layer = sk.nn.LoRALinear(copy.deepcopy(base), RANK, ALPHA, adapter=names[0], **options)
    for name in names[1:]:
        layer.add_adapter(name, RANK - 1, ALPHA + 1, **options)
    randomise(layer)
    return layer


def peft_twin(layer: sk.nn.LoRALinear, base: nn.Module) -> nn.Module:
    """PEFT's layer around a copy of ``base``, with the adapters of ``layer``."""
    peft = pytest.importorskip("peft")
    from peft.tuners.lora.layer import Linear

    twin: nn.Module | None = None
    for name, adapter in layer.adapters.items():
        config = peft.LoraConfig(
            r=adapter.rank,
            lora_alpha=adapter.alpha,
            lora_dropout=adapter.dropout,
            use_rslora=adapter.use_rslora,
            use_dora=adapter.use_dora,
            fan_in_fan_out=layer.transposed,
        )
        if twin is None:
            twin = Linear(copy.deepcopy(base), name, config, r=adapter.rank, lora_alpha=adapter.alpha)
        else:
            twin.update_layer(name, adapter.rank, adapter.alpha, config)
        twin.lora_A[name].weight.data = adapter.lora_a.detach().clone()
        twin.lora_B[name].weight.data = adapter.lora_b.detach().clone()
        if adapter.use_dora:
            twin.lora_magnitude_vector[name].weight.data = adapter.lora_magnitude.detach().clone()
    assert twin is not None
    twin.set_adapter(layer.active_adapters)
    return twin.train(layer.training)


def peft_parameters(twin: nn.Module, layer: sk.nn.LoRALinear) -> dict[str, Tensor]:
    """PEFT's parameters by our names."""
    found = {}
    for name, adapter in layer.adapters.items():
        found[f"{name}.lora_a"] = twin.lora_A[name].weight
        found[f"{name}.lora_b"] = twin.lora_B[name].weight
        if adapter.use_dora:
            found[f"{name}.lora_magnitude"] = twin.lora_magnitude_vector[name].weight
    return found


def outcome(call: Any, input: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """The output, and the gradients of the input and the parameters that want one."""
    leaf = input.detach().clone().requires_grad_()
    out = call(leaf)
    wanted = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out.dtype)
    gradients = torch.autograd.grad(out, [leaf, *wanted.values()], weights)
    return dict(zip(["out", "input", *wanted], [out.detach(), *gradients], strict=True))


def assert_same(got: dict[str, Any], expected: dict[str, Any], **tolerances: float) -> None:
    assert got.keys() == expected.keys()
    for name in got:
        torch.testing.assert_close(got[name], expected[name], **tolerances, msg=lambda m, n=name: f"{n}: {m}")
