"""The loss modules: in the place of torch's, and against their functions; scripted, saved, compiled."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import seo_kernels as sk

TARGET = torch.tensor([0, 3, -100, 4])
WEIGHT = torch.rand(5, generator=torch.Generator(torch.get_default_device()).manual_seed(1))


def results(module: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    own = [t.clone().requires_grad_() if t.is_floating_point() else t for t in inputs]
    loss = module(*own)
    return loss, *torch.autograd.grad(loss.sum(), [t for t in own if t.requires_grad])


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.2}, {"weight": WEIGHT, "ignore_index": 3}])
def test_cross_entropy_takes_the_place_of_torch(reduction: str, options: dict) -> None:
    ours, theirs = (space.CrossEntropyLoss(reduction=reduction, **options) for space in (sk.nn, nn))
    assert isinstance(ours, nn.CrossEntropyLoss)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    theirs.load_state_dict(ours.state_dict())
    target = TARGET.where(TARGET != -100, ours.ignore_index)
    for inputs in ((torch.randn(4, 5), target), (torch.randn(2, 5, 2), target.reshape(2, 2))):
        torch.testing.assert_close(results(ours, *inputs), results(theirs, *inputs))
    if ours.ignore_index < 0:
        inputs = (torch.randn(4, 5), torch.rand(4, 5))
        torch.testing.assert_close(results(ours, *inputs), results(theirs, *inputs))


def test_cross_entropy_positional_arguments() -> None:
    ours, theirs = (space.CrossEntropyLoss(WEIGHT, None, 3, None, "sum", 0.1) for space in (sk.nn, nn))
    inputs = (torch.randn(4, 5), TARGET.clamp(min=0))
    torch.testing.assert_close(ours(*inputs), theirs(*inputs))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_huber_takes_the_place_of_torch(reduction: str) -> None:
    ours, theirs = (space.HuberLoss(reduction, 0.5) for space in (sk.nn, nn))
    assert isinstance(ours, nn.HuberLoss)
    inputs = (torch.randn(4, 5), torch.randn(4, 5))
    torch.testing.assert_close(results(ours, *inputs), results(theirs, *inputs))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("alpha", [0.25, WEIGHT])
def test_focal(reduction: str, alpha: float | Tensor) -> None:
    module = sk.nn.FocalLoss(alpha, 1.5, reduction=reduction)
    assert ("alpha" in module.state_dict()) == isinstance(alpha, Tensor)
    inputs = (torch.randn(4, 5), TARGET)
    expected = results(lambda x, t: sk.focal_loss(x, t, alpha=alpha, gamma=1.5, reduction=reduction), *inputs)
    torch.testing.assert_close(results(module, *inputs), expected)
    assert "gamma=1.5" in repr(module)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("bias", [False, True])
def test_linear(reduction: str, bias: bool) -> None:
    module = sk.nn.LinearCrossEntropyLoss(3, 5, bias=bias, reduction=reduction, label_smoothing=0.1)
    twin = nn.CrossEntropyLoss(reduction=reduction, label_smoothing=0.1)
    hidden = torch.randn(4, 3, requires_grad=True)
    leaves = [hidden, *module.parameters()]
    found = []
    for loss in (module(hidden, TARGET), twin(module.linear(hidden), TARGET)):
        found.append([loss, *torch.autograd.grad(loss.sum(), leaves)])
    torch.testing.assert_close(*found)
    folded = module(hidden.reshape(2, 2, 3), TARGET.reshape(2, 2))
    assert folded.shape == ((2, 2) if reduction == "none" else ())


@pytest.mark.skipif(not hasattr(nn, "LinearCrossEntropyLoss"), reason="this torch has no such module")
def test_linear_has_the_state_of_torch() -> None:
    ours, theirs = (space.LinearCrossEntropyLoss(3, 5, bias=True, ignore_index=2) for space in (sk.nn, nn))
    theirs.load_state_dict(ours.state_dict())
    hidden, target = torch.randn(4, 3), TARGET.clamp(min=0)
    torch.testing.assert_close(ours(hidden, target), theirs(hidden, target))


def test_layer_inside_linear_may_be_another() -> None:
    """A shared one is fused; one that does more than multiply is called."""
    module, hidden = sk.nn.LinearCrossEntropyLoss(3, 5), torch.randn(4, 3)
    head = nn.Linear(3, 5)
    module.linear = head
    expected = nn.functional.cross_entropy(head(hidden), TARGET)
    torch.testing.assert_close(module(hidden, TARGET), expected)
    module(hidden, TARGET).backward()
    assert head.weight.grad is not None

    class Doubled(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    module.linear = Doubled(3, 5)
    doubled = nn.functional.cross_entropy(module.linear(hidden), TARGET)
    torch.testing.assert_close(module(hidden, TARGET), doubled)
    module.linear = head
    handle = head.register_forward_hook(lambda _module, _inputs, output: 3 * output)
    torch.testing.assert_close(module(hidden, TARGET), nn.functional.cross_entropy(head(hidden), TARGET))
    handle.remove()
    torch.testing.assert_close(module(hidden, TARGET), expected)
    torch.testing.assert_close(
        sk.nn.LinearCrossEntropyLoss.forward(module, hidden.reshape(2, 2, 3), TARGET.reshape(2, 2)), expected
    )


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, Tensor]]] = {
    "cross_entropy": (
        lambda: sk.nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1),
        (torch.ones(4, 5), TARGET),
    ),
    "huber": (lambda: sk.nn.HuberLoss(delta=0.3), (torch.ones(4, 5), torch.arange(20.0).reshape(4, 5))),
    "focal": (lambda: sk.nn.FocalLoss(0.5, 1.5, reduction="sum"), (torch.eye(4, 5), TARGET)),
    "focal by class": (lambda: sk.nn.FocalLoss(WEIGHT, 0.5), (torch.eye(4, 5), TARGET)),
    "linear": (lambda: sk.nn.LinearCrossEntropyLoss(5, 7, bias=True), (torch.eye(4, 5), TARGET)),
    "linear unreduced": (
        lambda: sk.nn.LinearCrossEntropyLoss(5, 7, reduction="none"),
        (torch.eye(4, 5), TARGET),
    ),
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_scripted_copied_compiled(name: str) -> None:
    make, inputs = MODULES[name]
    module = make()
    expected = results(module, *inputs)
    torch.testing.assert_close(results(torch.jit.script(module), *inputs), expected)
    torch.testing.assert_close(results(copy.deepcopy(module), *inputs), expected)
    torch.testing.assert_close(results(pickle.loads(pickle.dumps(module)), *inputs), expected)
    torch.compiler.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(results(compiled, *inputs), expected)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: sk.nn.CrossEntropyLoss(reduction="avg"), ValueError, "reduction is 'avg'"),
        (lambda: sk.nn.CrossEntropyLoss(label_smoothing=2.0), ValueError, "label_smoothing is 2.0"),
        (lambda: sk.nn.HuberLoss(delta=-1.0), ValueError, "delta is -1.0"),
        (lambda: sk.nn.HuberLoss("avg"), ValueError, "reduction is 'avg'"),
        (lambda: sk.nn.FocalLoss(gamma=-1.0), ValueError, "gamma is -1.0"),
        (lambda: sk.nn.FocalLoss("half"), TypeError, "alpha is a str"),
        (lambda: sk.nn.FocalLoss(ignore_index=0.5), TypeError, "ignore_index is a float"),
        (lambda: sk.nn.LinearCrossEntropyLoss(3, 5, reduction="avg"), ValueError, "reduction is 'avg'"),
        (lambda: sk.nn.LinearCrossEntropyLoss(3, 5, label_smoothing=-1), ValueError, "label_smoothing is -1"),
    ],
)
def test_wrong_options(make: Callable[[], nn.Module], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
