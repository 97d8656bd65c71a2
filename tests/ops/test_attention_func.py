"""torch.func over sk.attention: vmap over anything, per-sample gradients, Hessians, dropout."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from ops.everything import DIFFERENTIABLE, INTEGERS, call, everything, integers, scalar
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import seo_kernels as sk

ALL = (*DIFFERENTIABLE, *INTEGERS)
SAMPLES = 3

SUBSETS: Sequence[tuple[str, ...]] = (
    *((name,) for name in ALL),
    ("query", "key", "value"),
    ("key", "value", "key_lengths"),
    ("query", "query_segments", "relative_bias"),
    ("mask", "sinks", "value"),
    ALL,
)


def problem() -> dict[str, Tensor]:
    tensors = everything(2)
    return {name: tensor.detach() for name, tensor in (tensors | integers(tensors)).items()}


def of_samples(names: Sequence[str]) -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """A problem whose named tensors hold samples in their last dimension, and the problem of every sample."""
    samples = [problem() for _ in range(SAMPLES)]
    stacked = {name: torch.stack([sample[name] for sample in samples], -1) for name in names}
    return samples[0] | stacked, [samples[0] | {n: sample[n] for n in names} for sample in samples]


def dims(names: Sequence[str]) -> dict[str, int | None]:
    return {name: -1 if name in names else None for name in ALL}


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_vmap_over_any_tensors(names: tuple[str, ...]) -> None:
    batched, samples = of_samples(names)
    tested = vmap(call, in_dims=(dims(names),))(batched)
    expected = [torch.stack(parts) for parts in zip(*(call(sample) for sample in samples), strict=True)]
    torch.testing.assert_close(list(tested), expected)


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_gradients_of_samples(names: tuple[str, ...]) -> None:
    """vmap of grad, for every argument, whatever is batched."""

    def number(tensors: dict[str, Tensor]) -> Tensor:
        return scalar(ALL)(*(tensors[name] for name in ALL))

    def gradients(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        floating = {name: tensors[name] for name in DIFFERENTIABLE}
        return grad(lambda floating: number(tensors | floating))(floating)

    batched, samples = of_samples(names)
    tested = vmap(gradients, in_dims=(dims(names),))(batched)
    for name in DIFFERENTIABLE:
        expected = torch.stack([gradients(sample)[name] for sample in samples])
        torch.testing.assert_close(tested[name], expected, msg=lambda text, name=name: f"{name}: {text}")


def test_folded_call_repeats_the_mask() -> None:
    """A mask with a row for every batch entry, which all samples share."""
    query, other = torch.randn(2, SAMPLES, 2, 2, 4, 2, dtype=torch.float64).unbind()
    for mask in (
        torch.randn(2, 1, 4, 4, dtype=torch.float64),
        torch.rand(2, 1, 1, 4) < 0.7,
        torch.rand(4, 4) < 0.7,
    ):

        def masked(query: Tensor, key: Tensor, mask: Tensor = mask) -> Tensor:
            return sk.attention(query, key, key, mask=mask)

        expected = torch.stack([masked(*sample) for sample in zip(query, other, strict=True)])
        torch.testing.assert_close(vmap(masked)(query, other), expected)


def test_gradients_through_vmap() -> None:
    """grad of vmap: the derivative passes the folded call, and the looped one."""
    for names in (("query", "key", "value"), ALL):
        batched, samples = of_samples(names)
        leaves = [batched[name].requires_grad_() for name in DIFFERENTIABLE]
        out, lse = vmap(call, in_dims=(dims(names),))(batched)
        tested = torch.autograd.grad(
            out.sin().sum() + torch.where(lse == -torch.inf, 0.0, lse.cos()).sum(), leaves
        )
        expected = []
        for sample in samples:
            own = [sample[name].detach().requires_grad_() for name in DIFFERENTIABLE]
            out, lse = call(sample | dict(zip(DIFFERENTIABLE, own, strict=True)))
            number = out.sin().sum() + torch.where(lse == -torch.inf, 0.0, lse.cos()).sum()
            expected.append(torch.autograd.grad(number, own))
        for name, tested_one, parts in zip(DIFFERENTIABLE, tested, zip(*expected, strict=True), strict=True):
            joined = torch.stack(parts, -1) if name in names else sum(parts)
            torch.testing.assert_close(tested_one, joined, msg=lambda text, name=name: f"{name}: {text}")


def test_nested_vmap_is_one_call() -> None:
    query, key, value = torch.randn(3, 2, 3, 1, 2, 4, 2).unbind()
    tested = vmap(vmap(sk.attention, in_dims=(0, 0, None)), in_dims=(0, None, 0))(query, key[0], value[:, 0])
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(tested[i, j], sk.attention(query[i, j], key[0, j], value[i, 0]))


def test_vmap_folds_into_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batched operands, lengths and segments are one call of the op; batched tables are a call each."""
    from seo_kernels.ops import attention_autodiff

    shapes = []
    run = attention_autodiff.forward_op

    def counted(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        shapes.append(arguments[0].shape)
        return run(*arguments)

    monkeypatch.setattr(attention_autodiff, "forward_op", counted)
    foldable = ("query", "key", "value", *INTEGERS)
    for names, calls, batch in (
        (foldable, 1, 2 * SAMPLES),
        (("relative_bias",), SAMPLES, 2),
        (("mask",), SAMPLES, 2),
    ):
        shapes.clear()
        vmap(call, in_dims=(dims(names),))(of_samples(names)[0])
        assert [shape[0] for shape in shapes] == [batch] * calls, names


def test_dropout_asks_for_randomness() -> None:
    query, key, value = torch.randn(3, SAMPLES, 2, 2, 6, 4, dtype=torch.float64).unbind()
    one = torch.randn(2, 2, 6, 4, dtype=torch.float64)

    def dropped(query: Tensor, key: Tensor = one, value: Tensor = one) -> Tensor:
        return sk.attention(query, key, value, dropout_p=0.5)

    with pytest.raises(RuntimeError, match="randomness"):
        vmap(dropped)(query, key, value)

    torch.manual_seed(3)
    same = vmap(dropped, randomness="same")(query, key, value)
    for i in range(SAMPLES):
        torch.manual_seed(3)
        torch.testing.assert_close(same[i], dropped(query[i], key[i], value[i]))

    alike = query[:1].expand(SAMPLES, -1, -1, -1, -1)
    torch.testing.assert_close(*vmap(dropped, randomness="same")(alike)[:2].unbind())
    different = vmap(dropped, randomness="different")(alike)
    assert not torch.allclose(different[0], different[1])
    torch.manual_seed(4)
    different = vmap(dropped, randomness="different")(query, key, value)
    torch.manual_seed(4)
    assert torch.equal(different, vmap(dropped, randomness="different")(query, key, value))


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_dropout_in_gradients_of_samples(randomness: str) -> None:
    """Backward and jvp drop what forward dropped: for a fixed seed, the function is linear in value."""
    query, value = torch.randn(2, SAMPLES, 1, 2, 6, 4, dtype=torch.float64).unbind()

    def pulled(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        out, pull = vjp(lambda value: sk.attention(query, query, value, dropout_p=0.5).sum(), value)
        return out, (pull(torch.ones_like(out))[0] * value).sum()

    torch.testing.assert_close(*vmap(pulled, randomness=randomness)(query, value))

    def pushed(query: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return jvp(lambda value: sk.attention(query, query, value, dropout_p=0.5), (value,), (value,))

    torch.testing.assert_close(*vmap(pushed, randomness=randomness)(query, value))


@pytest.mark.parametrize("pattern", [sk.Local(1), sk.BlockSparse(torch.tensor([[[True]], [[False]]]))])
def test_hessian_and_products(pattern: sk.Pattern) -> None:
    tensors = everything(query_length=2, key_length=3)
    inputs = tuple(tensor.detach() for tensor in tensors.values())
    tested = scalar(DIFFERENTIABLE, pattern=pattern)
    expected = scalar(DIFFERENTIABLE, pattern=pattern, attention=sk.reference.attention)
    places = (0, 1, 2)
    matrix = hessian(expected, argnums=places)(*inputs)
    torch.testing.assert_close(hessian(tested, argnums=places)(*inputs), matrix)
    directions = tuple(map(torch.randn_like, inputs[:3]))

    def gradients(*operands: Tensor) -> tuple[Tensor, ...]:
        return grad(tested, argnums=places)(*operands, *inputs[3:])

    forward_over_reverse = jvp(gradients, inputs[:3], directions)[1]
    reverse_over_reverse = vjp(gradients, *inputs[:3])[1](directions)
    for i in places:
        product = sum(torch.tensordot(matrix[i][j], directions[j], 4) for j in places)
        torch.testing.assert_close((forward_over_reverse[i], reverse_over_reverse[i]), (product, product))


def test_pullback_without_gradients() -> None:
    """A pullback that is called outside of its transform, where nothing records."""
    inputs = tuple(tensor.detach() for tensor in everything().values())
    out, pull = vjp(scalar(DIFFERENTIABLE), *inputs)
    with_graph = pull(torch.ones_like(out))
    with torch.no_grad():
        torch.testing.assert_close(pull(torch.ones_like(out)), with_graph)
        for name, batched, plain in zip(DIFFERENTIABLE, vmap(pull)(torch.ones(2)), with_graph, strict=True):
            torch.testing.assert_close(
                batched, torch.stack([plain, plain]), msg=lambda text, name=name: f"{name}: {text}"
            )


def test_forward_mode_over_a_backward_that_records_nothing() -> None:
    tensors = everything()
    inputs, directions = tuple(tensors.values()), tuple(map(torch.randn_like, tensors.values()))
    number = scalar(DIFFERENTIABLE)
    with forward_ad.dual_level():
        duals = tuple(map(forward_ad.make_dual, inputs, directions))
        gradients = torch.autograd.grad(number(*duals), duals)
        tested = [forward_ad.unpack_dual(gradient).tangent for gradient in gradients]
    first = torch.autograd.grad(number(*inputs), inputs, create_graph=True)
    expected = torch.autograd.grad(first, inputs, directions)
    torch.testing.assert_close(tested, list(expected))


def test_jacobians_agree() -> None:
    tensors = everything(names=("query", "key", "value"))
    inputs = tuple(tensor.detach() for tensor in tensors.values())
    for transform in (jacrev, jacfwd):
        tested = transform(sk.attention, argnums=(0, 1, 2))(*inputs)
        torch.testing.assert_close(tested, jacrev(sk.reference.attention, argnums=(0, 1, 2))(*inputs))


def test_batched_gradients_of_autograd() -> None:
    """torch.autograd.grad(is_grads_batched=True), which Lightning, functorch's jacobian and others use."""
    tensors = everything()
    out, _lse = call(tensors)
    directions = torch.randn(4, *out.shape, dtype=out.dtype)
    inputs = [tensors[name] for name in ("query", "relative_key", "slopes")]
    tested = torch.autograd.grad(out, inputs, directions, is_grads_batched=True, retain_graph=True)
    each = [torch.autograd.grad(out, inputs, direction, retain_graph=True) for direction in directions]
    torch.testing.assert_close(tested, tuple(map(torch.stack, zip(*each, strict=True))))
