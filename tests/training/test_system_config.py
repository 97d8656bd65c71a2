"""The YAML of a training system: what is in it arrives, and what is wrong with it is said."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pydantic")
pytest.importorskip("yaml")

from seo_kernels.training.system_config import ConfigError, load_config
from seo_kernels.training.system_schema import AutogradSystemConfig, Performance

DOCUMENTED = """
autograd_system:
  enable_gradients: true
  gradient_monitoring:
    enabled: true
    save_gradient_history: true

  advanced_features:
    higher_order_gradients: true
    custom_gradients: true
    gradient_checkpointing: false
"""
EVERYTHING = """
autograd_system:
  enable_gradients: false
  gradient_monitoring: {enabled: false, save_gradient_history: false}
  advanced_features: {higher_order_gradients: false, custom_gradients: false, gradient_checkpointing: true}
  performance: {mixed_precision: fp16, compile: true, channels_last: true, accumulation_steps: 4}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_the_documented_file_is_the_default(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, DOCUMENTED)) == AutogradSystemConfig()
    assert load_config(str(written(tmp_path, "autograd_system:\n"))) == AutogradSystemConfig()
    assert load_config(written(tmp_path, "autograd_system:\n  performance:\n")) == AutogradSystemConfig()


def test_every_key_arrives(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, EVERYTHING))
    assert config.model_dump() == {
        "enable_gradients": False,
        "gradient_monitoring": {"enabled": False, "save_gradient_history": False},
        "advanced_features": {
            "higher_order_gradients": False,
            "custom_gradients": False,
            "gradient_checkpointing": True,
        },
        "performance": {
            "mixed_precision": "fp16",
            "compile": True,
            "channels_last": True,
            "accumulation_steps": 4,
        },
    }


@pytest.mark.parametrize(
    ("value", "name"), [(True, "bf16"), (False, "no"), ("no", "no"), ("bf16", "bf16"), ("fp16", "fp16")]
)
def test_precision_by_name(value: Any, name: str) -> None:
    config = load_config({"autograd_system": {"performance": {"mixed_precision": value}}})
    assert config.performance.precision == name


def test_it_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Performance().compile = True  # type: ignore[misc]


PATH = "autograd_system.performance"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"performence": {}},
            "performence is no key of autograd_system; the nearest known one is performance",
        ),
        (
            {"performance": {"Compile": True}},
            f"Compile is no key of {PATH}; the nearest known one is compile",
        ),
        (
            {"compile": True},
            f"compile is no key of autograd_system; the nearest known one is {PATH}.compile",
        ),
        (
            {"advanced_features": {"higher_order_gradient": True}},
            "higher_order_gradient is no key of autograd_system.advanced_features; the nearest known one is "
            "higher_order_gradients",
        ),
        ({"xyz": 1}, "xyz is no key of autograd_system; it has enable_gradients, gradient_monitoring"),
        ({7: 1}, "7 is no key of autograd_system; it has"),
        (
            {"enable_gradients": "yes"},
            "autograd_system.enable_gradients is a str ('yes'), expected true or false",
        ),
        (
            {"gradient_monitoring": {"enabled": 1}},
            "autograd_system.gradient_monitoring.enabled is an int (1), expected true or false",
        ),
        ({"performance": 3}, f"{PATH} is an int (3), expected a mapping with keys among mixed_precision"),
        (
            {"performance": {"accumulation_steps": 0}},
            f"{PATH}.accumulation_steps is an int (0), expected an int",
        ),
        (
            {"performance": {"accumulation_steps": 2.0}},
            f"{PATH}.accumulation_steps is a float (2.0), expected",
        ),
        (
            {"performance": {"accumulation_steps": True}},
            f"{PATH}.accumulation_steps is true, expected an int",
        ),
        (
            {"performance": {"mixed_precision": "int8"}},
            f"{PATH}.mixed_precision is a str ('int8'), expected true",
        ),
        ([1], "autograd_system is a list, expected a mapping"),
    ],
)
def test_what_is_wrong_is_said(section: Any, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config({"autograd_system": section})
    assert str(raised.value).startswith(message)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(ConfigError, match=r"compile is an int \(2\).*; enabel is no key"):
        load_config({"autograd_system": {"performance": {"compile": 2}, "enabel": True}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "config.yaml is empty, expected a mapping with the key autograd_system"),
        ("- 1", "config.yaml is a list, expected a mapping"),
        ("a: [", "config.yaml is no YAML"),
        (
            "autograd_sytem: {}",
            "config.yaml: .*autograd_sytem is no key; the nearest known one is autograd_system",
        ),
        (
            "autograd_system: {enable_gradients: true, enable_gradients: false}",
            "enable_gradients stands there twice",
        ),
        ("autograd_system: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(written(tmp_path, text))


def test_no_file_at_all(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.yaml"):
        load_config(tmp_path / "nowhere.yaml")
    with pytest.raises(TypeError, match="source is an int"):
        load_config(3)  # type: ignore[arg-type]
