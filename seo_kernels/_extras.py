"""Optional dependencies: imported where they are used, and named when they are missing."""

import importlib
from typing import Any


class MissingExtraError(ImportError):
    """A library that an extra of the package installs is not there."""


def require(module: str, *, extra: str, purpose: str) -> Any:
    """Import ``module``, which the optional dependencies ``extra`` of pyproject.toml bring.

    Raises:
        MissingExtraError: it is not installed; the message says what to type.

    >>> require("json", extra="plots", purpose="draw the loss curve").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # the module is there, something that it needs is not
        raise MissingExtraError(
            f"{module} is needed to {purpose} and is not installed; type: pip install 'seo_kernels[{extra}]'",
            name=error.name,
        ) from None
