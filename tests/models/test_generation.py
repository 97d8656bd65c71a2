"""Sampling: what may be drawn and how often; generation: cache, ends, modes, errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seo_kernels.models.generation import HEAD, Sampling, generate

pytestmark = pytest.mark.usefixtures("one_thread")
PROBABILITIES = torch.tensor([0.05, 0.4, 0.1, 0.25, 0.2])


def shares(sampling: Sampling, probabilities: Tensor = PROBABILITIES, draws: int = 20000) -> Tensor:
    logits = probabilities.log().expand(draws, -1) - 7.0
    drawn = sampling.draw(logits, torch.Generator().manual_seed(3))
    return torch.bincount(drawn, minlength=len(probabilities)) / draws


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(), PROBABILITIES),
        (Sampling(top_k=2), [0, 0.4, 0, 0.25, 0]),
        (Sampling(top_k=99), PROBABILITIES),
        (Sampling(top_p=0.6), [0, 0.4, 0, 0.25, 0]),  # 0.4 is too few
        (Sampling(top_p=0.66), [0, 0.4, 0, 0.25, 0.2]),
        (Sampling(top_p=0.01), [0, 1, 0, 0, 0]),
        (Sampling(top_p=1.0), PROBABILITIES),
        (Sampling(top_k=3, top_p=0.7), [0, 0.4, 0, 0.25, 0]),  # of 0.85: 0.47, 0.29
        (Sampling(temperature=2.0, top_k=4), PROBABILITIES.sqrt() * torch.tensor([0, 1, 1, 1, 1])),
        (Sampling(temperature=0.5), PROBABILITIES**2),
        (Sampling(temperature=0.0, top_k=3), [0, 1, 0, 0, 0]),
        (Sampling(temperature=1e-42), [0, 1, 0, 0, 0]),
    ],
)
def test_what_is_drawn(sampling: Sampling, expected: Any) -> None:
    expected = torch.as_tensor(expected, dtype=torch.float32)
    found = shares(sampling)
    assert torch.equal(found > 0, expected > 0)
    torch.testing.assert_close(found, expected / expected.sum(), atol=0.015, rtol=0.0)


@pytest.mark.parametrize("size", [HEAD // 2, HEAD, HEAD + 1, 40 * HEAD])
@pytest.mark.parametrize("top_p", [0.2, 0.9, 0.999])
def test_a_nucleus_of_a_large_vocabulary(size: int, top_p: float) -> None:
    logits = torch.randn(3, size)
    probabilities, order = logits.double().softmax(-1).sort(descending=True)
    before = probabilities.cumsum(-1) - probabilities
    nucleus = [set(row[cut < top_p].tolist()) for row, cut in zip(order, before, strict=True)]
    drawn = torch.stack([Sampling(top_p=top_p).draw(logits) for _ in range(100)])
    for row in range(3):
        assert set(drawn[:, row].tolist()) <= nucleus[row]


@pytest.mark.parametrize("bad", [[0.0, torch.nan], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.0), Sampling(top_k=1), Sampling(top_p=0.5)])
def test_logits_that_are_not_finite(bad: list[float], sampling: Sampling) -> None:
    with pytest.raises(ValueError, match="logits are not finite"):
        sampling.draw(torch.tensor([[1.0, 2.0], bad]))


class Counting(nn.Module):
    """The token after i is i + 1, of six. Counts how many ids it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)
        self.seen = 0

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        self.seen += input_ids.numel()
        logits = nn.functional.one_hot((input_ids + 1) % 6, 6).float()
        return {"logits": self.dropout(logits)}


class Cached(Counting):
    """The same with a cache, which holds all ids."""

    def new_cache(self) -> list[Tensor]:
        return []

    def decode(self, input_ids: Tensor, cache: list[Tensor]) -> Tensor:
        cache.append(input_ids)
        return self(torch.cat(cache, 1)[:, -1:])["logits"][:, 0]


@pytest.mark.parametrize("kind", [Counting, Cached])
def test_greedy(kind: type[Counting]) -> None:
    model = kind().train()
    model.dropout.eval()
    found = generate(model, torch.tensor([[4, 1, 2], [1, 1, 3]]), 7, temperature=0.0)
    assert found.tolist() == [[4, 1, 2, 3, 4, 5, 0], [1, 1, 3, 4, 5, 0, 1]]
    assert found.dtype == torch.int64
    assert not found.is_inference()
    assert model.seen == (2 * 4 if kind is Cached else 2 * (3 + 4 + 5 + 6))
    assert model.training
    assert not model.dropout.training


def test_dropout_is_off_and_the_mode_is_kept_when_it_raises() -> None:
    model = Counting().train()
    for _ in range(20):
        assert generate(model, torch.tensor([[0]]), 3, temperature=0.0).tolist() == [[0, 1, 2]]
    with pytest.raises(ValueError, match="the prompt has 3 tokens, expected fewer than max_length=3"):
        generate(model, torch.tensor([[0, 1, 2]]), 3)
    assert model.training
    assert model.dropout.training


def test_the_end_of_a_text_ends_its_row() -> None:
    found = generate(Cached(), torch.tensor([[2], [0]]), 9, temperature=0.0, eos_token_id=4)
    assert found.tolist() == [[2, 3, 4, 4, 4], [0, 1, 2, 3, 4]]
    assert generate(Cached(), torch.tensor([[3]]), 9, temperature=0.0, eos_token_id=4).tolist() == [[3, 4]]


def test_draws_come_from_the_generator() -> None:
    def drawn(generator: torch.Generator | None) -> Tensor:
        return generate(Cached(), torch.tensor([[0]]), 30, generator=generator)

    one, other = (drawn(torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, other)
    state = torch.get_rng_state()
    drawn(torch.Generator().manual_seed(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    first = drawn(None)
    torch.manual_seed(1)
    assert torch.equal(drawn(None), first)


IDS = torch.tensor([[1, 2]])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: generate(Cached(), [1], 5), TypeError, "input_ids is a list"),
        (lambda: generate(Cached(), IDS.float(), 5), TypeError, "input_ids has dtype torch.float32"),
        (lambda: generate(Cached(), IDS[0], 5), ValueError, r"input_ids has shape \(2,\)"),
        (lambda: generate(Cached(), IDS[:, :0], 5), ValueError, "at least one token"),
        (lambda: generate(Cached(), IDS, 5.0), TypeError, "max_length is a float"),
        (lambda: generate(Cached(), IDS, 5, temperature=-0.1), ValueError, "temperature is -0.1"),
        (lambda: generate(Cached(), IDS, 5, temperature=None), TypeError, "temperature is a NoneType"),
        (lambda: generate(Cached(), IDS, 5, top_k=0), ValueError, "top_k is 0"),
        (lambda: generate(Cached(), IDS, 5, top_k=2.0), TypeError, "top_k is a float"),
        (lambda: generate(Cached(), IDS, 5, top_p=0.0), ValueError, "top_p is 0.0"),
        (lambda: generate(Cached(), IDS, 5, top_p=1.1), ValueError, r"top_p is 1.1, expected .*\(0, 1\]"),
    ],
)
def test_errors(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
