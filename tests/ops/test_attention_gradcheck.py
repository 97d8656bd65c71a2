"""Derivatives of sk.attention against finite differences, any nesting of them against the reference."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from ops.everything import DIFFERENTIABLE, call, everything, integers, of, scalar
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import jacfwd, jacrev

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.ops import attention_autodiff

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
PLAIN = ("query", "key", "value")
LAYOUT = torch.tensor(
    [[[1, 0], [1, 1]], [[0, 1], [0, 0]]], dtype=torch.bool
)  # by head; rows that see nothing


def seeded(function: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    def with_seed(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(7)
        return function(*tensors)

    return with_seed


# what is differentiated: (names, options)
CASES: dict[str, tuple[tuple[str, ...], dict]] = {
    "dense": (PLAIN, {"pattern": None, "softcap": None}),
    "everything": (DIFFERENTIABLE, {}),
    "layout by head": ((*PLAIN, "sinks"), {"pattern": sk.BlockSparse(LAYOUT, 2)}),
    "layout without sinks": (PLAIN, {"pattern": sk.BlockSparse(LAYOUT, 2) & sk.Causal(), "softcap": None}),
    "dropout": ((*PLAIN, "relative_value", "mask"), {"dropout_p": 0.4}),
    "tables": (
        (*PLAIN, *DIFFERENTIABLE[3:7]),
        {"pattern": sk.Causal() | sk.GlobalTokens(1), "softcap": None},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_first_order(case: str) -> None:
    names, options = CASES[case]
    inputs = tuple(everything(names=names).values())
    assert gradcheck(
        seeded(of(names, **options)),
        inputs,
        check_forward_ad=True,
        check_batched_grad=case != "dropout",
        check_batched_forward_grad=case != "dropout",
    )


@pytest.mark.parametrize("case", CASES)
def test_second_order(case: str) -> None:
    """Reverse over reverse and forward over reverse."""
    names, options = CASES[case]
    inputs = tuple(everything(names=names).values())
    assert gradgradcheck(seeded(of(names, **options)), inputs, check_fwd_over_rev=True, fast_mode=True)


def test_second_order_of_every_element() -> None:
    names = ("query", "key", "relative_key", "sinks")
    inputs = tuple(everything(names=(*PLAIN, "relative_key", "sinks")).values())
    value = inputs[2].detach()

    def function(query: Tensor, key: Tensor, relative_key: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
        return of((*names, "value"))(query, key, relative_key, sinks, value)

    assert gradgradcheck(
        function, (*inputs[:2], *inputs[3:]), check_fwd_over_rev=True, check_batched_grad=True
    )


@pytest.mark.parametrize("order", [1, 2, 3])
def test_every_nesting_of_forward_and_reverse(order: int) -> None:
    small = {"heads": 1, "query_length": 1, "key_length": 2, "dim": 1, "value_dim": 1} if order == 3 else {}
    inputs = tuple(tensor.detach() for tensor in everything(**small).values())
    places = (0, 1, 8) if order == 3 else (0, 1, 3, 5, 8)
    for transforms in itertools.product((jacrev, jacfwd), repeat=order):
        tested, expected = scalar(DIFFERENTIABLE), scalar(DIFFERENTIABLE, attention=sk.reference.attention)
        for transform in transforms:
            tested, expected = transform(tested, argnums=places), transform(expected, argnums=places)
        label = " of ".join(transform.__name__ for transform in reversed(transforms))
        torch.testing.assert_close(
            tested(*inputs), expected(*inputs), msg=lambda text, label=label: f"{label}: {text}"
        )


@pytest.mark.parametrize("pattern", [sk.Local(5), sk.BlockSparse(torch.rand(2, 3, 4) < 0.4, 40)])
def test_several_tiles(pattern: sk.Pattern) -> None:
    """More queries and keys than a tile has: tangent, and double backward of everything."""
    names = DIFFERENTIABLE
    tensors = everything(2, 2, 2, 110, 130, names=names)
    hidden = integers(tensors)
    inputs = tuple(tensors.values())
    directions = tuple(torch.randn_like(tensor) for tensor in inputs)
    results = []
    for attention in (sk.attention, sk.reference.attention):

        def number(*tensors: Tensor, attention: Callable = attention) -> Tensor:
            out, lse = call(dict(zip(names, tensors, strict=True)) | hidden, attention, pattern=pattern)
            return out.sin().sum() + torch.where(lse == -torch.inf, 0.0, lse.cos()).sum()

        value, tangent = torch.func.jvp(number, tuple(t.detach() for t in inputs), directions)
        gradients = torch.autograd.grad(number(*inputs), inputs, create_graph=True)
        product = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True))
        results.append((value, tangent, *gradients, *torch.autograd.grad(product, inputs)))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("through", ["out", "lse", "both"])
def test_gradients_that_do_not_arrive(through: str) -> None:
    """Each output alone, in first and second order: a gradient that is absent is no tensor of zeros."""
    names = DIFFERENTIABLE
    inputs = tuple(everything().values())
    for chosen in (0, 1):
        results = []
        for attention in (sk.attention, sk.reference.attention):
            out, lse = of(names, attention=attention)(*inputs)
            number = {"out": out.sin().sum(), "lse": lse.sin().sum(), "both": out.sum() + lse.sin().sum()}[
                through
            ]
            gradients = torch.autograd.grad(
                number, inputs, create_graph=True, allow_unused=True, materialize_grads=True
            )
            second = torch.autograd.grad(
                gradients[chosen].square().sum(), inputs, allow_unused=True, materialize_grads=True
            )
            results.append((*gradients, *second))
        torch.testing.assert_close(*results)


@native
def test_absent_gradients_stay_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No zeros are made for the gradient of an output that nothing used: the op is told there is none."""
    absent = []
    run = attention_autodiff._backward_op

    def observed(grad_out: Tensor | None, grad_lse: Tensor | None, *rest: object) -> tuple[Tensor, ...]:
        absent.append((grad_out is None, grad_lse is None))
        return run(grad_out, grad_lse, *rest)

    monkeypatch.setattr(attention_autodiff, "_backward_op", observed)
    inputs = tuple(everything(names=PLAIN).values())
    for used, create_graph in itertools.product((0, 1), (False, True)):
        result = of(PLAIN)(*inputs)[used].sin().sum()
        torch.autograd.grad(result, inputs[:2], create_graph=create_graph)
    assert absent == [(False, True)] * 2 + [(True, False)] * 2


class Stop(torch.autograd.Function):
    """Its input has no gradient, although it asked for one."""

    @staticmethod
    def forward(ctx: object, tensor: Tensor) -> Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> None:
        return None


def test_no_gradient_at_all() -> None:
    """Nothing arrives for either output: nothing is computed, in first and in second order."""
    inputs = tuple(everything().values())
    out, lse = of(DIFFERENTIABLE)(*inputs)
    stopped = Stop.apply(out).sum() + Stop.apply(lse).sum()
    assert torch.autograd.grad(stopped, inputs, allow_unused=True) == (None,) * len(inputs)
    first = torch.autograd.grad(scalar(DIFFERENTIABLE)(*inputs), inputs, create_graph=True)
    stopped = sum(Stop.apply(gradient).sum() for gradient in first)
    assert torch.autograd.grad(stopped, inputs, allow_unused=True) == (None,) * len(inputs)


def test_gradients_of_some_arguments() -> None:
    """Only what asks for a gradient gets one, in second order too."""
    for names in itertools.combinations(DIFFERENTIABLE, 2):
        tensors = everything()
        for name, tensor in tensors.items():
            tensor.requires_grad_(name in names)
        wanted = [tensors[name] for name in names]
        results = []
        for attention in (sk.attention, sk.reference.attention):
            number = scalar(DIFFERENTIABLE, attention=attention)(*tensors.values())
            first = torch.autograd.grad(number, wanted, create_graph=True)
            results.append((*first, *torch.autograd.grad(sum(g.square().sum() for g in first), wanted)))
        torch.testing.assert_close(*results, msg=lambda text, names=names: f"{names}: {text}")


def test_backward_twice_and_in_any_order() -> None:
    """What backward saved is left as it was: gradients of a retained graph repeat, in second order too."""
    inputs = tuple(everything().values())
    number = scalar(DIFFERENTIABLE)(*inputs)
    first = torch.autograd.grad(number, inputs, retain_graph=True)
    graph = torch.autograd.grad(number, inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in graph), inputs, retain_graph=True)
    again = torch.autograd.grad(number, inputs, retain_graph=True)
    second_again = torch.autograd.grad(sum(g.square().sum() for g in graph), inputs)
    torch.testing.assert_close((*first, *first, *second), (*graph, *again, *second_again), rtol=0, atol=0)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_rows_and_keys_without_partner_hold_anything(softcap: float | None) -> None:
    """NaN past key_lengths, and in queries that see nothing, reaches no derivative of any order."""
    tensors = everything(2, key_length=5, names=PLAIN)
    lengths = torch.tensor([0, 3])
    with torch.no_grad():
        for name in ("key", "value"):
            tensors[name][0], tensors[name][1, :, 3:] = torch.nan, torch.nan
        tensors["query"][0] = torch.nan
    inputs = tuple(tensors.values())
    out, lse = call(tensors | {"key_lengths": lengths}, softcap=softcap)
    assert bool((out[0] == 0).all())
    assert bool((lse[0] == -torch.inf).all())
    number = out.sin().sum() + lse[1].sin().sum()
    gradients = torch.autograd.grad(number, inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in gradients), inputs)
    for gradient in (*gradients, *second):
        assert bool(gradient.isfinite().all())
    for gradient in (*gradients[1:], *second[1:]):
        assert bool((gradient[0] == 0).all())
        assert bool((gradient[1, :, 3:] == 0).all())

    def function(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return call(dict(zip(PLAIN, tensors, strict=True)) | {"key_lengths": lengths}, softcap=softcap)

    tangents = torch.func.jvp(
        function, tuple(t.detach() for t in inputs), tuple(map(torch.ones_like, inputs))
    )[1]
    for tangent in tangents:
        assert bool(tangent.isfinite().all())


@pytest.mark.parametrize(("query_length", "key_length", "batch"), [(0, 4, 1), (3, 0, 1), (3, 4, 0)])
def test_nothing_to_do(query_length: int, key_length: int, batch: int) -> None:
    tensors = everything(batch, query_length=query_length, key_length=key_length)
    inputs = tuple(tensors.values())
    results = []
    for attention in (sk.attention, sk.reference.attention):
        number = scalar(DIFFERENTIABLE, attention=attention)
        gradients = torch.autograd.grad(number(*inputs), inputs, create_graph=True)
        second = torch.autograd.grad(
            sum(g.square().sum() for g in gradients), inputs, allow_unused=True, materialize_grads=True
        )
        tangent = torch.func.jvp(
            number, tuple(t.detach() for t in inputs), tuple(map(torch.ones_like, inputs))
        )[1]
        results.append((*gradients, *second, tangent))
    torch.testing.assert_close(*results)
