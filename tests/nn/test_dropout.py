"""sk.nn.Dropout in the place of torch's."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest
import torch
from torch import Tensor, nn

import seo_kernels as sk
from seo_kernels import models
from seo_kernels.nn.transformer_layer import FeedForward


def draws(module: nn.Module, input: Tensor) -> Tensor:
    torch.manual_seed(4)
    return module(input)


def test_in_the_place_of_torchs() -> None:
    layer, twin = sk.nn.Dropout(0.25), nn.Dropout(0.25)
    assert isinstance(layer, nn.Dropout)
    assert repr(layer) == repr(twin)
    assert not layer.state_dict()
    assert inspect.signature(type(layer)) == inspect.signature(nn.Dropout)
    input = torch.randn(30, 40)
    assert torch.equal(draws(layer, input), draws(lambda t: sk.dropout(t, 0.25), input))
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(draws(again, input), draws(layer, input))
    assert layer.eval()(input) is input
    assert sk.nn.Dropout(0.0)(input) is input
    with pytest.raises(ValueError, match=r"-0\.1"):
        sk.nn.Dropout(-0.1)


def test_inplace_is_torchs_own() -> None:
    layer, twin = sk.nn.Dropout(0.25, inplace=True), nn.Dropout(0.25, inplace=True)
    assert repr(layer) == repr(twin)
    input, other = torch.ones(500), torch.ones(500)
    out = draws(layer, input)
    assert out is input
    assert torch.equal(out, draws(twin, other))
    assert 0 < int((input == 0).sum()) < 250


def test_nested() -> None:
    """As torch.nn.TransformerEncoder makes them of padded batches."""
    input = torch.nested.nested_tensor([torch.ones(3, 50), torch.ones(5, 50)])
    out = sk.nn.Dropout(0.25)(input)
    assert [part.shape for part in out.unbind()] == [(3, 50), (5, 50)]
    assert 0.1 < float((torch.cat(list(out.unbind())) == 0).float().mean()) < 0.4


@pytest.mark.parametrize("inplace", [False, True])
def test_script(inplace: bool) -> None:
    """By torch's own, forward and backward."""
    layer = sk.nn.Dropout(0.25, inplace)
    scripted = torch.jit.script(layer)
    input = torch.ones(400, requires_grad=True)
    out = scripted(input * 1)
    (gradient,) = torch.autograd.grad(out.sum(), input)
    assert torch.equal(gradient, out)
    assert 0.1 < float((out == 0).float().mean()) < 0.4
    scripted.eval()
    assert torch.equal(scripted(input), input)


def test_compile() -> None:
    layer = sk.nn.Dropout(0.25)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    input = torch.ones(400, requires_grad=True)
    (gradient,) = torch.autograd.grad((out := compiled(input)).sum(), input)
    assert torch.equal(gradient, out)
    assert 0.1 < float((out == 0).float().mean()) < 0.4


def test_layers_use_it() -> None:
    """Where a model of ours drops, it is by sk.nn.Dropout."""
    config = models.ModelConfig(vocab_size=50, d_model=32, n_heads=2, n_layers=1, max_seq_len=16)
    for module in (models.AdvancedTransformerModel(config), FeedForward(8)):
        found = [part for part in module.modules() if isinstance(part, nn.Dropout)]
        assert found
        assert all(type(part) is sk.nn.Dropout for part in found)
