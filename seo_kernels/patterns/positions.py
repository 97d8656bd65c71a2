"""Patterns over positions.

Key j stands at position j, query i at i + query_offset; ``distance`` is pos_key - pos_query.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seo_kernels.patterns.base import Pattern, check_int, distance_of, set_fields


@dataclass(frozen=True)
class Dense(Pattern):
    """Every query sees every key."""

    def __post_init__(self) -> None:
        self._encode_as("dense")

    def element_mask(self, query_index: Tensor, key_index: Tensor, query_offset: int) -> Tensor:
        shape = (1, query_index.shape[0], key_index.shape[0])
        return torch.ones(shape, dtype=torch.bool, device=query_index.device)


@dataclass(frozen=True)
class Causal(Pattern):
    """A query sees the keys that do not stand after it: distance <= 0."""

    def __post_init__(self) -> None:
        self._encode_as("causal")

    def element_mask(self, query_index: Tensor, key_index: Tensor, query_offset: int) -> Tensor:
        return distance_of(query_index, key_index, query_offset) <= 0


@dataclass(frozen=True, init=False)
class Local(Pattern):
    """A window: -left <= distance <= right. ``right=None`` makes it symmetric, ``right=0`` causal.

    Raises:
        TypeError: left or right is not an int.
        ValueError: left or right is negative.
    """

    left: int
    right: int

    def __init__(self, left: int, right: int | None = None) -> None:
        right = left if right is None else right
        check_int("Local", "left", left, 0)
        check_int("Local", "right", right, 0)
        set_fields(self, left=left, right=right)
        self._encode_as(f"local {left} {right}")

    def element_mask(self, query_index: Tensor, key_index: Tensor, query_offset: int) -> Tensor:
        distance = distance_of(query_index, key_index, query_offset)
        return (-self.left <= distance) & (distance <= self.right)


@dataclass(frozen=True)
class Strided(Pattern):
    """Every stride-th key in both directions: distance % stride == 0 (Child et al. 2019).

    Raises:
        TypeError: stride is not an int.
        ValueError: stride is less than 1.
    """

    stride: int

    def __post_init__(self) -> None:
        check_int("Strided", "stride", self.stride, 1)
        self._encode_as(f"strided {self.stride}")

    def element_mask(self, query_index: Tensor, key_index: Tensor, query_offset: int) -> Tensor:
        return distance_of(query_index, key_index, query_offset) % self.stride == 0


@dataclass(frozen=True)
class Dilated(Pattern):
    """A window with gaps: |distance| <= window * dilation and distance % dilation == 0.

    Beltagy et al. 2020, "Longformer", figure 2c.

    Args:
        window: how many keys are seen on either side.
        dilation: from one seen key to the next.

    Raises:
        TypeError: window or dilation is not an int.
        ValueError: window is negative or dilation less than 1.
    """

    window: int
    dilation: int

    def __post_init__(self) -> None:
        check_int("Dilated", "window", self.window, 0)
        check_int("Dilated", "dilation", self.dilation, 1)
        self._encode_as(f"dilated {self.window} {self.dilation}")

    def element_mask(self, query_index: Tensor, key_index: Tensor, query_offset: int) -> Tensor:
        distance = distance_of(query_index, key_index, query_offset)
        return (distance.abs() <= self.window * self.dilation) & (distance % self.dilation == 0)


@dataclass(frozen=True)
class GlobalTokens(Pattern):
    """The first n positions see all and are seen by all: 0 <= pos_query < n or pos_key < n.

    Raises:
        TypeError: n is not an int.
        ValueError: n is negative.
    """

    n: int

    def __post_init__(self) -> None:
        check_int("GlobalTokens", "n", self.n, 0)
        self._encode_as(f"global {self.n}")

    def element_mask(self, query_index: Tensor, key_index: Tensor, query_offset: int) -> Tensor:
        position = query_index + query_offset
        return (((position >= 0) & (position < self.n))[:, None] | (key_index < self.n)[None, :])[None]
