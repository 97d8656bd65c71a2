"""``adapter_config.json``: what PEFT writes about an adapter, read and written."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from seo_kernels.lora.install import Settings
from seo_kernels.lora.matching import find_targets, pattern_value, shortest_targets

FILE = "adapter_config.json"

# What changes nothing about the computation, or is read from elsewhere.
IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "fan_in_fan_out",  # seen from the layer
    "inference_mode",
    "init_lora_weights",  # the weights come with the adapter
    "loftq_config",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
USED = {
    "alpha_pattern",
    "exclude_modules",
    "lora_alpha",
    "lora_dropout",
    "peft_type",
    "r",
    "rank_pattern",
    "target_modules",
    "use_dora",
    "use_rslora",
}
# These initialisations also change the base weight, so that the adapter alone is not the whole of it.
CHANGING_BASE = ("corda", "lora_ga", "loftq", "mica", "olora", "orthogonal", "pissa")


def read_plan(model: nn.Module, folder: Path) -> dict[str, Settings]:
    """The settings of every layer that the folder's adapter is for, by path in the model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a LoRA adapter's, asks for what is not supported, or matches no layer here.
    """
    file = folder / FILE
    config = _read(file)
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{str(file)!r} has peft_type={config.get('peft_type')!r}, expected 'LORA'")
    _check_supported(file, config)
    try:
        paths = find_targets(model, config["target_modules"], config.get("exclude_modules"))
        ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
        return {
            path: Settings(
                rank=pattern_value(ranks, path, config["r"]),
                alpha=pattern_value(alphas, path, config["lora_alpha"]),
                dropout=config.get("lora_dropout", 0.0),
                use_rslora=bool(config.get("use_rslora")),
                use_dora=bool(config.get("use_dora")),
            )
            for path in paths
        }
    except KeyError as error:
        raise ValueError(f"{str(file)!r} lacks {error}, expected an adapter that PEFT wrote") from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{str(file)!r} does not fit this model: {error}") from None


def render(
    model: nn.Module, settings: Mapping[str, Settings], transposed: bool, base_name: str | None
) -> str:
    """The file's text, for the adapter with these settings by path.

    Raises:
        ValueError: layers differ in what PEFT has only one value for.
    """
    for name in ("dropout", "use_rslora", "use_dora"):
        values = {getattr(layer, name) for layer in settings.values()}
        if len(values) > 1:
            raise ValueError(
                f"the layers have {name} {sorted(values)}, expected one value: PEFT's folder holds only one"
            )
    some = next(iter(settings.values()))
    rank = Counter(layer.rank for layer in settings.values()).most_common(1)[0][0]
    alpha = Counter(layer.alpha for layer in settings.values()).most_common(1)[0][0]
    config = {
        "alpha_pattern": {
            _pattern(path): _number(layer.alpha) for path, layer in settings.items() if layer.alpha != alpha
        },
        "base_model_name_or_path": base_name,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": _number(alpha),
        "lora_dropout": some.dropout,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": rank,
        "rank_pattern": {
            _pattern(path): layer.rank for path, layer in settings.items() if layer.rank != rank
        },
        "target_modules": shortest_targets(model, list(settings)),
        "task_type": None,
        "use_dora": some.use_dora,
        "use_rslora": some.use_rslora,
    }
    return json.dumps(config, indent=2) + "\n"


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {str(file)!r}, expected a folder that PEFT or sk.lora.save wrote"
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{str(file)!r} holds a {type(config).__name__}, expected an object")
    return config


def _check_supported(file: Path, config: dict[str, Any]) -> None:
    if config.get("bias", "none") != "none":
        raise ValueError(f"{str(file)!r} has bias={config['bias']!r}, expected 'none': no other is supported")
    init = config.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith(CHANGING_BASE):
        raise ValueError(
            f"{str(file)!r} has init_lora_weights={init!r}, which changed the base weights too; expected an "
            "adapter of the unchanged model"
        )
    known = {*IGNORED, *USED, "bias"}
    unsupported = [name for name, value in config.items() if name not in known and value]
    if unsupported:
        shown = ", ".join(f"{name}={config[name]!r}" for name in unsupported)
        raise ValueError(f"{str(file)!r} has {shown}, expected none of these: not supported")


def _pattern(path: str) -> str:
    """A pattern that PEFT matches with this path alone."""
    return "^" + path.replace(".", r"\.")


def _number(value: float) -> int | float:
    return int(value) if value == int(value) else value
