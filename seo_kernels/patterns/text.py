"""Back from the op's schema to the pattern: postfix tokens separated by one space.

``dense``, ``causal``, ``local LEFT RIGHT``, ``strided STRIDE``, ``dilated WINDOW DILATION``, ``global N``,
``blocks SIZE HEADS ROWS COLUMNS OFFSET DIGEST``, ``and``, ``or``. OFFSET is where the layout starts in the
concatenated layouts.
"""

from __future__ import annotations

from torch import Tensor

from seo_kernels.patterns.base import Intersection, Pattern, Union
from seo_kernels.patterns.blocks import BlockSparse
from seo_kernels.patterns.positions import Causal, Dense, Dilated, GlobalTokens, Local, Strided

_ARITY = {"dense": 0, "causal": 0, "local": 2, "strided": 1, "dilated": 2, "global": 1, "blocks": 6}
_SIMPLE = {
    "dense": Dense,
    "causal": Causal,
    "local": Local,
    "strided": Strided,
    "dilated": Dilated,
    "global": GlobalTokens,
}


def decode(text: str, layout: Tensor | None) -> Pattern:
    """The pattern that ``encode`` gave this text and layout for.

    Raises:
        ValueError: the text is not a pattern's, or the layout is too short for it.
    """
    tokens = text.split(" ")
    stack: list[Pattern] = []
    i = 0
    while i < len(tokens):
        token = tokens[i]
        if token in ("and", "or"):
            if len(stack) < 2:
                raise ValueError(f"pattern text {text!r}: {token!r} lacks an operand")
            right, left = stack.pop(), stack.pop()
            stack.append(Intersection(left, right) if token == "and" else Union(left, right))
            i += 1
            continue
        if token not in _ARITY:
            raise ValueError(f"pattern text {text!r}: unknown token {token!r}")
        arguments = tokens[i + 1 : i + 1 + _ARITY[token]]
        if len(arguments) != _ARITY[token]:
            raise ValueError(
                f"pattern text {text!r}: {token!r} has {len(arguments)} of {_ARITY[token]} numbers"
            )
        if token == "blocks":
            stack.append(_decode_blocks(text, arguments, layout))
        else:
            stack.append(_SIMPLE[token](*[int(a) for a in arguments]))
        i += 1 + _ARITY[token]
    if len(stack) != 1:
        raise ValueError(f"pattern text {text!r}: {len(stack)} patterns are left, expected 1")
    return stack[0]


def _decode_blocks(text: str, arguments: list[str], layout: Tensor | None) -> BlockSparse:
    size, heads, rows, columns, offset = (int(a) for a in arguments[:5])
    count = heads * rows * columns
    if layout is None or layout.shape[0] < offset + count:
        held = 0 if layout is None else layout.shape[0]
        raise ValueError(
            f"pattern text {text!r}: the layout holds {held} elements, expected {offset + count}"
        )
    blocks = layout[offset : offset + count].view(heads, rows, columns)
    return BlockSparse.of_parts(blocks, size, arguments[5])
