"""Each recipe gives the deviation that its paper states, finds every layer, and leaves no odd bias."""

import math

import pytest
import torch
from torch import nn

from seo_kernels.nn import Linear
from seo_kernels.nn.initialization import initialize

FAN_IN, FAN_OUT = 200, 300
STD = {"xavier": math.sqrt(2 / (FAN_IN + FAN_OUT)), "kaiming": math.sqrt(2 / FAN_OUT), "normal": 0.02}


@pytest.mark.parametrize("method", STD)
@pytest.mark.parametrize("kind", [nn.Linear, Linear])
def test_linear(method: str, kind: type[nn.Linear]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(kind(FAN_IN, FAN_OUT)))
    nn.init.ones_(model[0][0].bias)
    initialize(model, method)
    weight = model[0][0].weight
    torch.testing.assert_close(weight.std().item(), STD[method], rtol=0.03, atol=0)
    assert model[0][0].bias.abs().max() == 0
    if method == "xavier":
        bound = math.sqrt(6 / (FAN_IN + FAN_OUT))
        assert 0.99 * bound < weight.abs().max() <= bound


def test_other_layers() -> None:
    torch.manual_seed(0)
    embedding, norm = nn.Embedding(500, 40, padding_idx=3), nn.LayerNorm(8)
    convolution, batch_norm = nn.Conv1d(40, 50, 3), nn.BatchNorm1d(8)
    for layer in (norm, batch_norm):
        nn.init.constant_(layer.weight, 7.0)
        nn.init.constant_(layer.bias, 7.0)
    initialize(nn.ModuleList([embedding, norm, convolution, batch_norm]), "kaiming")
    torch.testing.assert_close(embedding.weight.std().item(), 0.02, rtol=0.03, atol=0)
    assert embedding.weight[3].abs().max() == 0
    initialize(embedding, "kaiming", embedding_std=1.0)
    torch.testing.assert_close(embedding.weight.std().item(), 1.0, rtol=0.03, atol=0)
    torch.testing.assert_close(convolution.weight.std().item(), math.sqrt(2 / 150), rtol=0.05, atol=0)
    assert convolution.bias is not None
    assert convolution.bias.abs().max() == 0
    for layer in (norm, batch_norm):
        assert layer.weight.eq(1).all()
        assert layer.bias.eq(0).all()


def test_unknown() -> None:
    with pytest.raises(
        ValueError, match="initialization_method is 'he', expected one of xavier, kaiming, normal"
    ):
        initialize(nn.Linear(2, 2), "he")
