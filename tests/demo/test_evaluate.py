import math
import zlib

import pytest
import torch
from torch.nn import functional as F

from seo_kernels.demo import evaluate
from seo_kernels.demo.engines import fused
from seo_kernels.demo.model import ByteModel, ModelConfig
from seo_kernels.demo.train import to_tokens

CONFIG = ModelConfig(width=16, layers=2, heads=2, window=4)
TEXT = b"It was the best of times, it was the worst of times, it was the age of wisdom" * 3


def test_a_model_that_knows_nothing_needs_eight_bits() -> None:
    found = evaluate.bits_per_byte(ByteModel(CONFIG), TEXT, 32, fused, "float32")
    assert found == pytest.approx(8.0)


@pytest.mark.parametrize("length", [16, 20, 33, len(TEXT) - 1, len(TEXT), 1000])
@torch.no_grad()
def test_every_byte_counts_once_with_all_that_the_model_can_see(length: int) -> None:
    model = ByteModel(CONFIG)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.5)
    assert length // 2 >= CONFIG.reach
    tokens = to_tokens(TEXT)[None]
    logits, _ = model(tokens[:, :-1], fused)
    nats = F.cross_entropy(logits[0], tokens[0, 1:], reduction="sum")
    expected = (8 + float(nats) / math.log(2)) / len(TEXT)
    found = evaluate.bits_per_byte(model, TEXT, length, fused, "float32")
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_simpler_predictors_need() -> None:
    assert evaluate.unigram_bits_per_byte(b"abcd" * 10) == pytest.approx(2.0)
    assert evaluate.unigram_bits_per_byte(b"aaaa") == 0.0
    assert evaluate.zlib_bits_per_byte(TEXT) == 8 * len(zlib.compress(TEXT, 9)) / len(TEXT)
