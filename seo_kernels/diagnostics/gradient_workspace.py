"""A copy of a model, its loss and its data in which parameters may be moved and every pass is the same pass.

The model itself is never run: ``.grad``, mode, buffers and hooks' counters of the original stay as they are.
"""

import copy
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from seo_kernels.diagnostics.undisturbed import call_model, check_scalar_loss


class Workspace:
    """Copies of a model, its loss function and its data, and the leaves whose gradients are looked at.

    Args:
        model: in the mode in which it is to be looked at; ``DataParallel`` and DDP wrappers are taken off.
        loss_fn: ``loss_fn(output, target)``, or ``loss_fn(output)`` where ``target`` is ``NO_TARGET``.
        inputs: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.
        seed: of every pass, so that dropout draws the same each time.
    """

    def __init__(
        self, model: nn.Module, loss_fn: Callable[..., Any], inputs: Any, target: Any, seed: int
    ) -> None:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        try:
            self.model, self.loss_fn = copy.deepcopy((model, loss_fn))
        except Exception as error:
            raise TypeError(
                f"model: copy.deepcopy raised {type(error).__name__}: {error}; expected a model that can be "
                "copied, as its copies are moved"
            ) from error
        self.inputs = pytree.tree_map(_own_tensor, inputs)
        self.target = pytree.tree_map(_own_tensor, target)
        self.seed = seed
        self._settle()

    def _settle(self) -> None:
        """Names of the leaves, and the buffers that every pass starts from."""
        self.leaves: dict[str, Tensor] = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        if isinstance(self.loss_fn, nn.Module):
            for name, parameter in self.loss_fn.named_parameters(prefix="loss_fn"):
                if parameter.requires_grad:
                    self.leaves[name] = parameter
        for path, leaf in pytree.tree_leaves_with_path(self.inputs):
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                self.leaves[f"input{pytree.keystr(path)}"] = leaf
        modules = [part for part in (self.model, self.loss_fn) if isinstance(part, nn.Module)]
        buffers = [buffer for part in modules for buffer in part.buffers()]
        self._buffers = [(buffer, buffer.clone()) for buffer in buffers]

    def widen(self) -> None:
        """All floating-point tensors become float64."""
        self._restore_buffers()
        self.model.double()
        if isinstance(self.loss_fn, nn.Module):
            self.loss_fn.double()
        self.inputs = pytree.tree_map(_widened, self.inputs)
        self.target = pytree.tree_map(_widened, self.target)
        self._settle()

    def _restore_buffers(self) -> None:
        with torch.no_grad():
            for buffer, start in self._buffers:
                buffer.copy_(start)

    def move(self, share: float, seed: int) -> None:
        """Every leaf goes a random way: ``share`` of its typical size."""
        generator = torch.Generator().manual_seed(seed)
        for leaf in self.leaves.values():
            way = torch.randn(leaf.shape, generator=generator, device="cpu").to(leaf.device, leaf.dtype)
            with torch.no_grad():
                leaf += share * typical_size(leaf) * way

    def loss(self) -> Tensor:
        """The scalar loss of one pass, with its graph.

        Raises:
            TypeError, ValueError: it is not a scalar tensor, or depends on no leaf.
        """
        self._restore_buffers()
        torch.default_generator.manual_seed(self.seed)
        if torch.cuda.is_initialized():  # torch.manual_seed would note where it was called from, every time
            torch.cuda.manual_seed_all(self.seed)
        random.seed(self.seed)
        np.random.seed(self.seed % 2**32)  # noqa: NPY002 - what models draw from
        with torch.enable_grad():
            output = call_model(self.model, self.inputs)
            loss = self.loss_fn(output) if self.target is NO_TARGET else self.loss_fn(output, self.target)
        return check_scalar_loss(loss, "the loss")

    def loss_and_gradients(self) -> tuple[float, dict[str, Tensor]]:
        """Of one pass; gradients of every leaf, dense, zeros where the loss does not depend on it.

        Raises: as ``loss``.
        """
        loss = self.loss()
        found = torch.autograd.grad(loss, list(self.leaves.values()), allow_unused=True)
        gradients = {
            name: torch.zeros_like(leaf) if gradient is None else gradient.detach().to_dense()
            for (name, leaf), gradient in zip(self.leaves.items(), found, strict=True)
        }
        return float(loss.detach()), gradients

    @contextmanager
    def moved(self, ways: Mapping[str, Tensor], distance: float) -> Iterator[None]:
        """Inside, each named leaf lies ``distance`` times its way (the leaf's shape) from where it was."""
        starts = {name: self.leaves[name].detach().clone() for name in ways}
        try:
            with torch.no_grad():
                for name, way in ways.items():
                    self.leaves[name].add_(way, alpha=distance)
            yield
        finally:
            with torch.no_grad():
                for name, start in starts.items():
                    self.leaves[name].copy_(start)

    def loss_along(self, name: str, way: Tensor) -> Callable[[float], float]:
        """The loss as a function of how far the leaf is moved along ``way``."""

        def loss_at(distance: float) -> float:
            with self.moved({name: way}, distance):
                return float(self.loss().detach())

        return loss_at


class _NoTarget:
    def __repr__(self) -> str:
        return "NO_TARGET"


NO_TARGET = _NoTarget()  # the loss takes the output alone


@contextmanager
def kept_random_state() -> Iterator[None]:
    """The generators of torch, Python and numpy come out as they went in."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def typical_size(tensor: Tensor) -> float:
    """Root mean square, at least 0.01: what a step is measured by, for zeros too."""
    if tensor.numel() == 0:
        return 0.01
    return max(0.01, float(tensor.detach().abs().double().square().mean().sqrt()))


def _own_tensor(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


def _widened(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    return value.detach().double().requires_grad_(value.requires_grad)
