"""A decoder over bytes: pre-norm blocks, a causal window, positions only through relative tables."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seo_kernels.relative import RelativePosition

BYTES = 256

Attend = Callable[[Tensor, Tensor, Tensor, RelativePosition, int], Tensor]
"""(query, key, value (B, H, T, D), tables, window) -> (B, H, Tq, D): byte i sees bytes i - window to i."""

Cache = tuple[Tensor, Tensor]  # the last keys and values of one layer, (B, H, at most window, D) each


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the decoder."""

    width: int = 256
    layers: int = 4
    heads: int = 8
    window: int = 128

    def __post_init__(self) -> None:
        for name in ("width", "layers", "heads", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected a positive number")
        if self.width % self.heads:
            raise ValueError(f"heads is {self.heads}, expected a divisor of width={self.width}")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def reach(self) -> int:
        """How many bytes back a prediction can see through all layers."""
        return self.layers * self.window


def _linear(inputs: int, outputs: int, std: float) -> nn.Linear:
    """Without bias. Blocks end in one with std 0, so that each begins as the identity."""
    linear = nn.Linear(inputs, outputs, bias=False)
    nn.init.normal_(linear.weight, std=std)
    return linear


class LocalAttention(nn.Module):
    """Attention in a causal window, with relative keys (Shaw et al. 2018, eq. 4) and a relative bias (T5)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.window = config.heads, config.window
        self.project_in = _linear(config.width, 3 * config.width, std=config.width**-0.5)
        self.project_out = _linear(config.width, config.width, std=0.0)
        rows = 2 * config.window + 1
        self.relative_key = nn.Parameter(torch.randn(config.heads, rows, config.head_dim) * 0.3)
        # each head starts with a range of its own, as in ALiBi (Press et al. 2022)
        slopes = 2.0 ** torch.linspace(1, -5, config.heads)  # (H,)
        distances = torch.arange(-config.window, config.window + 1).abs()
        self.relative_bias = nn.Parameter(-slopes[:, None] * distances)

    def forward(self, x: Tensor, attend: Attend, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        """x (B, T, width) -> (B, T, width) and the keys and values that later bytes can still see."""
        query, key, value = self.project_in(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if cache is not None:
            key, value = torch.cat((cache[0], key), dim=2), torch.cat((cache[1], value), dim=2)
        relative = RelativePosition(key=self.relative_key, bias=self.relative_bias)
        mixed = attend(query, key, value, relative, self.window)  # (B, H, T, D)
        kept = slice(-self.window, None)
        return self.project_out(mixed.transpose(1, 2).flatten(2)), (key[:, :, kept], value[:, :, kept])


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), with a squared ReLU (So et al. 2021, Primer)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = LocalAttention(config)
        self.mlp_norm = nn.LayerNorm(config.width)
        self.widen = _linear(config.width, 4 * config.width, std=config.width**-0.5)
        self.narrow = _linear(4 * config.width, config.width, std=0.0)

    def forward(self, x: Tensor, attend: Attend, cache: Cache | None = None) -> tuple[Tensor, Cache]:
        mixed, cache = self.attention(self.attention_norm(x), attend, cache)
        x = x + mixed
        return x + self.narrow(F.relu(self.widen(self.mlp_norm(x))).square()), cache


class ByteModel(nn.Module):
    """Bytes in, logits of the next byte out. The attention is an argument: engines can be compared."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(BYTES, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = _linear(config.width, BYTES, std=0.0)
        nn.init.normal_(self.embed.weight, std=0.5)

    def forward(
        self, tokens: Tensor, attend: Attend, caches: list[Cache] | None = None
    ) -> tuple[Tensor, list[Cache]]:
        """tokens (B, T) int64 -> logits (B, T, 256), and the caches with which the next call goes on."""
        x = self.embed(tokens)
        new_caches = []
        for index, block in enumerate(self.blocks):
            x, cache = block(x, attend, caches[index] if caches else None)
            new_caches.append(cache)
        return self.head(self.norm(x)), new_caches

    def loss(self, tokens: Tensor, attend: Attend) -> Tensor:
        """Mean negative log likelihood in nats of tokens[:, 1:] given those before; tokens (B, T + 1)."""
        logits, _ = self(tokens[:, :-1], attend)
        return F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
