"""The promises of every op about derivatives, transforms and compilers, for the losses."""

from __future__ import annotations

import pytest
import torch
from ops import loss_cases, op_contract
from ops.loss_cases import CASES, HIDDEN, PROBABILITIES, SCORES, TARGET, WEIGHT, draw

import seo_kernels as sk
from seo_kernels import _library

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_derivatives(name: str) -> None:
    function, reference, inputs = loss_cases.of(name)
    op_contract.check_first_order(function, inputs)
    op_contract.check_second_order(function, inputs)
    op_contract.check_nestings(function, reference, inputs)
    op_contract.check_wanted_gradients(function, reference, inputs)
    op_contract.check_absent_gradients(function, inputs)
    op_contract.check_repeatable(function, inputs)
    op_contract.check_checkpoint(function, inputs)
    op_contract.check_batched_gradients(function, inputs)
    op_contract.check_poisoned(function, inputs)


def test_third_order() -> None:
    for name in ("cross_entropy", "focal", "linear"):
        function, reference, inputs = loss_cases.of(name)
        small = tuple(tensor[:, :2] if name == "linear" else tensor for tensor in inputs)
        op_contract.check_nestings(function, reference, small, orders=(3,))


@every_case
def test_vmap(name: str) -> None:
    function, _, inputs = loss_cases.of(name)
    op_contract.check_vmap(function, inputs)


def test_vmap_over_targets() -> None:
    targets = torch.stack([TARGET, TARGET.flip(0)], 1)
    for loss in (sk.cross_entropy, sk.focal_loss):
        tested = torch.func.vmap(loss, in_dims=(None, 1))(SCORES, targets)
        torch.testing.assert_close(tested, torch.stack([loss(SCORES, TARGET), loss(SCORES, TARGET.flip(0))]))


@native
@every_case
def test_compiled(name: str) -> None:
    function, _, inputs = loss_cases.of(name)
    op = f"{CASES[name].op}_forward"
    op_contract.check_compile(function, inputs, op=op)


@native
@pytest.mark.parametrize("name", ["cross_entropy", "soft", "focal", "huber", "linear"])
def test_compiled_with_transforms_and_exported(name: str) -> None:
    function, _, inputs = loss_cases.of(name)
    op = f"{CASES[name].op}_forward"
    op_contract.check_compile_with_transforms(function, inputs)
    op_contract.check_export(function, inputs, op=op)


@native
@every_case
def test_keeps_nothing_of_the_size_of_its_inputs(name: str) -> None:
    function, _, inputs = loss_cases.of(name)
    kept = op_contract.saved_tensors(function, inputs)
    assert all(tensor.numel() <= 2 * len(TARGET) or tensor is WEIGHT for tensor in kept if tensor.ndim > 0), [
        tuple(tensor.shape) for tensor in kept
    ]


@native
def test_opcheck_forward() -> None:
    ops = torch.ops.seo_kernels
    for dtype in (torch.float64, torch.bfloat16):
        scores, soft, hidden, rows, bias = (
            t.to(dtype, copy=True).requires_grad_() for t in (SCORES, PROBABILITIES, *HIDDEN)
        )
        weight = WEIGHT.to(dtype)
        check = torch.library.opcheck
        check(ops.cross_entropy_forward.default, (scores, TARGET, weight, -100, 0.1))
        check(ops.soft_cross_entropy_forward.default, (scores, soft, None, 0.1))
        check(ops.focal_loss_forward.default, (scores, TARGET, weight, 2.0, -100))
        check(ops.huber_loss_forward.default, (scores, soft, None, 1.0, True))
        check(ops.huber_loss_forward.default, (scores, soft, soft.detach(), 1.0, False))
        check(ops.linear_cross_entropy_forward.default, (hidden, rows, TARGET, bias, -100, 0.1))


@native
def test_opcheck_backward() -> None:
    ops, grads, lse = torch.ops.seo_kernels, draw(4), draw(4, 2)
    check = torch.library.opcheck
    check(ops.cross_entropy_backward.default, (grads, SCORES, TARGET, WEIGHT, -100, 0.1, lse, [True]))
    check(ops.cross_entropy_backward.default, (grads, SCORES, TARGET, None, -100, 0.1, lse, [False]))
    check(ops.focal_loss_backward.default, (grads, SCORES, TARGET, None, 2.0, -100, lse, [True]))
    arguments = (grads, SCORES, PROBABILITIES, None, 0.1, lse)
    check(ops.soft_cross_entropy_backward.default, (*arguments, [True, False]))
    check(ops.soft_cross_entropy_backward.default, (*arguments, [False, True]))
    for sums, gradient in ((True, draw(4, 1)), (False, draw(4, 5))):
        arguments = (gradient, SCORES, PROBABILITIES, PROBABILITIES, 1.0, sums)
        check(ops.huber_loss_backward.default, (*arguments, [True, False, True]))
    for wanted in ([True, True, True], [False, True, False], [True, False, False], [False, False, True]):
        arguments = (grads, HIDDEN[0], HIDDEN[1], TARGET, HIDDEN[2], -100, 0.1, lse)
        check(ops.linear_cross_entropy_backward.default, (*arguments, wanted))


@pytest.mark.parametrize("way", ["backward", "jvp", "func"])
def test_class_weights_get_derivatives_too(way: str) -> None:
    """The kernels give none: plain torch serves."""
    for loss in (
        lambda w: sk.cross_entropy(SCORES, TARGET, w, label_smoothing=0.1),
        lambda w: sk.cross_entropy(SCORES, PROBABILITIES, w),
        lambda w: sk.focal_loss(SCORES, TARGET, alpha=w),
    ):
        if way == "backward":
            assert torch.autograd.gradcheck(loss, WEIGHT.clone().requires_grad_())
        elif way == "jvp":
            weight = WEIGHT.clone().requires_grad_()
            assert torch.autograd.gradcheck(loss, weight, check_forward_ad=True)
        else:
            by_autograd = torch.autograd.functional.jacobian(loss, WEIGHT)
            torch.testing.assert_close(torch.func.grad(loss)(WEIGHT), by_autograd)


@native
def test_vmap_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from seo_kernels.ops import losses as module

    calls = []
    pair = module._cross_entropy
    run = pair._autodiff.function.forward
    monkeypatch.setattr(
        pair._autodiff.function, "forward", staticmethod(lambda *a: calls.append(a[0].shape) or run(*a))
    )
    torch.func.vmap(sk.cross_entropy)(torch.stack([SCORES] * 3), torch.stack([TARGET] * 3))
    assert calls == [(12, 5)]


@pytest.mark.slow
@native
def test_inductor() -> None:
    for name in CASES:
        function, _, inputs = loss_cases.of(name)
        compiled = torch.compile(function, fullgraph=True)
        torch.testing.assert_close(
            op_contract.results(compiled, inputs), op_contract.results(function, inputs)
        )
