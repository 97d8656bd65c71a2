"""The Fisher diagonal beside a plain loop over samples, and beside closed forms."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import seo_kernels as sk
from seo_kernels.diagnostics import fisher
from seo_kernels.diagnostics.fisher import fisher_information
from seo_kernels.models import AdvancedTransformerModel, CustomTransformer, ModelConfig


def plain(model: nn.Module, losses: Iterator[Tensor] | list[Tensor]) -> dict[str, Tensor]:
    """The mean of the squared gradients of these losses, one after the other."""
    names = dict(model.named_parameters())
    totals, count = {name: torch.zeros_like(p) for name, p in names.items()}, 0
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(names.values()), materialize_grads=True)
        for name, gradient in zip(names, gradients, strict=True):
            totals[name] += gradient**2
        count += 1
    return {name: total / count for name, total in totals.items()}


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    return [(torch.randn(size, 5, dtype=torch.float64), torch.randint(3, (size,))) for size in sizes]


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="sum")])
def test_against_a_loop(loss: nn.Module) -> None:
    """Batches of different sizes: every sample weighs the same."""
    model, loader = small(), batches(4, 7, 1)
    found = fisher_information(model, loss, loader)
    exact = plain(
        model, [loss(model(x[None]), y[None]) for xs, ys in loader for x, y in zip(xs, ys, strict=True)]
    )
    assert list(found) == list(dict(model.named_parameters()))
    torch.testing.assert_close(found, exact)
    assert all(bool((entries >= 0).all()) for entries in found.values())


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
@pytest.mark.parametrize("vectorized", [True, False])
def test_neither_chunks_nor_loops_change_anything(chunk_size: int, vectorized: bool) -> None:
    model, loader = small(), batches(5, 4)
    whole = fisher_information(model, nn.CrossEntropyLoss(), loader)
    parts = fisher_information(
        model, nn.CrossEntropyLoss(), loader, chunk_size=chunk_size, vectorized=vectorized
    )
    torch.testing.assert_close(parts, whole)


def test_chunks_bound_the_gradients_that_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    count = sum(parameter.numel() for parameter in model.parameters())
    sizes: list[int] = []
    by_vmap = fisher._Squares._by_vmap

    def counted(self: Any, inputs: Tensor, targets: Tensor) -> Any:
        sizes.append(len(inputs))
        return by_vmap(self, inputs, targets)

    monkeypatch.setattr(fisher._Squares, "_by_vmap", counted)
    monkeypatch.setattr(fisher, "GRADIENT_ENTRIES", 4 * count + 1)
    fisher_information(model, nn.CrossEntropyLoss(), batches(10))
    assert sizes == [4, 4, 2]
    fisher_information(model, nn.CrossEntropyLoss(), batches(5, 2), monte_carlo=True, draws=3)
    assert sizes[3:] == [4, 4, 4, 3, 4, 2]  # 3 draws of 4, then those of 1, then 2 draws of 2, then 1


def test_through_attention_under_vmap() -> None:
    """No fallback, no warning of a missing batching rule."""
    model = CustomTransformer(11, 16, 2, 2, d_ff=32, max_len=8, dropout=0.1, max_relative_position=3).double()
    ids, target = torch.randint(11, (6, 8)), torch.randn(6, 8, 16, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fisher_information(model, nn.MSELoss(), [(ids, target)], vectorized=True)
    assert model.training
    model.eval()
    exact = plain(model, [F.mse_loss(model(x[None]), y[None]) for x, y in zip(ids, target, strict=True)])
    torch.testing.assert_close(found, exact)


def test_mappings_and_losses_of_the_model() -> None:
    config = ModelConfig(vocab_size=11, d_model=16, n_layers=1, n_heads=2, dropout=0.0)
    model = AdvancedTransformerModel(config).double()
    ids = torch.randint(11, (3, 6))

    def loss(outputs: dict[str, Tensor], target: Tensor) -> Tensor:
        return outputs["loss"]

    found = fisher_information(model, loss, [({"input_ids": ids, "labels": ids}, ids)])
    model.eval()
    exact = plain(model, [model(input_ids=x[None], labels=x[None])["loss"] for x in ids])
    torch.testing.assert_close(found, exact)


def test_tuples_of_inputs_and_frozen_parameters() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 1, bias=False), nn.Linear(3, 1, bias=False)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.a(x) + self.b(y)

    model, x, y = Two(), torch.randn(4, 2), torch.randn(4, 3)
    model.b.requires_grad_(False)
    found = fisher_information(model, lambda out, target: out.sum(), [((x, y), torch.zeros(4))])
    assert list(found) == ["a.weight"]
    torch.testing.assert_close(found["a.weight"], x.square().mean(0)[None])


class Branching(nn.Module):
    """Looks at its values, which vmap refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x if bool((x.sum() > 0).item()) else -x)


def test_what_vmap_refuses() -> None:
    model = Branching().double()
    loader, loss = batches(5), nn.CrossEntropyLoss()
    with pytest.warns(UserWarning, match=r"refuses torch\.func\.vmap .* sample by sample"):
        found = fisher_information(model, loss, loader)
    exact = plain(model, [loss(model(x[None]), y[None]) for x, y in zip(*loader[0], strict=True)])
    torch.testing.assert_close(found, exact)
    with pytest.raises(RuntimeError):
        fisher_information(model, loss, loader, vectorized=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(fisher_information(model, loss, loader, vectorized=False), exact)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_monte_carlo_of_the_squared_error(reduction: str) -> None:
    """A linear model: the Fisher information is the Hessian, whose diagonal is 2 x_i^2 (over 3 outputs)."""
    model = nn.Linear(4, 3, dtype=torch.float64)
    x = torch.randn(2, 4, dtype=torch.float64)
    loss = nn.MSELoss(reduction=reduction)
    found = fisher_information(model, loss, [(x, torch.zeros(2, 3))], monte_carlo=True, draws=4000)
    exact = 2 * x.square().mean(0) / (3 if reduction == "mean" else 1)
    torch.testing.assert_close(found["weight"], exact.expand(3, 4), rtol=0.1, atol=0)


def test_monte_carlo_of_cross_entropy() -> None:
    """One weight per class, p (1 - p) x^2; the targets of the loader play no part."""
    model = nn.Linear(2, 3, bias=False, dtype=torch.float64)
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    p = model(x).softmax(-1).detach()
    found = fisher_information(
        model, nn.CrossEntropyLoss(), [(x, torch.zeros(1, dtype=torch.int64))], monte_carlo=True, draws=4000
    )
    exact = (p * (1 - p)).mT * x.square()
    torch.testing.assert_close(found["weight"], exact, rtol=0.1, atol=0)
    of_zeros = fisher_information(model, nn.CrossEntropyLoss(), [(x, torch.zeros(1, dtype=torch.int64))])
    torch.testing.assert_close(of_zeros["weight"][0], ((p[0, 0] - 1) * x[0]) ** 2)


def test_monte_carlo_of_binary_cross_entropy_and_of_sequences() -> None:
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    p = model(x).sigmoid().item()
    loader = [(x, torch.zeros(1, 1))]
    found = fisher_information(model, nn.BCEWithLogitsLoss(), loader, monte_carlo=True, draws=4000)
    torch.testing.assert_close(found["weight"], p * (1 - p) * x.square(), rtol=0.1, atol=0)

    sequence = nn.Conv1d(2, 3, 1).double()  # (B, 2, T) -> (B, 3 classes, T)
    signal = torch.randn(2, 2, 5, dtype=torch.float64)
    found = fisher_information(
        sequence, F.cross_entropy, [(signal, torch.zeros(2, 5, dtype=torch.int64))], monte_carlo=True
    )
    assert found["weight"].shape == (3, 2, 1)
    assert bool((found["weight"] > 0).all())


def test_half_precision_is_summed_in_float32() -> None:
    model, x = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16), torch.ones(300, 1, dtype=torch.bfloat16)
    for vectorized in (True, False):
        found = fisher_information(
            model, lambda out, _: out.sum(), [(x, x)], chunk_size=1, vectorized=vectorized
        )
        assert found["weight"].dtype == torch.float32
        assert found["weight"].item() == 1.0  # bfloat16 would stop at 256


def test_a_distribution_of_ones_own() -> None:
    model = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    x = torch.randn(5, 2, dtype=torch.float64)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return sk.huber_loss(output, target)

    with pytest.raises(ValueError, match="loss_fn is loss, whose distribution is not known, expected"):
        fisher_information(model, loss, [(x, x[:, :1])], monte_carlo=True)
    found = fisher_information(
        model, loss, [(x, x[:, :1])], monte_carlo=True, draw_target=lambda output: output + 0.5
    )
    torch.testing.assert_close(found["weight"], 0.25 * x.square().mean(0)[None])  # the residual is 0.5


def test_seeds_decide_the_draws() -> None:
    model, loader = small(), batches(4)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(fisher_information(model, nn.CrossEntropyLoss(), loader, monte_carlo=True)["0.weight"])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_the_model_stays_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3)).double()
    model[2].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fisher_information(model, nn.CrossEntropyLoss(), batches(6))
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert model[1].training
    assert not model[2].training
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[3].weight.grad is None


Loader = Callable[[], Any]


@pytest.mark.parametrize(
    ("loader", "options", "message"),
    [
        (list, {}, "data_loader yields no sample"),
        (lambda: [(torch.ones(0, 5), torch.ones(0))], {}, "data_loader yields no sample"),
        (lambda: [torch.ones(2, 5)], {}, "batch 0 of data_loader is a Tensor, expected an"),
        (lambda: [(1, 2, 3)], {}, "batch 0 of data_loader is 3 parts, expected an"),
        (lambda: [(torch.ones(2, 5), [1, 2])], {}, r"yields an int \(1\) within a batch, expected tensors"),
        (
            lambda: [(torch.ones(2, 5), torch.zeros(3, dtype=torch.int64))],
            {},
            "batch 0 of data_loader has tensors of 2, 3 samples",
        ),
        (list, {"chunk_size": 0}, "chunk_size is 0, expected an int >= 1"),
        (list, {"draws": 2}, "draws and draw_target are given, expected them with monte_carlo=True only"),
        (list, {"monte_carlo": 1}, "monte_carlo is an int"),
    ],
)
def test_bad_input(loader: Loader, options: dict[str, Any], message: str) -> None:
    model = nn.Linear(5, 3)
    with pytest.raises((TypeError, ValueError), match=message):
        fisher_information(model, nn.CrossEntropyLoss(), loader(), **options)


def test_a_loss_that_is_no_scalar() -> None:
    loss = nn.CrossEntropyLoss(reduction="none")
    model, x = nn.Conv1d(2, 3, 1), torch.randn(2, 2, 5)
    with pytest.raises(ValueError, match=r"loss_fn's result has shape \(1, 5\), expected a scalar"):
        fisher_information(model, loss, [(x, torch.zeros(2, 5, dtype=torch.int64))])
