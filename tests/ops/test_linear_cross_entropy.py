"""sk.linear_cross_entropy beside F.linear and F.cross_entropy: every option, size and dtype; its memory."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from ops import op_contract
from torch import Tensor

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.benchmark.memory import CLEAR_REFS

pytestmark = pytest.mark.usefixtures("poisoned_memory")
native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
# tokens, dim, classes: around a block, less than one, several passes along dim, odd everything
SIZES = (
    (1, 3, 2),
    (63, 100, 257),
    (193, 64, 1000),
    (500, 33, 700),
    (7, 900, 64),
    (40, 1600, 130),
    (257, 1, 63),
    (0, 8, 5),
)


def problem(tokens: int, dim: int, classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden, weight, bias in float64, and targets, some of which are ignored."""
    hidden, weight, bias = (
        torch.randn(*shape, dtype=torch.float64) for shape in ((tokens, dim), (classes, dim), (classes,))
    )
    target = torch.randint(classes, (tokens,))
    target[2::5] = -100
    return hidden, weight / dim**0.5, bias, target


def formula(hidden: Tensor, weight: Tensor, target: Tensor, bias: Tensor | None, **options: object) -> Tensor:
    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(logits, target, **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_beside_torch(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    for biased, smoothing, reduction in itertools.product((False, True), (0.0, 0.2), ("none", "mean", "sum")):
        hidden, weight, bias, target = problem(*size)
        inputs = [tensor.to(dtype) for tensor in (hidden, weight, *([bias] if biased else []))]
        options = {"reduction": reduction, "label_smoothing": smoothing}
        own = [tensor.clone().requires_grad_() for tensor in inputs]
        wide = [tensor.double().requires_grad_() for tensor in inputs]
        loss = sk.linear_cross_entropy(own[0], own[1], target, own[2] if biased else None, **options)
        exact = formula(wide[0], wide[1], target, wide[2] if biased else None, **options)
        assert loss.dtype == dtype
        assert loss.shape == exact.shape
        tolerance = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[
            dtype
        ]
        torch.testing.assert_close(loss.double(), exact, rtol=tolerance, atol=tolerance, equal_nan=True)
        if size[0] == 0:
            continue
        direction = torch.rand_like(exact).to(dtype)
        found = torch.autograd.grad(loss, own, direction)
        expected = torch.autograd.grad(exact, wide, direction.double())
        for tensor, gradient, want in zip(own, found, expected, strict=True):
            assert (gradient.dtype, gradient.shape) == (tensor.dtype, tensor.shape)
            assert gradient.is_contiguous()
            error = (gradient.double() - want).norm()
            assert error <= tolerance * (want.norm() + 1e-2), (error, want.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_error_rule(dtype: torch.dtype, smoothing: float) -> None:
    hidden, weight, bias, target = problem(300, 100, 700)

    def of(space: object) -> object:
        return lambda h, w, b: space.linear_cross_entropy(h, w, target, b, label_smoothing=smoothing)

    op_contract.check_error(of(sk), of(sk.reference), (hidden, weight, bias), dtype)


def test_ignored_tokens_may_hold_anything() -> None:
    hidden, weight, bias, target = problem(63, 20, 300)
    clean = [tensor.requires_grad_() for tensor in (hidden.clone(), weight, bias)]
    expected = torch.autograd.grad(sk.linear_cross_entropy(clean[0], weight, target, bias), clean)
    hidden[target == -100] = torch.nan
    dirty = [hidden.requires_grad_(), weight, bias]
    for space in (sk, sk.reference):
        tested = torch.autograd.grad(space.linear_cross_entropy(hidden, weight, target, bias), dirty)
        torch.testing.assert_close(tested, expected)
    assert bool((tested[0][target == -100] == 0).all())
    nothing = torch.full((63,), -100)
    assert bool(sk.linear_cross_entropy(hidden, weight, nothing).isnan())
    loss = sk.linear_cross_entropy(hidden, weight, nothing, bias, reduction="sum")
    assert [bool((g == 0).all()) for g in torch.autograd.grad(loss, dirty)] == [True] * 3


def test_shapes_and_strides() -> None:
    hidden, weight, _, _ = problem(24, 10, 70)
    target = torch.randint(70, (24,))
    expected = formula(hidden, weight, target, None, reduction="none")
    for shape in ((24,), (4, 6), (2, 3, 4)):
        tested = sk.linear_cross_entropy(
            hidden.reshape(*shape, 10), weight, target.reshape(shape), reduction="none"
        )
        torch.testing.assert_close(tested, expected.reshape(shape))
    one = sk.linear_cross_entropy(hidden[0], weight, target[0])
    torch.testing.assert_close(one, expected[0])
    views = (
        (hidden.t().contiguous().t(), weight.t().contiguous().t()),
        (torch.cat([hidden, hidden], 1)[:, :10], torch.cat([weight, weight], 1)[:, 10:]),
        (torch.stack([hidden, hidden], 2)[..., 0], torch.stack([weight, weight])[1]),
        (hidden[:1].expand(24, 10), weight[:1].expand(70, 10)),
    )
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for given in views:
            found = []
            for function, wide in ((sk.linear_cross_entropy, dtype), (formula, torch.float64)):
                own = [tensor.to(dtype).to(wide).requires_grad_() for tensor in given]
                loss = function(own[0], own[1], target, None)
                found.append([t.double() for t in (loss, *torch.autograd.grad(loss, own))])
            tolerance = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
            torch.testing.assert_close(*found, rtol=tolerance, atol=tolerance)


def test_float32_bias_beside_bfloat16() -> None:
    hidden, weight, bias, target = problem(30, 10, 70)
    bias = bias.float().requires_grad_()
    loss = sk.linear_cross_entropy(hidden.bfloat16(), weight.bfloat16(), target, bias)
    assert loss.dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(loss, bias)
    assert gradient.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    """hidden and weight are cast; the loss is float32, gradients have the dtypes of their tensors."""
    hidden, weight, bias, target = (t.float() if t.is_floating_point() else t for t in problem(30, 10, 70))
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight, bias)]
    found = []
    for function in (sk.linear_cross_entropy, sk.reference.linear_cross_entropy, formula):
        with torch.autocast("cpu", dtype):
            loss = function(hidden, weight, target, bias)
        assert loss.dtype == torch.float32
        gradients = torch.autograd.grad(loss, leaves)
        assert {gradient.dtype for gradient in gradients} == {torch.float32}
        found.append([loss.detach(), *gradients])
    for expected in found[1:]:
        torch.testing.assert_close(found[0], expected, rtol=2e-2, atol=1e-3)


@native
def test_repeatable_on_any_number_of_threads() -> None:
    """Bitwise for one number; to rounding for all: more threads than blocks included."""
    hidden, weight, bias, target = problem(500, 33, 700)
    leaves = [tensor.float().requires_grad_() for tensor in (hidden, weight, bias)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 5, 16):
            torch.set_num_threads(threads)
            twice = []
            for _ in range(2):
                loss = sk.linear_cross_entropy(leaves[0], leaves[1], target, leaves[2])
                twice.append([loss, *torch.autograd.grad(loss, leaves)])
            torch.testing.assert_close(*twice, rtol=0, atol=0)
            found.append(twice[0])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


_MEASURE = """
import json, sys
import torch, torch.nn.functional as F
import seo_kernels as sk
from seo_kernels.benchmark.memory import CLEAR_REFS, LOWER_HIGH_WATER_MARK, _status
torch.set_num_threads(2)
name, dtype = sys.argv[1], getattr(torch, sys.argv[2])
def step(tokens, classes):
    hidden, weight = torch.randn(tokens, 64).to(dtype), torch.randn(classes, 64).to(dtype)
    target = torch.randint(classes, (tokens,))
    hidden.requires_grad_(), weight.requires_grad_()
    before = _status("VmRSS")
    CLEAR_REFS.write_text(LOWER_HIGH_WATER_MARK)
    if name == "fused":
        loss = sk.linear_cross_entropy(hidden, weight, target)
    else:
        loss = F.cross_entropy(F.linear(hidden, weight), target)
    loss.backward()
    return _status("VmHWM") - before - hidden.nbytes - weight.nbytes
step(256, 300)
print(json.dumps(step(2048, 16384)))
"""


@native
@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="there is no /proc to read memory from")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_beyond_inputs_and_gradients(dtype: str) -> None:
    """At most a quarter of what the two steps take; in truth far less than the logits."""
    extra = {}
    for name in ("fused", "steps"):
        run = subprocess.run([sys.executable, "-c", _MEASURE, name, dtype], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        extra[name] = json.loads(run.stdout)
    logits = 2048 * 16384 * (4 if dtype == "float32" else 2)
    assert extra["steps"] > logits
    assert extra["fused"] < min(extra["steps"], logits) / 4, extra
