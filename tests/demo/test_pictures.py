from pathlib import Path

import pytest
import torch

from seo_kernels.demo.engines import fused
from seo_kernels.demo.generate import generate
from seo_kernels.demo.model import ByteModel, ModelConfig
from seo_kernels.demo.pictures import attention_maps, draw_attention, draw_loss

CONFIG = ModelConfig(width=16, layers=2, heads=2, window=4)
TEXT = b"the quick brown fox jumps over the lazy dog"


def test_attention_maps_are_probabilities_inside_the_window() -> None:
    maps = attention_maps(ByteModel(CONFIG), TEXT, fused)
    assert [tuple(entry.shape) for entry in maps] == [(2, len(TEXT), len(TEXT))] * CONFIG.layers
    row, column = torch.meshgrid(torch.arange(len(TEXT)), torch.arange(len(TEXT)), indexing="ij")
    visible = (column <= row) & (column >= row - CONFIG.window)
    for entry in maps:
        torch.testing.assert_close(entry.sum(-1), torch.ones(2, len(TEXT)))
        assert bool((entry[:, ~visible] == 0).all())


def test_pictures_are_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_loss(tmp_path / "loss.png", [8.0, 6.0, 5.0], held_out=5.5, unigram=4.5, zlib=2.5)
    draw_attention(tmp_path / "attention.png", ByteModel(CONFIG), TEXT, fused)
    for name in ("loss.png", "attention.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_text_comes_out_at_the_length_asked_for_and_again_with_the_same_seed() -> None:
    model = ByteModel(CONFIG)
    first = generate(model, TEXT, 30, fused, seed=1)
    assert len(first) == 30
    assert generate(model, TEXT, 30, fused, seed=1) == first
    assert generate(model, TEXT, 30, fused, seed=2) != first
