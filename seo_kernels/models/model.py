"""What every documented model can: be saved to a folder, loaded from it, and keep less for backward."""

from __future__ import annotations

import inspect
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from torch import nn

from seo_kernels._extras import require
from seo_kernels.nn.layer_stack import LayerStack

CONFIG = "config.json"
TENSORS = "model.safetensors"
M = TypeVar("M", bound="Model")


class Model(nn.Module):
    """A module that knows what it was constructed with.

    Attributes:
        arguments: the keyword arguments that construct another one like it; those not given are left out.
        config_type: of its argument ``config``, a dataclass; None where it has no such argument.
    """

    config_type: ClassVar[type[Any] | None] = None

    if TYPE_CHECKING:  # TorchScript knows no such type
        arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        model = super().__new__(cls)
        given = inspect.signature(cls.__init__).bind_partial(model, *args, **kwargs).arguments
        # not through nn.Module, which is not constructed yet
        object.__setattr__(model, "arguments", dict(list(given.items())[1:]))
        return model

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json`` (the class and its arguments) and ``model.safetensors``.

        Args:
            folder: made if it is not there; the two files in it are written anew.

        Raises:
            TypeError: an argument that JSON can't hold.
            MissingExtraError: safetensors is not installed.
        """
        safetensors = _safetensors()
        arguments = dict(self.arguments)
        if self.config_type is not None:
            arguments["config"] = asdict(arguments["config"])
        config = {"model": type(self).__name__, "arguments": arguments}
        text = json.dumps(config, indent=2) + "\n"
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        # copies: parameters that share memory, or are views, are refused
        tensors = {name: t.detach().cpu().clone().contiguous() for name, t in self.state_dict().items()}
        safetensors.save_file(tensors, target / TENSORS, metadata={"format": "pt"})
        (target / CONFIG).write_text(text, encoding="utf-8")

    @classmethod
    def from_pretrained(cls: type[M], folder: str | os.PathLike[str]) -> M:
        """The model that ``save_pretrained`` wrote there, in its dtype, on the CPU, in eval mode.

        Raises:
            FileNotFoundError: the folder lacks a file.
            ValueError: a file that can't be read, holds another class, or tensors that do not fit.
            MissingExtraError: safetensors is not installed.
        """
        safetensors = _safetensors()
        source = Path(folder)
        for name in (CONFIG, TENSORS):
            if not (source / name).is_file():
                raise FileNotFoundError(
                    f"there is no {str(source / name)!r}, expected a folder that save_pretrained wrote"
                )
        try:
            config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
            saved, arguments = config["model"], dict(config["arguments"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{str(source / CONFIG)!r} can't be read as a model's: {error!r}") from None
        if saved != cls.__name__:
            raise ValueError(
                f"{str(source)!r} holds a {saved}, expected a {cls.__name__}: type {saved}.from_pretrained"
            )
        if cls.config_type is not None:
            arguments["config"] = cls.config_type(**arguments["config"])
        model = cls(**arguments)
        try:
            model.load_state_dict(safetensors.load_file(source / TENSORS), assign=True)
        except Exception as error:
            raise ValueError(f"{str(source / TENSORS)!r} does not fit this {saved}: {error}") from None
        return model.eval()

    def gradient_checkpointing_enable(self) -> None:
        """While training, keep the inputs of layers only and compute the rest again in backward.

        It may be called again. Results and gradients stay the same.
        """
        self._set_checkpointing(True)

    def gradient_checkpointing_disable(self) -> None:
        """Keep everything for backward again."""
        self._set_checkpointing(False)

    def _set_checkpointing(self, wanted: bool) -> None:
        for module in self.modules():
            if isinstance(module, LayerStack):
                module.gradient_checkpointing = wanted


def _safetensors() -> Any:
    return require("safetensors.torch", extra="models", purpose="save and load models")
