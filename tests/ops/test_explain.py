"""sk.explain: what serves a call, and how much it visits."""

from __future__ import annotations

import pytest
import torch

import seo_kernels as sk
from seo_kernels import _library

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
ALL_HEADS = 3


def operands(length: int = 512, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    return torch.zeros(3, 2, ALL_HEADS, length, 16, dtype=dtype).unbind()


@native
def test_tiles_of_patterns() -> None:
    dense = sk.explain(*operands())
    assert dense.kernel == f"cpu/{torch.ops.seo_kernels.cpu_capability()}"
    assert dense.tiles_visited == dense.tiles_total
    assert dense.masked_tiles == 0
    local = sk.explain(*operands(), pattern=sk.Local(32))
    assert local.tiles_total == dense.tiles_total
    assert 0 < local.masked_tiles <= local.tiles_visited < local.tiles_total
    assert f"visits {local.tiles_visited} of {local.tiles_total} tiles" in str(local)
    one_head = torch.zeros(ALL_HEADS, 8, 8, dtype=torch.bool)
    one_head[1, 2, 3] = True
    sparse = sk.explain(*operands(), pattern=sk.BlockSparse(one_head))
    assert sparse.tiles_total == dense.tiles_total
    assert 1 <= sparse.tiles_visited <= 2  # 64 queries lie in one tile of queries, or across two
    nothing = sk.explain(*operands(), pattern=sk.BlockSparse(torch.zeros(8, 8, dtype=torch.bool)))
    assert (nothing.tiles_visited, nothing.masked_tiles) == (0, 0)


@native
def test_tiles_are_those_of_the_plan() -> None:
    """The key tile that explain counts in is the one that plans are made of."""
    from seo_kernels.ops.explain import KEY_TILE

    layout = torch.zeros(64, 64, dtype=torch.bool)
    layout[:, KEY_TILE // 8] = True  # eight keys, the first of the second tile
    text, blocks = sk.BlockSparse(layout, 8).encode()
    plan = torch.ops.seo_kernels.attention_plan(text, blocks, 1, 512, 512, 0)
    assert {tuple(row) for row in plan[:, 3:5].tolist()} == {(KEY_TILE, 2 * KEY_TILE)}


@native
def test_tiles_of_other_sizes() -> None:
    """The GPU's tiles: as large as they may be, the last one smaller."""
    plan = torch.ops.seo_kernels.attention_plan("dense", None, 1, 200, 300, 100, 64)
    assert plan[:, 1:3].tolist() == [[0, 64], [64, 128], [128, 192], [192, 200]]


@native
def test_arithmetic_of_16_bits() -> None:
    for dtype in (torch.bfloat16, torch.float16):
        text = str(sk.explain(*operands(dtype=dtype)))
        capability = torch.ops.seo_kernels.cpu_capability()
        natively = dtype == torch.bfloat16 and capability.endswith("_bf16")
        assert ("dpbf16ps" in text) == natively
        assert ("tile registers" in text) == (natively and capability == "amx_bf16")
        assert ("converted to float32" in text) != natively
    with torch.autocast("cpu", torch.bfloat16):
        assert "bfloat16" in str(sk.explain(*operands()))


@native
def test_what_skips_and_what_does_not() -> None:
    text = str(sk.explain(*operands(), key_lengths=torch.tensor([3, 4])))
    assert "skip further tiles" in text
    assert "mask is read" not in text
    assert "mask is read" in str(sk.explain(*operands(), mask=torch.zeros(512)))


@native
def test_cap_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    capability = torch.ops.seo_kernels.cpu_capability()  # before the variable changes
    monkeypatch.setenv("SEO_KERNELS_CPU_CAPABILITY", capability)
    assert f"SEO_KERNELS_CPU_CAPABILITY={capability}" in str(sk.explain(*operands()))
    monkeypatch.delenv("SEO_KERNELS_CPU_CAPABILITY")
    assert "the best that this machine has" in str(sk.explain(*operands()))


def test_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_library, "available", lambda device: False)
    monkeypatch.setattr(_library, "reason", lambda device="cpu": "the library is on holiday")
    explanation = sk.explain(*operands(), pattern=sk.Causal(), return_lse=True)
    assert explanation.kernel == "reference"
    assert explanation.tiles_visited is None
    assert "on holiday" in str(explanation)


def test_arguments_are_checked_and_nothing_is_drawn() -> None:
    with pytest.raises(ValueError, match="key_lengths has shape"):
        sk.explain(*operands(), key_lengths=torch.tensor([1]))
    with pytest.raises(TypeError, match="colour"):
        sk.explain(*operands(), colour=3)
    before = torch.get_rng_state()
    sk.explain(*operands(), dropout_p=0.5)
    assert torch.equal(before, torch.get_rng_state())
