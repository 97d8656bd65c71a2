"""The configuration of an ``AutogradTrainingSystem``, read from YAML with errors that name the key."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seo_kernels._extras import require
from seo_kernels.ops.checks import kind

if TYPE_CHECKING:
    from seo_kernels.training.system_schema import AutogradSystemConfig, Section

TOP = "autograd_system"


class ConfigError(ValueError):
    """A configuration that can't be used; the message names each key by its whole path."""


def load_config(source: str | os.PathLike[str] | Mapping[str, Any]) -> AutogradSystemConfig:
    """The configuration in a YAML file, or in a mapping of the same form.

    Keys that are left out have their defaults, and so has a section with nothing behind its key. What each
    key does: see ``seo_kernels.training.system_schema``.

    Args:
        source: a path, or a mapping; at its top there is the key ``autograd_system``.

    Raises:
        ConfigError: no YAML; a key that stands there twice; an unknown key, beside the nearest known one; a
            value of another type or out of range, beside the path of its key, such as
            autograd_system.performance.compile.
        OSError: the file can't be read.
        MissingExtraError: pydantic or PyYAML is not installed.

    >>> load_config({"autograd_system": {"performance": {"accumulation_steps": 4}}}).performance.compile
    False
    """
    if isinstance(source, Mapping):
        return _checked(source)
    if not isinstance(source, (str, os.PathLike)):
        raise TypeError(f"source is {kind(source)}, expected a path or a mapping")
    yaml = require("yaml", extra="train", purpose="read a configuration file")
    try:
        content = _parsed(yaml, Path(source).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} is no YAML: {error}") from error
    if not isinstance(content, Mapping):
        shown = "empty" if content is None else kind(content)
        raise ConfigError(f"{source} is {shown}, expected a mapping with the key {TOP}")
    try:
        return _checked(content)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _parsed(yaml: Any, text: str) -> Any:
    """As ``yaml.safe_load``, but a key that stands there twice is an error."""

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value} stands there twice", key.start_mark
                    )
                seen.add(key.value)
            mapping: dict[Any, Any] = super().construct_mapping(node, deep)
            return mapping

    return yaml.load(text, Loader)


def _checked(content: Mapping[Any, Any]) -> AutogradSystemConfig:
    pydantic = require("pydantic", extra="train", purpose="check a configuration")
    from seo_kernels.training.system_schema import ConfigFile  # needs pydantic

    try:
        return ConfigFile.model_validate(_with_sections(content)).autograd_system
    except pydantic.ValidationError as error:
        # of a value that may be of several types there is a problem for each
        problems = dict.fromkeys(_sentence(ConfigFile, problem) for problem in error.errors())
        raise ConfigError("; ".join(problems)) from None


def _with_sections(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The content with {} for the sections that have nothing behind their key, and keys that are text."""
    sections = {TOP, "gradient_monitoring", "advanced_features", "performance"}
    return {
        str(key): {}
        if value is None and key in sections
        else _with_sections(value)
        if isinstance(value, Mapping)
        else value
        for key, value in content.items()
    }


def _sentence(top: type[Section], problem: Mapping[str, Any]) -> str:
    """What is wrong with one key."""
    section, names = top, []
    for name in map(str, problem["loc"]):  # behind the key it may name one type of several
        names.append(name)
        inner = _inner(section, name)
        if inner is None:
            break
        section = inner
    path = ".".join(names)
    if problem["type"] == "extra_forbidden":
        return _unknown(top, section, names)
    if problem["type"] == "missing":
        return f"the key {path} is missing"
    return f"{path} is {_shown(problem['input'])}, expected {_expected(section, names[-1])}"


def _expected(section: type[Section], name: str) -> str:
    annotation = section.model_fields[name].annotation if name in section.model_fields else None
    if annotation is None:
        return f"a mapping with keys among {', '.join(section.model_fields)}"
    if annotation is bool:
        return "true or false"
    return "an int >= 1" if annotation is int else 'true, false, "no", "bf16" or "fp16"'


def _unknown(top: type[Section], section: type[Section], names: list[str]) -> str:
    """That a key is not known, and which one may be meant: of its section first, then of any other."""
    *place, name = names
    where = f" of {'.'.join(place)}" if place else ""
    near = difflib.get_close_matches(name.lower(), list(section.model_fields), n=1, cutoff=0.5)
    if not near:
        elsewhere = {path.rpartition(".")[2]: path for path in _paths(top)}
        near = [elsewhere[key] for key in difflib.get_close_matches(name.lower(), elsewhere, n=1, cutoff=0.6)]
    known = f"the nearest known one is {near[0]}" if near else f"it has {', '.join(section.model_fields)}"
    return f"{name} is no key{where}; {known}"


def _inner(section: type[Section], name: str) -> type[Section] | None:
    """The section behind a key, where there is one."""
    field = section.model_fields.get(name)
    inner: Any = None if field is None else field.annotation
    return inner if hasattr(inner, "model_fields") else None


def _paths(section: type[Section], place: str = "") -> Iterator[str]:
    """Every key with its path."""
    for name in section.model_fields:
        yield place + name
        inner = _inner(section, name)
        if inner is not None:
            yield from _paths(inner, f"{place}{name}.")


def _shown(value: object) -> str:
    """As it stands in YAML."""
    return str(value).lower() if isinstance(value, bool) else kind(value)
