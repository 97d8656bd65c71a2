"""What the losses say about wrong arguments: the argument, what came, and what was expected."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

import seo_kernels as sk
from seo_kernels import _library

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
X, Y = torch.randn(3, 5), torch.tensor([1, 0, 4])
P = X.softmax(1)
H, W = torch.randn(3, 4), torch.randn(5, 4)
REAL = "expected float32, bfloat16, float16 or float64"

WRONG: list[tuple[str, str, Callable[[Any], Any], type[Exception], str]] = [
    (
        "cross_entropy",
        "label_smoothing of another kind",
        lambda s: s.cross_entropy(X, Y, label_smoothing="a little"),
        TypeError,
        "label_smoothing is a str, expected a number in [0, 1]",
    ),
    (
        "cross_entropy",
        "ignore_index",
        lambda s: s.cross_entropy(X, Y, ignore_index=None),
        TypeError,
        "ignore_index is a NoneType, expected an int",
    ),
    (
        "cross_entropy",
        "ignore_index with probabilities",
        lambda s: s.cross_entropy(X, P, ignore_index=2),
        ValueError,
        "ignore_index is 2, expected none: target holds class probabilities",
    ),
    (
        "cross_entropy",
        "list",
        lambda s: s.cross_entropy([1.0], Y),
        TypeError,
        "input is a list, expected a tensor",
    ),
    (
        "cross_entropy",
        "integer input",
        lambda s: s.cross_entropy(X.long(), Y),
        TypeError,
        f"input has dtype torch.int64, {REAL}",
    ),
    (
        "cross_entropy",
        "target list",
        lambda s: s.cross_entropy(X, [1, 0, 4]),
        TypeError,
        "target is a list, expected a tensor of class indices",
    ),
    (
        "cross_entropy",
        "bool target",
        lambda s: s.cross_entropy(X, Y > 0),
        TypeError,
        "target has dtype torch.bool, expected class indices of torch.int64, or floating",
    ),
    (
        "cross_entropy",
        "target shape",
        lambda s: s.cross_entropy(X, Y[:2]),
        ValueError,
        "target has shape (2,), expected one class index per row, (3,), or probabilities",
    ),
    (
        "cross_entropy",
        "probabilities' shape",
        lambda s: s.cross_entropy(X, P[:, :4]),
        ValueError,
        "target has shape (3, 4), expected probabilities of the input's shape (3, 5), or class indices of",
    ),
    (
        "cross_entropy",
        "integer probabilities",
        lambda s: s.cross_entropy(X, torch.ones(3, 5, dtype=torch.int64)),
        ValueError,
        "target has shape (3, 5), expected one class index per row, (3,)",
    ),
    (
        "cross_entropy",
        "no dimension",
        lambda s: s.cross_entropy(torch.tensor(1.0), torch.tensor(0)),
        ValueError,
        "input has shape (), expected (C,), (N, C) or (N, C, d1, ...)",
    ),
    (
        "cross_entropy",
        "no class",
        lambda s: s.cross_entropy(torch.randn(3, 0), Y),
        ValueError,
        "input has shape (3, 0), expected at least one class",
    ),
    (
        "cross_entropy",
        "weight shape",
        lambda s: s.cross_entropy(X, Y, torch.rand(4)),
        ValueError,
        "weight has shape (4,), expected one number per class, (5,)",
    ),
    (
        "cross_entropy",
        "integer weight",
        lambda s: s.cross_entropy(X, Y, torch.arange(5)),
        TypeError,
        f"weight has dtype torch.int64, {REAL}",
    ),
    (
        "cross_entropy",
        "device",
        lambda s: s.cross_entropy(X, Y.to("meta")),
        ValueError,
        "target is on meta, expected the input's device cpu",
    ),
    (
        "focal_loss",
        "gamma",
        lambda s: s.focal_loss(X, Y, gamma=-1.0),
        ValueError,
        "gamma is -1.0, expected a number of at least 0",
    ),
    (
        "focal_loss",
        "gamma nan",
        lambda s: s.focal_loss(X, Y, gamma=float("nan")),
        ValueError,
        "gamma is nan, expected a number of at least 0",
    ),
    (
        "focal_loss",
        "alpha shape",
        lambda s: s.focal_loss(X, Y, alpha=torch.rand(3)),
        ValueError,
        "alpha has shape (3,), expected one number per class, (5,)",
    ),
    (
        "focal_loss",
        "alpha kind",
        lambda s: s.focal_loss(X, Y, alpha=[0.5] * 5),
        TypeError,
        "alpha is a list, expected a number or a tensor (C,)",
    ),
    (
        "focal_loss",
        "probabilities",
        lambda s: s.focal_loss(X, P),
        TypeError,
        "target has dtype torch.float32, expected class indices of torch.int64",
    ),
    (
        "huber_loss",
        "delta",
        lambda s: s.huber_loss(X, X, delta=0.0),
        ValueError,
        "delta is 0.0, expected a number above 0",
    ),
    (
        "huber_loss",
        "delta kind",
        lambda s: s.huber_loss(X, X, delta=True),
        TypeError,
        "delta is a bool, expected a number above 0",
    ),
    (
        "huber_loss",
        "integers",
        lambda s: s.huber_loss(X, X.long()),
        TypeError,
        f"target has dtype torch.int64, {REAL}",
    ),
    (
        "huber_loss",
        "shapes",
        lambda s: s.huber_loss(X, X[:, :2]),
        ValueError,
        "target has shape (3, 2), expected one that broadcasts with the input's (3, 5)",
    ),
    (
        "huber_loss",
        "weight shape",
        lambda s: s.huber_loss(X, X, weight=torch.rand(5)),
        ValueError,
        "weight has shape (5,), expected that of input and target, (3, 5)",
    ),
    (
        "linear_cross_entropy",
        "weight shape",
        lambda s: s.linear_cross_entropy(H, W.t(), Y),
        ValueError,
        "weight has shape (4, 5), expected (classes, dim=4)",
    ),
    (
        "linear_cross_entropy",
        "weight dtype",
        lambda s: s.linear_cross_entropy(H, W.bfloat16(), Y),
        TypeError,
        "weight has dtype torch.bfloat16, expected hidden's torch.float32",
    ),
    (
        "linear_cross_entropy",
        "bias shape",
        lambda s: s.linear_cross_entropy(H, W, Y, torch.rand(4)),
        ValueError,
        "bias has shape (4,), expected one per class, (5,)",
    ),
    (
        "linear_cross_entropy",
        "target shape",
        lambda s: s.linear_cross_entropy(H, W, Y[:2]),
        ValueError,
        "target has shape (2,), expected one class index per row, (3,)",
    ),
    (
        "linear_cross_entropy",
        "probabilities",
        lambda s: s.linear_cross_entropy(H, W, P),
        TypeError,
        "target has dtype torch.float32, expected class indices of torch.int64",
    ),
    (
        "linear_cross_entropy",
        "no class",
        lambda s: s.linear_cross_entropy(H, W[:0], Y),
        ValueError,
        "weight has shape (0, 4), expected at least one class",
    ),
    (
        "linear_cross_entropy",
        "hidden",
        lambda s: s.linear_cross_entropy(H.long(), W, Y),
        TypeError,
        f"hidden has dtype torch.int64, {REAL}",
    ),
]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [case[2:] for case in WRONG],
    ids=[f"{case[0]}: {case[1]}" for case in WRONG],
)
def test_wrong_argument(call: Callable[[Any], Any], error: type[Exception], message: str) -> None:
    """The same words from the op and from the reference."""
    for space in (sk, sk.reference):
        with pytest.raises(error) as raised:
            call(space)
        assert message in str(raised.value)


LOSSES: dict[str, Callable[..., Any]] = {
    "cross_entropy": lambda s, **options: s.cross_entropy(X, Y, **options),
    "cross_entropy of probabilities": lambda s, **options: s.cross_entropy(X, P, **options),
    "focal_loss": lambda s, **options: s.focal_loss(X, Y, **options),
    "huber_loss": lambda s, **options: s.huber_loss(X, X, **options),
    "linear_cross_entropy": lambda s, **options: s.linear_cross_entropy(H, W, Y, **options),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("reduction", ["avg", None, 1])
def test_wrong_reduction(loss: str, reduction: object) -> None:
    for space in (sk, sk.reference):
        with pytest.raises(ValueError, match=f"reduction is {reduction!r}, expected 'none', 'mean' or 'sum'"):
            LOSSES[loss](space, reduction=reduction)


@pytest.mark.parametrize("loss", ["cross_entropy", "cross_entropy of probabilities", "linear_cross_entropy"])
@pytest.mark.parametrize("smoothing", [1.5, -0.1, float("nan"), float("inf")])
def test_wrong_label_smoothing(loss: str, smoothing: float) -> None:
    for space in (sk, sk.reference):
        with pytest.raises(ValueError, match=f"label_smoothing is {smoothing}, expected a number in"):
            LOSSES[loss](space, label_smoothing=smoothing)


@pytest.mark.parametrize("wrong", [5, -1, -101, 2**40])
def test_target_that_is_no_class(wrong: int) -> None:
    """Named with its row, in every mode that may look at values; nothing is read out of bounds."""
    target = torch.tensor([1, -100, wrong])
    message = f"target is {wrong} in row 2, expected a class from 0 to 4, or ignore_index -100"
    calls = (
        lambda s, x, t: s.cross_entropy(x, t),
        lambda s, x, t: s.focal_loss(x, t),
        lambda s, x, t: s.linear_cross_entropy(H, W, t),
    )
    for call, space in itertools.product(calls, (sk, sk.reference)):
        with pytest.raises(ValueError, match=message):
            call(space, X, target)
        with torch.no_grad(), pytest.raises(ValueError, match=message):
            call(space, X, target)
    if _library.available("cpu"):
        torch.compiler.reset()
        for call in calls:
            compiled = torch.compile(lambda x, t, c=call: c(sk, x, t), backend="aot_eager", fullgraph=True)
            with pytest.raises(ValueError, match=message):
                compiled(X, target)


@native
def test_ops_check_for_themselves() -> None:
    """What reaches the op past the public call gets an error as well, not a wrong address."""
    ops = torch.ops.seo_kernels
    for call, message in (
        (lambda: ops.cross_entropy_forward(X[0], Y, None, -100, 0.0), "input has shape (5), expected (rows"),
        (lambda: ops.cross_entropy_forward(X, Y.int(), None, -100, 0.0), "target must be int64"),
        (lambda: ops.cross_entropy_forward(X, Y[:2], None, -100, 0.0), "target has shape (2), expected (3)"),
        (lambda: ops.cross_entropy_forward(X, Y, X[0, :2], -100, 0.0), "weight has shape (2), expected (5)"),
        (lambda: ops.cross_entropy_forward(X, Y, None, -100, 2.0), "label_smoothing is 2"),
        (lambda: ops.soft_cross_entropy_forward(X, P[:, :2], None, 0.0), "target has shape (3, 2), expected"),
        (lambda: ops.focal_loss_forward(X, Y, None, -1.0, -100), "gamma is -1"),
        (lambda: ops.huber_loss_forward(X, X, None, 0.0, True), "delta is 0"),
        (lambda: ops.huber_loss_forward(X, X[:2], None, 1.0, True), "target has shape (2, 5), expected"),
        (
            lambda: ops.linear_cross_entropy_forward(H, W[:, :2], Y, None, -100, 0.0),
            "weight has shape (5, 2)",
        ),
        (lambda: ops.linear_cross_entropy_forward(H, W.double(), Y, None, -100, 0.0), "hidden's dtype"),
        (
            lambda: ops.cross_entropy_backward(X[:, 0], X, Y, None, -100, 0.0, X[:, 0], [True]),
            "lse has shape (3), expected (3, 2)",
        ),
        (
            lambda: ops.linear_cross_entropy_backward(
                X[0], H, W, Y, None, -100, 0.0, X[:, :2], [True, True, False]
            ),
            "grad_losses has shape (5), expected (3)",
        ),
    ):
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            call()
        assert message in str(raised.value)
