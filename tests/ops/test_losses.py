"""sk.cross_entropy, sk.focal_loss and sk.huber_loss beside torch.nn.functional, with every option."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from ops import op_contract
from torch import Tensor

import seo_kernels as sk
from seo_kernels.ops.loss_arguments import class_rows

pytestmark = pytest.mark.usefixtures("poisoned_memory")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
REDUCTIONS = ("none", "mean", "sum")
SHAPES = ((5,), (7, 1), (7, 63), (3, 257), (2, 2100), (3, 100, 4), (2, 5, 3, 4), (0, 5), (2, 5, 0))
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1.6e-2, torch.float16: 2e-3}


def class_dim(shape: tuple[int, ...]) -> int:
    return 0 if len(shape) == 1 else 1


def targets(shape: tuple[int, ...], *, ignored: bool = True) -> Tensor:
    place = class_dim(shape)
    target = torch.randint(shape[place], (*shape[:place], *shape[place + 1 :]))
    if ignored and target.numel() > 2:
        target.view(-1)[1::4] = -100
    return target


def same(
    tested: Callable[..., Tensor],
    expected: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *rest: object,
    **options: object,
) -> None:
    """Value, dtype, shape and gradients as of torch in float64 on the same rounded inputs."""
    dtype = inputs[0].dtype
    own = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    wide = [tensor.detach().double().requires_grad_() for tensor in inputs]
    loss = tested(*own, *rest, **options)
    exact = expected(*wide, *map(_wide, rest), **{name: _wide(value) for name, value in options.items()})
    assert loss.dtype == dtype
    assert loss.shape == exact.shape
    _close(loss, exact, dtype)
    weights = torch.rand_like(exact).to(dtype)
    gradients = torch.autograd.grad(loss, own, weights)
    exact_gradients = torch.autograd.grad(exact, wide, weights.double())
    for tensor, gradient, exact_gradient in zip(own, gradients, exact_gradients, strict=True):
        assert gradient.dtype == tensor.dtype
        _close(gradient, exact_gradient, dtype)


def _wide(value: object) -> object:
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def _close(tested: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    tolerance = TOLERANCE[dtype]
    size = exact.nan_to_num(0.0, 0.0, 0.0).abs().max().item() if exact.numel() else 0.0
    torch.testing.assert_close(
        tested.double(), exact, rtol=tolerance, atol=tolerance * max(size, 0.1), equal_nan=True
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_of_indices(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    classes = shape[class_dim(shape)]
    for reduction, weighted, smoothing in itertools.product(REDUCTIONS, (False, True), (0.0, 0.1, 1.0)):
        input, target = (2 * torch.randn(shape)).to(dtype), targets(shape)
        weight = torch.rand(classes).to(dtype) if weighted else None
        same(
            sk.cross_entropy,
            F.cross_entropy,
            [input],
            target,
            weight,
            reduction=reduction,
            label_smoothing=smoothing,
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy_of_probabilities(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    classes = shape[class_dim(shape)]
    for reduction, weighted, smoothing in itertools.product(REDUCTIONS, (False, True), (0.0, 0.1)):
        input = (2 * torch.randn(shape)).to(dtype)
        target = torch.randn(shape).softmax(class_dim(shape)).to(dtype)
        weight = torch.rand(classes).to(dtype) if weighted else None
        same(
            sk.cross_entropy,
            F.cross_entropy,
            [input, target],
            weight,
            reduction=reduction,
            label_smoothing=smoothing,
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_nothing_counts(reduction: str, smoothing: float) -> None:
    """NaN for the mean, as in torch; zero gradients for the others, whatever the rows hold."""
    target = torch.full((3,), -100)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    tested = sk.cross_entropy(torch.randn(3, 5), target, **options)
    torch.testing.assert_close(tested, F.cross_entropy(torch.randn(3, 5), target, **options), equal_nan=True)
    for loss in (sk.cross_entropy, sk.reference.cross_entropy):
        input = torch.full((3, 5), torch.nan, requires_grad=True)
        out = loss(input, torch.tensor([-100, -100, 3]), reduction="none")
        assert out[:2].tolist() == [0.0, 0.0]
        (gradient,) = torch.autograd.grad(out[:2].sum(), input)
        assert bool((gradient[:2] == 0).all())


def test_ignore_index_may_be_a_class() -> None:
    input, target = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 1, 1])
    for index in (1, 3, -1, 7):
        counted = torch.where(target == 1, index, target) if index not in range(4) else target
        tested = sk.cross_entropy(input, counted, ignore_index=index)
        torch.testing.assert_close(tested, F.cross_entropy(input, counted, ignore_index=index))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.reshape(9, 12)[:4, :6].t(),
        lambda x: x.reshape(12, 9)[::2, 1:9:2],
        lambda x: x.reshape(27, 4)[:1].expand(6, 4),
        lambda x: torch.as_strided(x, (6, 4), (1, 11)),
        lambda x: torch.as_strided(x, (6, 4), (1, 0)),
    ],
)
def test_strides(view: Callable[[Tensor], Tensor]) -> None:
    target, base = torch.randint(4, (6,)), torch.randn(108, dtype=torch.float64)

    def indexed(loss: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: loss(view(x), target)

    def soft(loss: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: loss(view(x), view(x * x).softmax(1))

    for of in (indexed, soft):
        same(of(sk.cross_entropy), of(F.cross_entropy), [base])


def test_classes_that_lie_last_in_memory() -> None:
    """Logits (batch, length, classes) as (batch, classes, length): a view, and no copy of it."""
    logits, target = torch.randn(2, 3, 5, dtype=torch.float64), torch.randint(5, (2, 3))

    def of(loss: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda x: loss(x.transpose(1, 2), target)

    same(of(sk.cross_entropy), of(F.cross_entropy), [logits])
    assert class_rows(logits.transpose(1, 2), target).input.data_ptr() == logits.data_ptr()


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_target_dtypes(dtype: torch.dtype) -> None:
    input, target = torch.randn(3, 5), torch.tensor([1, 0, 4])
    torch.testing.assert_close(sk.cross_entropy(input, target.to(dtype)), F.cross_entropy(input, target))


def focal_formula(
    input: Tensor, target: Tensor, alpha: Tensor | float, gamma: float, reduction: str
) -> Tensor:
    counted = target != -100
    p = input.softmax(1).gather(1, target.clamp(min=0)[:, None]).squeeze(1)
    by_class = alpha[target.clamp(min=0)] if isinstance(alpha, Tensor) else alpha
    losses = torch.where(counted, -by_class * (1 - p) ** gamma * p.log(), 0.0)
    if reduction == "none":
        return losses
    return losses.sum() / counted.sum() if reduction == "mean" else losses.sum()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_focal_loss(gamma: float, dtype: torch.dtype) -> None:
    for classes, per_class, reduction in itertools.product((2, 63, 257), (False, True), REDUCTIONS):
        input, target = (2 * torch.randn(9, classes)).to(dtype), targets((9, classes))
        alpha = torch.rand(classes).to(dtype) if per_class else 0.25
        options = {"alpha": alpha, "gamma": gamma, "reduction": reduction}
        same(sk.focal_loss, focal_formula, [input], target, **options)


def test_focal_loss_of_images_is_cross_entropy_without_gamma() -> None:
    input, target = torch.randn(2, 5, 3, 4), torch.randint(5, (2, 3, 4))
    for reduction in REDUCTIONS:
        torch.testing.assert_close(
            sk.focal_loss(input, target, gamma=0.0, reduction=reduction),
            F.cross_entropy(input, target, reduction=reduction),
        )
    one = sk.focal_loss(input[0, :, 0, 0], target[0, 0, 0], gamma=0.0)
    torch.testing.assert_close(one, F.cross_entropy(input[0, :, 0, 0], target[0, 0, 0]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (63,), (5000,), (3, 100), (2, 9, 257), (3, 4500), (0,), (2, 0)])
def test_huber_loss(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for reduction, weighted, delta in itertools.product(REDUCTIONS, (False, True), (0.5, 2.0)):
        input, target = ((2 * torch.randn(shape)).to(dtype) for _ in range(2))
        options = {"reduction": reduction, "delta": delta}
        if weighted:
            weighted_operands = [input, target, torch.rand(shape).to(dtype)]
            same(_weighted(sk.huber_loss), _weighted(F.huber_loss), weighted_operands, **options)
        else:
            same(sk.huber_loss, F.huber_loss, [input, target], **options)


def _weighted(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, t, w, **options: loss(x, t, weight=w, **options)


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "view",
    [
        lambda x, t: (x[:, None], t),
        lambda x, t: (x[::2], t[1::2]),
        lambda x, t: (x.reshape(10, 6).t(), t.reshape(6, 10)),
        lambda x, t: (x.reshape(6, 10), t[:10]),
        lambda x, t: (x[:1].expand(4, 15), t.reshape(4, 15)),
    ],
)
def test_huber_loss_of_views(view: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], reduction: str) -> None:
    def of(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, t: loss(*view(x, t), reduction=reduction)

    operands = [torch.randn(60, dtype=torch.float64), torch.randn(60, dtype=torch.float64)]
    same(of(sk.huber_loss), of(F.huber_loss), operands)


def test_promotion() -> None:
    """Mixed dtypes are computed together; the gradient of each has its own."""
    half, single = torch.randn(3, 5).bfloat16().requires_grad_(), torch.randn(3, 5, requires_grad=True)
    for loss in (sk.huber_loss(half, single), sk.cross_entropy(half, single.softmax(1))):
        assert loss.dtype == torch.float32
        gradients = torch.autograd.grad(loss, (half, single))
        assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, torch.float32]
    assert sk.huber_loss(half, single.double()).dtype == torch.float64
    assert sk.cross_entropy(half, single.double().softmax(1)).dtype == torch.float64
    assert sk.cross_entropy(half, torch.tensor([0, 1, 2]), torch.rand(5)).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_float32(dtype: torch.dtype) -> None:
    input, target = torch.randn(4, 9).to(dtype).requires_grad_(), torch.randint(9, (4,))
    with torch.autocast("cpu", dtype):
        for loss, expected in (
            (sk.cross_entropy(input, target), F.cross_entropy(input, target)),
            (sk.focal_loss(input, target, gamma=0.0), F.cross_entropy(input, target)),
            (sk.huber_loss(input, input.detach() + 1), F.huber_loss(input, input.detach() + 1)),
            (sk.reference.cross_entropy(input, target), F.cross_entropy(input, target)),
        ):
            assert loss.dtype == expected.dtype == torch.float32
            torch.testing.assert_close(loss, expected)
            assert torch.autograd.grad(loss, input, retain_graph=True)[0].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_rule(dtype: torch.dtype) -> None:
    target = targets((50, 1100))
    weight = torch.rand(1100, dtype=torch.float64)
    inputs = (3 * torch.randn(50, 1100, dtype=torch.float64),)
    for options in ({}, {"label_smoothing": 0.2, "reduction": "none"}):
        op_contract.check_error(
            lambda x, options=options: sk.cross_entropy(x, target, weight, **options),
            lambda x, options=options: sk.reference.cross_entropy(x, target, weight, **options),
            inputs,
            dtype,
        )
    op_contract.check_error(
        lambda x: sk.focal_loss(x, target, reduction="none"),
        lambda x: sk.reference.focal_loss(x, target, reduction="none"),
        inputs,
        dtype,
    )
    soft = torch.randn(50, 1100, dtype=torch.float64).softmax(1)
    op_contract.check_error(sk.cross_entropy, sk.reference.cross_entropy, (*inputs, soft), dtype)
    op_contract.check_error(sk.huber_loss, sk.reference.huber_loss, (*inputs, soft), dtype)
