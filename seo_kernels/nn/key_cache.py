"""Keys and values of the tokens so far, kept for the tokens to come."""

from __future__ import annotations

from torch import Tensor

LEAST_CAPACITY = 64


class LayerKeys:
    """Keys and values of one layer, (B, H, length, D) each, in memory that doubles when it is full.

    Args:
        limit: the longest that it gets.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def write(self, start: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put key and value (B, H, T, D) at positions from ``start`` on; all of them up to there: views.

        Raises:
            ValueError: another batch than before.
        """
        end = start + key.shape[2]
        keys, values = self._keys, self._values
        if keys is None or values is None or keys.shape[2] < end:
            keys, values = (self._grown(old, new, start, end) for old, new in ((keys, key), (values, value)))
            self._keys, self._values = keys, values
        if keys.shape[0] != key.shape[0]:
            raise ValueError(
                f"the batch is of {key.shape[0]}, expected {keys.shape[0]}, as many as the cache holds"
            )
        keys[:, :, start:end] = key
        values[:, :, start:end] = value
        return keys[:, :, :end], values[:, :, :end]

    def _grown(self, old: Tensor | None, new: Tensor, used: int, wanted: int) -> Tensor:
        capacity = LEAST_CAPACITY
        while capacity < wanted:
            capacity *= 2
        batch, heads, _, dim = new.shape
        grown = new.new_empty(batch if old is None else old.shape[0], heads, min(capacity, self.limit), dim)
        if old is not None:
            grown[:, :, :used] = old[:, :, :used]
        return grown


class KeyCache:
    """Of each layer what attention has to know of the tokens before; ``length`` of them.

    A model makes it and appends to it; a new sequence takes a new one.
    """

    def __init__(self, num_layers: int, limit: int) -> None:
        self.layers = [LayerKeys(limit) for _ in range(num_layers)]
        self.length = 0
