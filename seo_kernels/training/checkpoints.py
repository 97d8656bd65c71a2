"""Files that training goes on from: whole or not there, and read without running what is in them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seo_kernels.diagnostics.report_files import replacing
from seo_kernels.ops.checks import kind

CHECKPOINT = "checkpoint.pt"
BEST = "best.pt"
FORMAT = 1
PLAIN = (type(None), bool, int, float, complex, str, bytes, Tensor, torch.dtype, torch.device)


def prepare_folder(folder: str | os.PathLike[str]) -> Path:
    """The folder, made where it is not there, once a file could be written in it.

    Raises:
        TypeError: no path.
        OSError: it cannot be made or written to; the message names it.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(f"checkpoint_folder is {kind(folder)}, expected a folder's path")
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(
            error.errno, f"checkpoint_folder is {path}, expected a folder that can be made: {reason}"
        ) from error
    trial = path / f".trial.{os.getpid()}"
    with replacing(trial):
        pass
    trial.unlink()
    for left in path.glob(".*.pt.*.part"):  # of a run that was killed while it wrote
        with contextlib.suppress(OSError):
            left.unlink()
    return path


def write_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state so that at any moment the file is the old one or all of the new one.

    Raises:
        TypeError: something in it is no tensor, number or text, and could not be read safely.
        OSError: the file cannot be written; the message names it, and the old one stays.
    """
    check_plain(state, "state")
    with replacing(path) as file:
        torch.save({"format": FORMAT, **state}, file)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What ``write_checkpoint`` wrote, on the CPU.

    Raises:
        FileNotFoundError: there is none.
        OSError: it cannot be opened.
        ValueError: the file is something else, or broken.
    """
    if not path.is_file():
        raise FileNotFoundError(2, f"there is no checkpoint at {path}")
    with path.open("rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # what is no checkpoint fails in any way
            raise ValueError(f"{path} is no checkpoint that can be read: {error}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{path} is something else, expected a checkpoint of format {FORMAT}")
    return state


def check_plain(value: object, where: str) -> None:
    """Raise a TypeError unless torch's safe loader will read the value."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            check_plain(key, f"a key of {where}")
            check_plain(entry, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple, set)):
        for index, entry in enumerate(value):
            check_plain(entry, f"{where}[{index}]")
    elif not isinstance(value, PLAIN):
        raise TypeError(f"{where} is {kind(value)}, expected tensors, numbers or text")


def check_fits(model: nn.Module, state: Mapping[str, Any], path: Path) -> None:
    """Raise a ValueError, before anything is changed, unless the state is one of this model."""
    own = model.state_dict()
    missing, unknown = (
        [name for name in own if name not in state],
        [name for name in state if name not in own],
    )
    for names, problem in ((missing, "lacks"), (unknown, "has")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise ValueError(f"{path} is of another model: it {problem} {names[0]!r}{more}")
    for name, value in own.items():
        if isinstance(value, Tensor) and value.shape != state[name].shape:
            raise ValueError(
                f"{path} is of another model: {name!r} has shape {tuple(state[name].shape)}, "
                f"expected {tuple(value.shape)}"
            )
