"""Files that are either whole or not there: reports, pictures, checkpoints."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from seo_kernels.ops.checks import kind

NAMES = {math.inf: "Inf", -math.inf: "-Inf"}


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a file so that whoever reads it, even after a crash, finds the old content or all of the new.

    Args:
        path: its folder has to be there.
        content: text is written as UTF-8.

    Returns:
        The path.

    Raises:
        TypeError: ``content`` is neither text nor bytes.
        OSError: the path cannot be written; the message names it, and the old content stays.
    """
    if not isinstance(content, (str, bytes)):
        raise TypeError(f"content is {kind(content)}, expected str or bytes")
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)
    return Path(path)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file in the same folder that takes the place of ``path`` at the end, or vanishes on an error.

    Raises:
        TypeError: ``path`` is no path.
        OSError: it cannot be written; the message names it.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path is {kind(path)}, expected a file's path")
    target = Path(path)
    try:
        if target.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        name = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
        handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(name, target.stat().st_mode & 0o7777)
        os.replace(name, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        if isinstance(error, OSError):
            raise _unwritable(target, error) from error
        raise
    _sync_folder(target.parent)


def json_text(value: object) -> str:
    """Strict JSON: NaN and Inf, which it does not know, become "NaN", "Inf" and "-Inf".

    Raises:
        TypeError: something in it is neither JSON nor a tensor, tuple or path.

    >>> print(json_text({"norm": math.nan, "steps": (1, 2)}))
    {
      "norm": "NaN",
      "steps": [
        1,
        2
      ]
    }
    """
    return json.dumps(_jsonable(value), indent=2, allow_nan=False)


def _jsonable(value: object) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return NAMES.get(value, "NaN")
    if isinstance(value, Tensor):
        return _jsonable(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(entry) for entry in value]
    return str(value) if isinstance(value, os.PathLike) else value


def _unwritable(path: Path, error: OSError) -> OSError:
    reason = error.strerror or str(error)
    return type(error)(error.errno, f"path is {path}, expected a file that can be written: {reason}")


def _sync_folder(folder: Path) -> None:
    """The new name survives a power cut too, where the system lets a folder be opened."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
