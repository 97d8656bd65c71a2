"""What lies in the padding, and how much of it there is, changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from models.small_models import LENGTHS, MASK, PADDED, SMALL, VOCABULARY, ids
from torch import Tensor

pytestmark = pytest.mark.usefixtures("one_thread")  # for models this small a second one costs time
padded = pytest.mark.parametrize(("name", "which"), PADDED)


def filled(x: Tensor, present: Tensor, value: float) -> Tensor:
    """x with something else where nothing is present."""
    hidden = present.logical_not() if present.dim() == x.dim() else present.logical_not()[..., None]
    return x.masked_fill(hidden, value)


@padded
@pytest.mark.parametrize("training", [False, True])
def test_padding_is_not_read(name: str, which: int, training: bool) -> None:
    """Neither by the result, nor by the gradients, nor by running statistics."""
    small = SMALL[name]
    model = small.make(dropout=0.0).train(training)
    x, *rest = small.inputs()
    padding, present = small.padding[which], small.present.bool()
    first, second = (3, VOCABULARY - 1) if x.dtype == torch.int64 else (1e4, float("nan"))
    results = []
    for value in (first, second):
        out = model(filled(x, present, value), *rest, padding)
        others = [value for key, value in model.named_parameters() if "embedding" not in key]
        grads = torch.autograd.grad(out.sin().sum(), others)
        results.append((out, *grads))
    assert results[0][0].isfinite().all()  # an all-padding row included
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    if not training:  # and it is seen that there is less: this compares something
        assert not torch.allclose(model(filled(x, present, first), *rest), results[0][0])


@padded
def test_running_statistics_do_not_count_padding(name: str, which: int) -> None:
    small = SMALL[name]
    padded = small.make(dropout=0.0)
    if not any(isinstance(module, torch.nn.BatchNorm1d) for module in padded.modules()):
        pytest.skip("no batch normalisation")
    cropped = copy.deepcopy(padded)
    x, *rest = small.inputs()
    length = int(LENGTHS[0])
    padded(x[:1], *rest, small.padding[which][:1])
    cropped(x[:1, :length], *rest)
    for (buffer, expected), actual in zip(cropped.named_buffers(), padded.buffers(), strict=True):
        torch.testing.assert_close(actual, expected, msg=buffer)


@padded
def test_as_much_padding_as_you_like(name: str, which: int) -> None:
    """A row alone, without padding, gives what it gives in the batch."""
    small = SMALL[name]
    if small.present is not MASK:
        pytest.skip("padding within sentences: see below")
    model = small.make().eval()
    x, *rest = small.inputs()
    together = model(x, *rest, small.padding[which])
    length = int(LENGTHS[0])
    alone = model(x[:1, :length], *rest)
    expected = together[:1, :length] if together.dim() == 3 else together[:1]
    torch.testing.assert_close(alone, expected, atol=1e-5, rtol=1e-4)


def test_sentences_and_words_that_are_padding() -> None:
    """Padding in front of words, behind them, and whole sentences of it."""
    model = SMALL["HierarchicalAttentionNetwork"].make().eval()
    words = ids(1, 2, 5)
    alone = model(words)
    x, mask = ids(3, 2, 9), torch.zeros(3, 2, 9)
    x[0, 0, 4:], mask[0, 0, 4:] = words[0, 0], 1
    x[0, 1, :5], mask[0, 1, :5] = words[0, 1], 1
    x[1, 0, 2:7], mask[1, 0, 2:7] = words[0, 0], 1
    out = model(x, mask)
    torch.testing.assert_close(out[:1], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out[1:2], model(words[:, :1]), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model(words.flip(2)), alone)  # the order of words counts
    assert not torch.allclose(model(words.flip(1)), alone)  # and that of sentences


def test_a_mask_of_ones_is_none() -> None:
    for name, which in PADDED:
        small = SMALL[name]
        model = small.make().eval()
        x, *rest = small.inputs()
        padding = small.padding[which]
        ones = torch.full_like(padding, x.shape[1] if padding.dim() == 1 else 1)
        torch.testing.assert_close(model(x, *rest, ones), model(x, *rest), atol=1e-5, rtol=1e-4)
