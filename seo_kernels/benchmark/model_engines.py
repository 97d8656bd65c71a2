"""The same model with adapters by this library and by PEFT."""

from __future__ import annotations

from typing import Any

from torch import nn

import seo_kernels as sk
from seo_kernels._extras import require
from seo_kernels.benchmark.model_problem import SCALING, TARGETS, ModelProblem, Training


def ours(problem: ModelProblem) -> Training:
    """``sk.lora.apply``."""
    model = problem.make_model()
    sk.lora.apply(model, rank=problem.rank, alpha=SCALING * problem.rank, target_modules=TARGETS)
    adapters: dict[str, nn.Parameter] = {}
    for path, layer in model.named_modules():
        if isinstance(layer, sk.nn.LoRALinear):
            adapter: Any = layer.adapters["default"]
            adapters |= {f"{path}.lora_a": adapter.lora_a, f"{path}.lora_b": adapter.lora_b}
    return Training(model, adapters)


def peft(problem: ModelProblem) -> Training:
    """``peft.get_peft_model``; its adapters are float32 around a bfloat16 model, as ours are."""
    library = require("peft", extra="peft", purpose="run beside PEFT")
    config = library.LoraConfig(
        r=problem.rank,
        lora_alpha=SCALING * problem.rank,
        target_modules=list(TARGETS),
        fan_in_fan_out=True,
    )
    model = library.get_peft_model(problem.make_model(), config)
    adapters = {}
    for path, layer in model.base_model.model.named_modules():
        if isinstance(layer, library.tuners.lora.LoraLayer):
            adapters[f"{path}.lora_a"] = layer.lora_A["default"].weight
            adapters[f"{path}.lora_b"] = layer.lora_B["default"].weight
    return Training(model, adapters)
