"""What the mask functions of transformers' ``masking_utils`` say, as a pattern and segments.

They are closures over sizes and tensors, joined by ``and_masks``: the code of one says which function made
it, and what it closed over are that function's arguments.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from transformers import masking_utils

from seo_kernels.patterns import Causal, Dense, Local, Pattern

MaskFunction = Callable[..., Any]


@dataclass(frozen=True)
class Meaning:
    """Which keys a query sees.

    Attributes:
        pattern: by their positions.
        segment_of: of positions (B, T), numbers (B, T): only keys of the query's own number; None: any.
    """

    pattern: Pattern
    segment_of: Callable[[Tensor], Tensor] | None = None


def meaning_of(mask_function: MaskFunction) -> Meaning | None:
    """The meaning of a mask function; None where a pattern and segments cannot say it.

    Compiled code does not look into closures: there it is None for all that have one.
    """
    if torch.compiler.is_compiling():
        simple = {
            masking_utils.causal_mask_function: Causal(),
            masking_utils.bidirectional_mask_function: Dense(),
        }
        return Meaning(simple[mask_function]) if mask_function in simple else None
    causal, left, sides = False, None, None
    rules: list[Callable[[Tensor], Tensor]] = []
    for maker, arguments in _parts(mask_function):
        if maker == "causal_mask_function":
            causal = True
        elif maker == "sliding_window_overlay":
            left = arguments["sliding_window"] - 1
        elif maker == "sliding_window_bidirectional_overlay":
            sides = arguments["sliding_window"]
        elif maker == "packed_sequence_mask_function":
            rules.append(_numbers_in(arguments["packed_sequence_mask"]))
        elif maker == "chunked_overlay":
            rules.append(_chunks(arguments["chunk_size"], arguments["left_padding"]))
        elif maker != "bidirectional_mask_function":
            return None
    if len(rules) > 1 or (left is not None and not causal):
        return None
    pattern: Pattern = Causal() if causal else Dense()
    if left is not None:
        pattern = Local(left, 0)
    if sides is not None:
        pattern = pattern & Local(sides) if causal else Local(sides)
    return Meaning(pattern, *rules)


def _parts(mask_function: MaskFunction) -> Iterator[tuple[str, dict[str, Any]]]:
    """What makes up a mask function: the maker's name and its arguments, "" for one that is not known."""
    if mask_function in _PLAIN:
        yield mask_function.__name__, {}
        return
    maker, arguments = "", dict[str, Any]()
    if isinstance(mask_function, FunctionType) and mask_function.__code__ in _MAKERS:
        maker = _MAKERS[mask_function.__code__]
        arguments = dict(inspect.getclosurevars(mask_function).nonlocals)
    if maker == "and_masks":
        for part in arguments["mask_functions"]:
            yield from _parts(part)
    elif maker == "remap_positions_for_packed_sequence":
        # comes with packed_sequence_mask_function: within a sequence distances are the same
        yield from _parts(arguments["mask_function"])
    else:
        yield maker, arguments


def _numbers_in(packed: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda positions: packed.gather(1, positions)


def _chunks(size: int, left_padding: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda positions: torch.div(positions - left_padding[:, None], size, rounding_mode="floor")


_PLAIN = (masking_utils.causal_mask_function, masking_utils.bidirectional_mask_function)
_IDS = torch.zeros(1, 1, dtype=torch.int64)
_MAKERS = {
    maker(*arguments).__code__: maker.__name__
    for maker, arguments in (
        (masking_utils.and_masks, (masking_utils.causal_mask_function,)),
        (masking_utils.sliding_window_overlay, (1,)),
        (masking_utils.sliding_window_bidirectional_overlay, (1,)),
        (masking_utils.chunked_overlay, (1, _IDS)),
        (masking_utils.packed_sequence_mask_function, (_IDS,)),
        (masking_utils.remap_positions_for_packed_sequence, (masking_utils.causal_mask_function, _IDS)),
    )
}
