"""One named adapter of a ``LoRALinear``: its parameters and numbers, checked."""

import math

import torch
from torch import Tensor, nn

INITS = ("kaiming", "gaussian")


class LoRAAdapter(nn.Module):
    """Parameters of a low-rank update scaling * lora_b lora_a, and with DoRA of the magnitudes.

    ``LoRALinear`` makes and reads it; it is never called. Parameters: lora_a (rank, in_features), lora_b
    (out_features, rank), and lora_magnitude (out_features,) with DoRA, else None.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        alpha: float,
        dropout: float,
        use_rslora: bool,
        use_dora: bool,
        init: str,
        device: torch.device | str | None,
        dtype: torch.dtype,
    ) -> None:
        check_numbers(in_features, out_features, rank, alpha, dropout, init)
        super().__init__()
        self.rank, self.alpha, self.dropout = rank, float(alpha), float(dropout)
        self.use_rslora, self.use_dora = use_rslora, use_dora
        self.scaling = float(alpha) / (math.sqrt(rank) if use_rslora else rank)
        self.lora_a = nn.Parameter(torch.empty(rank, in_features, device=device, dtype=dtype))
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank, device=device, dtype=dtype))
        if init == "kaiming":
            nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        else:
            nn.init.normal_(self.lora_a, std=1 / rank)
        self.lora_magnitude: nn.Parameter | None = None
        if use_dora:
            self.lora_magnitude = nn.Parameter(torch.ones(out_features, device=device, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        """Not meant to be called: the layer computes with the base weight at hand."""
        raise NotImplementedError("an adapter is computed by the LoRALinear that it belongs to")

    def extra_repr(self) -> str:
        text = f"rank={self.rank}, alpha={self.alpha:g}, dropout={self.dropout:g}"
        return text + ", use_rslora=True" * self.use_rslora + ", use_dora=True" * self.use_dora


def check_name(name: str) -> None:
    """Raise unless ``name`` can name a submodule of an ``nn.ModuleDict``.

    Raises:
        TypeError, ValueError: it cannot.
    """
    if not isinstance(name, str):
        raise TypeError(f"adapter name is a {type(name).__name__}, expected a str")
    if not name or "." in name or hasattr(nn.ModuleDict, name):
        raise ValueError(
            f"adapter name is {name!r}, expected a word without dots that is no attribute of nn.ModuleDict"
        )


def check_numbers(
    in_features: int, out_features: int, rank: int, alpha: float, dropout: float, init: str
) -> None:
    """Raise unless these can make an adapter.

    Raises:
        TypeError: rank is no int.
        ValueError: a number out of range, or an unknown init.
    """
    if not isinstance(rank, int) or isinstance(rank, bool):
        raise TypeError(f"rank is {rank!r}, expected an int")
    smaller = min(in_features, out_features)
    if not 1 <= rank <= smaller:
        raise ValueError(
            f"rank is {rank}, expected 1 to {smaller}, the smaller of in_features={in_features} and "
            f"out_features={out_features}"
        )
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha is {alpha}, expected a positive finite number")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout is {dropout}, expected a number in [0, 1)")
    if init not in INITS:
        raise ValueError(f"init is {init!r}, expected one of {', '.join(INITS)}")
