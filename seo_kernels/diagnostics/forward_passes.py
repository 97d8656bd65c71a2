"""What went on in the forward passes since gradients were last looked at: where NaN or Inf came in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.utils.hooks import RemovableHandle

from seo_kernels.diagnostics.finite_flags import FiniteFlags, all_finite
from seo_kernels.diagnostics.gradient_norms import unwrapped
from seo_kernels.diagnostics.inert_hooks import Hook
from seo_kernels.diagnostics.undisturbed import undisturbed

NO_PASS = -1
MOST_CALLS = 64
HARMLESS = (nn.Identity, nn.Flatten, nn.Unflatten, _DropoutNd)  # what is finite stays so


@dataclass(frozen=True)
class Call:
    """What the model was called with: references, no copies.

    ``surroundings``: what a second call needs to be the same.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    surroundings: Surroundings | None


@dataclass(frozen=True)
class Surroundings:
    """The generators' states by device, and what autocast was set to on the model's device."""

    random: dict[torch.device, Tensor]
    device: str
    autocast: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device) -> Surroundings:
        states = {torch.device("cpu"): torch.get_rng_state()}
        if device.type == "cuda":
            states[device] = torch.cuda.get_rng_state(device)
        kind = device.type
        return cls(states, kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))

    @contextmanager
    def again(self) -> Iterator[None]:
        for device, state in self.random.items():
            torch.set_rng_state(state) if device.type == "cpu" else torch.cuda.set_rng_state(state, device)
        with torch.no_grad(), torch.autocast(self.device, self.dtype, enabled=self.autocast):
            yield


class ForwardPasses:
    """Watches what every module gives, cheaply, and says afterwards which was first to give NaN or Inf.

    Modules inside ``torch.compile`` can't be watched. Where there are some, the model is called once more
    with the same arguments and random numbers, uncompiled, as soon as somebody wants to know.

    Args:
        model: every module in it gets a hook.
        before: called before each forward pass of the model with gradients.
        after: called with its outputs.
        calls: how many calls of the model are kept.
    """

    def __init__(
        self,
        model: nn.Module,
        before: Callable[[], None],
        after: Callable[[Any], None],
        calls: int | None = None,
    ) -> None:
        self._inner = unwrapped(model)
        self._device = next(model.parameters()).device
        self._before, self._after = before, after
        self._recording, self._calling_again = True, False
        self._flags, self._usual = FiniteFlags(), FiniteFlags()
        self._calls: deque[Call] = deque(maxlen=calls or MOST_CALLS)
        self._compiled = any(_is_compiled(module) for module in model.modules())
        self.handles: list[RemovableHandle] = [
            module.register_forward_hook(Hook(self._noting(name)))
            for name, module in self._inner.named_modules()
            if not isinstance(module, HARMLESS)
        ]
        self.handles.append(model.register_forward_pre_hook(Hook(self._begin), with_kwargs=True))
        self.handles.append(model.register_forward_hook(Hook(self._finish)))

    def origin(self) -> tuple[str, str] | None:
        """The module whose output was first to have NaN or Inf, and how; None where none had."""
        told = self._call_again() if self._compiled else ""
        usual = set(self._usual.broken())  # what gave Inf while all gradients were finite: a mask, say
        broken = self._flags.broken()
        first = next((name for name in broken if name not in usual), None)
        if first is None:
            return None
        parts = [f"as {broken[first]} in the forward pass"]
        if not all(all_finite((call.args, call.kwargs)) for call in self._calls):
            parts.append("the model's input is not finite")
        own = self._inner.get_submodule(first).named_parameters(recurse=False)
        parts += [f"its {name} is not finite" for name, value in own if not all_finite(value.detach())]
        return first, ", ".join([*parts, *([told] if told else [])])

    def settle(self, *, sound: bool) -> None:
        """The gradients of these passes were looked at; ``sound``: all were finite."""
        if sound:
            self._usual = self._flags
        self._flags = FiniteFlags()
        self._calls.clear()

    def _noting(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            if torch.compiler.is_compiling():
                return
            # within a backward pass it is a checkpoint's second time
            first_time = self._recording and torch._C._current_graph_task_id() == NO_PASS
            if first_time or self._calling_again:
                self._flags.note(name, output)

        return note

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or self._calling_again:
            return
        # of the parts a reentrant checkpoint runs without gradients too: only the model's own call tells
        self._recording = torch.is_grad_enabled()
        if self._recording and torch._C._current_graph_task_id() == NO_PASS:
            self._before()
            self._calls.append(Call(args, kwargs, Surroundings.now(self._device) if self._compiled else None))

    def _finish(self, module: nn.Module, args: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or self._calling_again:
            return
        if self._recording:
            self._after(output)
            if self._compiled and torch._C._current_graph_task_id() == NO_PASS:
                self._flags.note("", output)
        self._recording = True
        self._flags.release()

    def _call_again(self) -> str:
        """Fill the flags anew from the kept calls, nothing compiled; what there is to say about it."""
        seen, self._flags = self._flags, FiniteFlags()
        self._calling_again = True
        told = ""
        try:
            with undisturbed(self._inner), torch.compiler.set_stance("force_eager"):
                for call in self._calls:
                    if call.surroundings is not None:
                        with call.surroundings.again():
                            self._inner(*call.args, **call.kwargs)
        except Exception as error:  # the training goes on
            told = f"a second, uncompiled call raised {type(error).__name__}: {error}"
        finally:
            self._calling_again = False
        if not self._flags.broken() and seen.broken():
            self._flags, told = seen, told or "a second, uncompiled call was finite"
        return told


def _is_compiled(module: nn.Module) -> bool:
    return "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
