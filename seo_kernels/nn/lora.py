"""``LoRALinear``: a linear layer with low-rank adapters beside its frozen weight."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from seo_kernels.nn.fast_path import ForwardGuard
from seo_kernels.nn.lora_adapter import LoRAAdapter, check_name
from seo_kernels.nn.lora_arithmetic import (
    accumulation_dtype,
    activated,
    adapted_output,
    base_output,
    merged_weight,
)
from seo_kernels.nn.lora_base import base_parameters, features, is_conv1d


class LoRALinear(nn.Module):
    """LoRA (Hu et al. 2021) around a linear layer: input W^T + b + scaling * dropout(input) A^T B^T.

    It takes the place of ``base``, whose weight and bias it takes over: the same objects, frozen
    (``requires_grad=False``), under the same names, so that a model's state_dict keeps its keys. The
    parameters of its adapters are named ``adapters.<name>.lora_a``, ``.lora_b`` and, with DoRA,
    ``.lora_magnitude``; no other has "lora" in its name. They are float32 around a bfloat16 or float16
    weight, else of its dtype.

    Args:
        base: an ``nn.Linear``, or transformers' ``Conv1D`` (weight (in, out)), without hooks and with no
            forward of its own. The activation of an ``sk.nn.Linear`` acts on the sum.
        rank: r, 1 to the smaller of in_features and out_features.
        alpha: scaling is alpha / rank, or with use_rslora alpha / sqrt(rank).
        dropout: of the adapter's input while training, in [0, 1).
        use_rslora: rank-stabilised scaling (Kalajdzievski 2023).
        use_dora: DoRA (Liu et al. 2024): the rows of weight and update together are scaled to learned
            magnitudes; their norms get no gradient.
        init: of lora_a, "kaiming" (uniform, as ``nn.Linear`` itself) or "gaussian" (std 1 / rank); lora_b is
            zero.
        adapter: the first adapter's name. It is active; others come by ``add_adapter``.

    Several active adapters are summed as in PEFT: each in turn, with its own dropout; one with DoRA also
    scales what those before it contributed.

    Raises:
        TypeError, ValueError: a base that cannot be wrapped, a number out of range.

    >>> layer = LoRALinear(nn.Linear(64, 32), rank=4, alpha=8.0, dropout=0.1)
    >>> layer(torch.randn(2, 10, 64)).shape
    torch.Size([2, 10, 32])
    >>> [name for name, parameter in layer.named_parameters() if parameter.requires_grad]
    ['adapters.default.lora_a', 'adapters.default.lora_b']
    """

    __jit_unused_properties__ = ("merged",)

    weight: nn.Parameter
    bias: nn.Parameter | None
    activation: str | None
    unmerged_weight: Tensor | None
    active_adapters: list[str]
    merged_adapters: list[str]
    if TYPE_CHECKING:  # at run time TorchScript would take it for the attribute's type
        adapters: Any  # of LoRAAdapter

    def __init__(
        self,
        base: nn.Module,
        rank: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.0,
        *,
        use_rslora: bool = False,
        use_dora: bool = False,
        init: str = "kaiming",
        adapter: str = "default",
    ) -> None:
        weight, bias = base_parameters(base)
        super().__init__()
        self.in_features, self.out_features = features(base)
        self.transposed = is_conv1d(base)
        self.weight, self.bias = weight, bias
        activation = getattr(base, "activation", None)
        self.activation = activation if isinstance(activation, str) else None
        self.register_buffer("unmerged_weight", None, persistent=False)
        self.adapters = nn.ModuleDict()
        self.forward_guard = ForwardGuard()
        self.active_adapters = []
        self.merged_adapters = []
        self.adapters_disabled = False
        self.add_adapter(adapter, rank, alpha, dropout, use_rslora=use_rslora, use_dora=use_dora, init=init)
        self.set_adapter(adapter)
        self.train(base.training)
        for parameter in (self.weight, self.bias):
            if parameter is not None:
                parameter.requires_grad_(False)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features), with the adapters that are active and not merged."""
        original = self.unmerged_weight
        weight = self.weight if original is None or not self.adapters_disabled else original
        if self.transposed:
            weight = weight.t()
        out: Tensor | None = None
        if not self.adapters_disabled and len(self.merged_adapters) == 0:
            for active in self.active_adapters:
                for name, adapter in self.adapters.items():  # TorchScript has no look-up by a variable name
                    if name == active:
                        out = adapted_output(
                            input,
                            out,
                            weight,
                            self.bias if active == self.active_adapters[-1] else None,
                            adapter.lora_a,
                            adapter.lora_b,
                            adapter.lora_magnitude,
                            adapter.scaling,
                            adapter.dropout if self.training else 0.0,
                        )
        if out is None:
            out = base_output(input, weight, self.bias)
        return activated(out, self.activation)

    @torch.jit.unused
    def add_adapter(
        self,
        name: str,
        rank: int = 16,
        alpha: float = 32.0,
        dropout: float = 0.0,
        *,
        use_rslora: bool = False,
        use_dora: bool = False,
        init: str = "kaiming",
    ) -> None:
        """One more adapter, inactive and frozen until ``set_adapter`` names it. Arguments as of the class.

        Raises:
            TypeError, ValueError: a name that is taken or cannot be one, a number out of range.
        """
        check_name(name)
        if name in self.adapters:
            raise ValueError(f"adapter {name!r} exists already, expected a new name")
        weight = self._base_weight()
        adapter = LoRAAdapter(
            self.in_features,
            self.out_features,
            rank,
            alpha,
            dropout,
            use_rslora,
            use_dora,
            init,
            weight.device,
            accumulation_dtype(weight),
        )
        if adapter.lora_magnitude is not None:  # lora_b is 0: the norms of the base weight
            norm = torch.linalg.vector_norm(weight.detach(), dim=1, dtype=adapter.lora_magnitude.dtype)
            adapter.lora_magnitude.data = norm
        self.adapters[name] = adapter.requires_grad_(False)

    @torch.jit.unused
    def set_adapter(self, names: str | Sequence[str]) -> None:
        """Make these adapters, none for an empty list, the active and trainable ones.

        Raises:
            ValueError: an unknown name, or one named twice.
            RuntimeError: adapters are merged.
        """
        names = [names] if isinstance(names, str) else list(names)
        unknown = [name for name in names if name not in self.adapters]
        if unknown or len(set(names)) < len(names):
            raise ValueError(f"adapters are {names}, expected some of {list(self.adapters)}, each once")
        if self.merged and names != self.merged_adapters:
            raise RuntimeError(
                f"adapters {self.merged_adapters} are merged, expected unmerge() before {names} become active"
            )
        for name, adapter in self.adapters.items():
            adapter.requires_grad_(name in names)
        self.active_adapters = names

    @torch.jit.unused
    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it the layer is its base, whatever is active or merged."""
        before, self.adapters_disabled = self.adapters_disabled, True
        try:
            yield
        finally:
            self.adapters_disabled = before

    @property
    def merged(self) -> bool:
        """Whether the weight holds the active adapters."""
        return len(self.merged_adapters) > 0

    @torch.jit.unused
    @torch.no_grad()
    def merge(self) -> None:
        """Add the active adapters to the weight, computed in float32 or more and rounded once.

        ``weight`` becomes another parameter, and the base's is kept aside until ``unmerge``: nothing else
        that shares it changes. The adapters get no gradients meanwhile. On a merged layer it does nothing.
        """
        if self.merged or not self.active_adapters:
            return
        base = self._base_weight().to(accumulation_dtype(self.weight))
        merged = base
        for name in self.active_adapters:
            adapter = self.adapters[name]
            merged = merged_weight(
                merged, base, adapter.lora_a, adapter.lora_b, adapter.lora_magnitude, adapter.scaling
            )
        original = self.weight
        new = torch.empty_like(original).copy_(merged.t() if self.transposed else merged)
        self._buffers["unmerged_weight"] = original  # an assignment would register a parameter
        self.weight = nn.Parameter(new, requires_grad=False)
        self.merged_adapters = list(self.active_adapters)

    @torch.jit.unused
    def unmerge(self) -> None:
        """The base's weight again, bit for bit. On a layer that is not merged it does nothing."""
        if not self.merged:
            return
        original = self.unmerged_weight
        assert original is not None
        if not isinstance(original, nn.Parameter):  # it was moved or converted meanwhile
            original = nn.Parameter(original, requires_grad=False)
        self.unmerged_weight = None
        self.weight = original
        self.merged_adapters = []

    @torch.jit.unused
    def _base_weight(self) -> Tensor:
        """The base's weight as (out, in), whether or not adapters are merged."""
        weight = self.weight if self.unmerged_weight is None else self.unmerged_weight
        return weight.t() if self.transposed else weight

    @torch.jit.unused
    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        if self.merged:
            error_msgs.append(f"{prefix}weight holds merged adapters, expected unmerge() before loading")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    @torch.jit.unused
    def extra_repr(self) -> str:
        text = (
            f"in_features={self.in_features}, out_features={self.out_features}, active={self.active_adapters}"
        )
        return text + ", transposed=True" * self.transposed + ", merged=True" * self.merged
