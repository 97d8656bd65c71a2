"""What every pattern is, and how two compose."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = 2**31 - 1  # of any number in a pattern: products of two fit in 64 bits


class Pattern:
    """A set of (query, key) pairs: immutable, hashable, comparable.

    Its encoding for the op's schema is made once, at construction, so that ``torch.compile`` and
    ``torch.export`` see a constant string and a constant tensor.
    """

    _text: str
    _layouts: Tensor | None
    heads: int  # 1: the same for all heads

    def __and__(self, other: Pattern) -> Pattern:
        return Intersection(self, other) if isinstance(other, Pattern) else NotImplemented

    def __or__(self, other: Pattern) -> Pattern:
        return Union(self, other) if isinstance(other, Pattern) else NotImplemented

    def __copy__(self) -> Pattern:
        return self

    def __deepcopy__(self, _memo: object) -> Pattern:
        return self

    def encode(self) -> tuple[str, Tensor | None]:
        """The pattern as the op's schema takes it.

        Returns:
            The tree as postfix tokens ("local 128 128 causal and"), and all block layouts of the tree
            concatenated and flattened: bool (elements,) on the CPU, or None where there is none.
        """
        return self._text, self._layouts

    def check(self, heads: int, query_length: int, key_length: int) -> None:
        """Raise ValueError where a block layout in this pattern does not fit these sizes."""

    def element_mask(self, query_index: Tensor, key_index: Tensor, query_offset: int) -> Tensor:
        """True where the query sees the key: (1 | Hq, m, n) for index tensors (m,) and (n,) on any device."""
        raise NotImplementedError

    def dense_mask(self, query_length: int, key_length: int, query_offset: int | None = None) -> Tensor:
        """True where the query sees the key: bool (1 | Hq, query_length, key_length).

        >>> from seo_kernels import Causal
        >>> Causal().dense_mask(2, 3).int().tolist()
        [[[1, 1, 0], [1, 1, 1]]]
        """
        self.check(self.heads, query_length, key_length)
        offset = key_length - query_length if query_offset is None else query_offset
        return self.element_mask(torch.arange(query_length), torch.arange(key_length), offset)

    def _encode_as(self, text: str, layouts: Tensor | None = None, heads: int = 1) -> None:
        set_fields(self, _text=text, _layouts=layouts, heads=heads)


def set_fields(pattern: Pattern, **attributes: object) -> None:
    """Set fields of a pattern that is being constructed: patterns are frozen."""
    for name, value in attributes.items():
        object.__setattr__(pattern, name, value)


def distance_of(query_index: Tensor, key_index: Tensor, query_offset: int) -> Tensor:
    """pos_key - pos_query, (1, m, n)."""
    return (key_index[None, :] - query_index[:, None] - query_offset)[None]


def check_int(owner: str, name: str, value: object, least: int) -> None:
    """Refuse what is not an int of at least ``least``, in the words of the user of ``owner``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{owner}: {name} is {value!r} ({type(value).__name__}), expected an int >= {least}")
    if not least <= value <= LARGEST:
        raise ValueError(f"{owner}: {name} is {value}, expected an int from {least} to {LARGEST}")


class _Pair(Pattern):
    """Two patterns under one operator."""

    left: Pattern
    right: Pattern

    def _encode_pair(self, operator: str) -> None:
        for name, part in (("left", self.left), ("right", self.right)):
            if not isinstance(part, Pattern):
                raise TypeError(f"{type(self).__name__}: {name} is {type(part).__name__}, expected a pattern")
        a, b = self.left, self.right
        if a.heads != b.heads and 1 not in (a.heads, b.heads):
            raise ValueError(
                f"{type(self).__name__}: the layouts have {a.heads} and {b.heads} heads, "
                "expected the same number"
            )
        text, layouts = b._text, a._layouts
        if layouts is None:
            layouts = b._layouts
        elif b._layouts is not None:
            text, layouts = _shift_offsets(text, layouts.shape[0]), torch.cat([layouts, b._layouts])
        self._encode_as(f"{a._text} {text} {operator}", layouts, max(a.heads, b.heads))

    def check(self, heads: int, query_length: int, key_length: int) -> None:
        if self._layouts is not None:
            self.left.check(heads, query_length, key_length)
            self.right.check(heads, query_length, key_length)


@dataclass(frozen=True)
class Intersection(_Pair):
    """What both patterns see: ``left & right``."""

    left: Pattern
    right: Pattern

    def __post_init__(self) -> None:
        self._encode_pair("and")

    def __repr__(self) -> str:
        return f"({self.left!r} & {self.right!r})"

    def element_mask(self, query_index: Tensor, key_index: Tensor, query_offset: int) -> Tensor:
        left = self.left.element_mask(query_index, key_index, query_offset)
        return left & self.right.element_mask(query_index, key_index, query_offset)


@dataclass(frozen=True)
class Union(_Pair):
    """What either pattern sees: ``left | right``."""

    left: Pattern
    right: Pattern

    def __post_init__(self) -> None:
        self._encode_pair("or")

    def __repr__(self) -> str:
        return f"({self.left!r} | {self.right!r})"

    def element_mask(self, query_index: Tensor, key_index: Tensor, query_offset: int) -> Tensor:
        left = self.left.element_mask(query_index, key_index, query_offset)
        return left | self.right.element_mask(query_index, key_index, query_offset)


def _shift_offsets(text: str, by: int) -> str:
    """The same text with every layout starting ``by`` elements later."""
    tokens = text.split(" ")
    for i, token in enumerate(tokens):
        if token == "blocks":
            tokens[i + 5] = str(int(tokens[i + 5]) + by)
    return " ".join(tokens)
