"""What a mask function means, beside the mask that transformers makes of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from seo_kernels.integrations import transformers as integration

masking_utils = pytest.importorskip("transformers.masking_utils")

BATCH, LENGTH = 2, 40
PADDED = torch.tensor([0, 7])  # tokens to the left
PACKED = torch.tensor([[0] * 25 + [1] * 15, [0] * 8 + [1] * 20 + [2] * 12])
POSITIONS = torch.tensor([[*range(25), *range(15)], [*range(8), *range(20), *range(12)]])

causal = masking_utils.causal_mask_function
MEANT: dict[str, Callable[..., Any]] = {
    "causal": causal,
    "bidirectional": masking_utils.bidirectional_mask_function,
    "sliding": masking_utils.sliding_window_causal_mask_function(9),
    "sliding to itself": masking_utils.sliding_window_causal_mask_function(1),
    "sliding, both sides": masking_utils.sliding_window_bidirectional_mask_function(5),
    "sliding, both sides, causal": masking_utils.and_masks(
        causal, masking_utils.sliding_window_bidirectional_overlay(5)
    ),
    "chunked": masking_utils.chunked_causal_mask_function(8, PADDED),
    "packed": masking_utils.packed_sequence_compatibility_function(causal, POSITIONS, PACKED),
    "packed, sliding": masking_utils.packed_sequence_compatibility_function(
        masking_utils.sliding_window_causal_mask_function(9), POSITIONS, PACKED
    ),
}
NOT_MEANT: dict[str, Callable[..., Any]] = {
    "union": masking_utils.or_masks(causal, masking_utils.sliding_window_overlay(3)),
    "blocks": masking_utils.or_masks(causal, masking_utils.blockwise_overlay(PACKED)),
    "the user's own": masking_utils.and_masks(causal, lambda batch, head, query, key: key % 3 != 1),
    "a window without an end": masking_utils.sliding_window_overlay(9),
    "two rules": masking_utils.and_masks(
        masking_utils.packed_sequence_compatibility_function(causal, POSITIONS, PACKED),
        masking_utils.chunked_overlay(8, PADDED),
    ),
}
SIZES = {  # q_length, kv_length, q_offset, kv_offset
    "all": (LENGTH, LENGTH, 0, 0),
    "one more": (1, LENGTH, LENGTH - 1, 0),
    "some more": (7, LENGTH, LENGTH - 7, 0),
    "a window's cache": (5, 16, LENGTH - 5, LENGTH - 16),
    "a cache with room": (12, LENGTH, 0, 0),
}


def dense(seen: integration.VisibleKeys | Tensor, q_length: int, kv_length: int) -> Tensor:
    if isinstance(seen, Tensor):
        return seen
    mask = seen.pattern.dense_mask(q_length, kv_length, query_offset=seen.query_offset)[None]
    if seen.segments is not None:
        queries, keys = seen.segments
        mask = mask & (queries[:, None, :, None] == keys[:, None, None, :])
    return mask.expand(BATCH, 1, q_length, kv_length)


WHOLE = {"packed", "packed, sliding", "two rules"}  # transformers packs whole sequences, without padding
CASES = [
    (name, sizes, padding)
    for name in [*MEANT, *NOT_MEANT]
    for sizes in SIZES
    for padding in (None, "left", "right")
    if name not in WHOLE or (sizes == "all" and padding is None)
    if name != "blocks" or sizes == "all"  # it pads the blocks' numbers first
]


@pytest.mark.parametrize(("name", "sizes", "padding"), CASES)
def test_masks(name: str, sizes: str, padding: str | None) -> None:
    q_length, kv_length, q_offset, kv_offset = SIZES[sizes]
    function = (MEANT | NOT_MEANT)[name]
    columns = torch.arange(q_offset + q_length)
    mask = None
    if padding == "left":
        mask = columns >= PADDED[:, None]
    elif padding == "right":
        mask = columns < torch.tensor([[LENGTH], [30]])
    arguments = {
        "batch_size": BATCH,
        "q_length": q_length,
        "kv_length": kv_length,
        "q_offset": q_offset,
        "kv_offset": kv_offset,
        "mask_function": function,
        "attention_mask": mask,
    }
    seen = integration.visible_keys(**arguments)
    assert isinstance(seen, Tensor) == (name in NOT_MEANT)
    expected = masking_utils.sdpa_mask(**arguments, allow_is_causal_skip=False)
    assert torch.equal(dense(seen, q_length, kv_length), expected)


def test_a_static_cache_keeps_its_tensor() -> None:
    offset = torch.tensor(3)
    seen = integration.visible_keys(1, 1, 16, offset, mask_function=causal)
    assert isinstance(seen, Tensor)
    assert seen.sum() == 4


def test_what_is_made_comes_back() -> None:
    made = integration.visible_keys(1, 5, 5)
    assert integration.visible_keys(1, 5, 5, attention_mask=made) is made


def test_to_moves_the_segments() -> None:
    hidden = torch.ones(1, 5, dtype=torch.bool)
    hidden[0, 0] = False
    moved = integration.visible_keys(1, 5, 5, attention_mask=hidden)
    assert isinstance(moved, integration.VisibleKeys)
    moved = moved.to("meta")
    assert moved.segments is not None
    assert {ids.device.type for ids in moved.segments} == {"meta"}
