"""``sk.lora.save`` and ``sk.lora.load``: adapter folders as PEFT writes and reads them."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels._extras import require
from seo_kernels.lora import config
from seo_kernels.lora.install import Settings, check_targets, install
from seo_kernels.lora.report import Report
from seo_kernels.lora.switching import adapted_layers, adapter_names
from seo_kernels.nn.lora import LoRALinear
from seo_kernels.nn.lora_adapter import LoRAAdapter
from seo_kernels.nn.lora_base import features

FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
# ours -> PEFT's, behind the path of the layer
NAMES = {
    "lora_a": "lora_A.weight",
    "lora_b": "lora_B.weight",
    "lora_magnitude": "lora_magnitude_vector",
}
SHOWN_KEYS = 4


def save(model: nn.Module, folder: str | os.PathLike[str], *, adapter: str = "default") -> None:
    """Write one adapter, in the format of PEFT, whose ``PeftModel.from_pretrained`` reads it.

    Args:
        folder: made if it is not there; ``adapter_config.json`` and ``adapter_model.safetensors`` in it are
            written anew.

    Raises:
        ValueError: the model has no such adapter, or its layers differ in what PEFT has one value for.
        MissingExtraError: safetensors is not installed.
    """
    safetensors = _safetensors()
    layers = {path: layer for path, layer in adapted_layers(model).items() if adapter in layer.adapters}
    if not layers:
        names = adapter_names(model)
        raise ValueError(
            f"adapter is {adapter!r}, expected one of {names or 'the names given to sk.lora.apply'}"
        )
    if "" in layers:
        raise ValueError("model is a LoRALinear itself, expected a model with such layers inside")
    settings, tensors = {}, {}
    for path, layer in layers.items():
        held = layer.adapters[adapter]
        assert isinstance(held, LoRAAdapter)
        settings[path] = Settings(held.rank, held.alpha, held.dropout, held.use_rslora, held.use_dora)
        for part, parameter in held.named_parameters():
            tensors[f"{PREFIX}{path}.{NAMES[part]}"] = parameter.detach().cpu().contiguous().clone()
    transposed = all(layer.transposed for layer in layers.values())
    base_name = getattr(getattr(model, "config", None), "_name_or_path", None) or None
    text = config.render(model, settings, transposed, base_name)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    safetensors.save_file(tensors, target / FILE, metadata={"format": "pt"})
    (target / config.FILE).write_text(text, encoding="utf-8")


def load(model: nn.Module, folder: str | os.PathLike[str], *, adapter: str = "default") -> Report:
    """Read an adapter folder that PEFT or ``save`` wrote into the model, as ``apply`` would put it there.

    Its parameters are trainable where it is the model's first adapter; a further one waits for
    ``sk.lora.set_adapter``.

    Args:
        adapter: the name that it gets here.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: an adapter of another kind or of another architecture, one with missing or unexpected
            tensors, with wrong shapes, or with an option that is not supported. The model is as it was.
        MissingExtraError: safetensors is not installed.
    """
    safetensors = _safetensors()
    source = Path(folder)
    plan = config.read_plan(model, source)
    tensors = _read(source / FILE, safetensors)
    check_targets(model, plan, adapter)
    _check_tensors(source / FILE, model, plan, tensors)
    report, layers = install(model, plan, adapter)
    with torch.no_grad():
        for path, layer in layers.items():
            for name, parameter in layer.adapters[adapter].named_parameters():
                parameter.copy_(tensors[f"{PREFIX}{path}.{NAMES[name]}"])
    return report


def _safetensors() -> Any:
    return require("safetensors.torch", extra="lora", purpose="read and write adapter folders")


def _read(file: Path, safetensors: Any) -> dict[str, Tensor]:
    if not file.is_file():
        raise FileNotFoundError(f"there is no {str(file)!r}, expected the tensors of an adapter")
    try:
        tensors: dict[str, Tensor] = safetensors.load_file(file)
    except Exception as error:
        raise ValueError(f"{str(file)!r} can't be read, expected a safetensors file: {error}") from None
    return tensors


def _check_tensors(
    file: Path, model: nn.Module, plan: Mapping[str, Settings], tensors: Mapping[str, Tensor]
) -> None:
    """Raise unless there is exactly one tensor of the right shape for every parameter.

    Raises:
        ValueError: there is not.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path, settings in plan.items():
        module = model.get_submodule(path)
        in_features, out_features = (
            (module.in_features, module.out_features) if isinstance(module, LoRALinear) else features(module)
        )
        shapes[f"{PREFIX}{path}.{NAMES['lora_a']}"] = (settings.rank, in_features)
        shapes[f"{PREFIX}{path}.{NAMES['lora_b']}"] = (out_features, settings.rank)
        if settings.use_dora:
            shapes[f"{PREFIX}{path}.{NAMES['lora_magnitude']}"] = (out_features,)
    missing = [key for key in shapes if key not in tensors]
    if missing:
        raise ValueError(
            f"{str(file)!r} lacks {_some(missing)}, expected the tensors of every layer it is for"
        )
    unexpected = [key for key in tensors if key not in shapes]
    if unexpected:
        raise ValueError(
            f"{str(file)!r} has {_some(unexpected)}, for which this model has no place; expected an "
            "adapter of the same architecture"
        )
    for key, shape in shapes.items():
        if tuple(tensors[key].shape) != shape:
            raise ValueError(f"{key} has shape {tuple(tensors[key].shape)}, expected {shape} in this model")


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more
