"""The processes that train together, one or several: what they share out, and what they make one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from seo_kernels._extras import require
from seo_kernels.ops.checks import kind

KINDS = ("NO", "MULTI_CPU", "MULTI_GPU")


class Processes:
    """Those that accelerate was launched with: ``accelerate launch``, ``torchrun``, or this one alone.

    Args:
        mixed_precision: of the engine: a launch with another is an error.

    Attributes:
        accelerator: accelerate's. All engines of a process share its state, the precision too, so that an
            engine sees to its own; and it leaves float16 on the CPU alone.

    Raises:
        MissingExtraError: accelerate is not installed.
        ValueError: it was launched with another precision, or for something else than these processes.
    """

    def __init__(self, mixed_precision: str = "no") -> None:
        self.accelerate = require("accelerate", extra="train", purpose="train a model")
        self.accelerator = self.accelerate.Accelerator()
        launched, launched_for = self.accelerator.mixed_precision, self.accelerator.distributed_type.value
        if launched not in ("no", mixed_precision):
            raise ValueError(
                f"accelerate was launched with mixed_precision={launched!r}, the settings have "
                f"{mixed_precision!r}, expected the same or none at the launch"
            )
        if launched_for not in KINDS:
            raise ValueError(
                f"accelerate was launched for {launched_for}, expected one of {', '.join(KINDS)}"
            )
        self._parts: dict[tuple[int, bool], tuple[Any, Any]] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.accelerator.num_processes)

    @property
    def index(self) -> int:
        """Which one this is, from 0."""
        return int(self.accelerator.process_index)

    @property
    def first(self) -> bool:
        """Whether this one writes and shows what all of them did."""
        return bool(self.accelerator.is_main_process)

    def wrapped(self, model: nn.Module) -> nn.Module:
        """The model as several processes call it; alone, the model itself, on the device that it is on."""
        if self.count == 1:
            return model
        wrapped: nn.Module = self.accelerator.prepare_model(model.to(self.accelerator.device))
        return wrapped

    def apart(self, model: nn.Module) -> contextlib.AbstractContextManager[Any]:
        """Gradients computed within stay each process's own."""
        nothing: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        return nothing if self.count == 1 else self.accelerator.no_sync(model)

    def set_seed(self, seed: int) -> None:
        """Of python, numpy and torch; each process adds its index."""
        self.accelerate.utils.set_seed(seed, device_specific=True)

    def to_device(self, batch: Any, device: torch.device) -> Any:
        """The batch with all of its tensors there."""
        return self.accelerate.utils.send_to_device(batch, device)

    def mean(self, values: Tensor) -> Tensor:
        """Over the processes."""
        return values if self.count == 1 else self.accelerator.reduce(values, "mean")

    def gathered(self, value: Any) -> list[Any]:
        """The value of every process, in order."""
        return [value] if self.count == 1 else list(self.accelerate.utils.gather_object([value]))

    def wait(self) -> None:
        """Until all have come here."""
        self.accelerator.wait_for_everyone()

    def reduce_gradients(self, model: nn.Module) -> None:
        """Make the gradients of a window that ended unexpectedly one."""
        for parameter in model.parameters():
            if parameter.requires_grad:
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.mean(own)

    def part(self, name: str, loader: Any, even: bool = True) -> Any:
        """The loader, or where there are several processes this one's part of it.

        Args:
            name: for errors.
            loader: yields batches.
            even: all processes have as many batches; rows come twice where that needs it.

        Raises:
            TypeError: it yields nothing, or cannot be shared.
        """
        if not isinstance(loader, Iterable):
            raise TypeError(f"{name} is {kind(loader)}, expected something that yields batches")
        if self.count == 1:
            return loader
        if not isinstance(loader, DataLoader):
            raise TypeError(
                f"{name} is {kind(loader)}, expected a torch DataLoader, for {self.count} processes"
            )
        if (id(loader), even) not in self._parts:
            part = self.accelerate.data_loader.prepare_data_loader(
                loader,
                self.accelerator.device,
                num_processes=self.count,
                process_index=self.index,
                rng_types=["generator"],
                even_batches=even,
            )
            self._parts[id(loader), even] = loader, part  # the loader too, so that its id stays its own
        return self._parts[id(loader), even][1]
