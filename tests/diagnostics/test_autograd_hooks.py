"""Hooks on chosen modules tell what they gave and what came back, and go when they should."""

import pytest
import torch
from diagnostics.watching_models import Net, batch
from torch import Tensor, nn

from seo_kernels.diagnostics.autograd_hooks import AutogradHooks
from seo_kernels.diagnostics.gradient_statistics import tensor_statistics


def test_statistics_are_those_of_output_and_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    x = torch.randn(16, 4)
    with AutogradHooks(model, ["0", "1"]) as hooks:
        model(x).square().sum().backward()
    first = model[0](x)
    second = torch.relu(first)
    gradients = torch.autograd.grad(model[2](second).square().sum(), [first, second])
    truth = tensor_statistics([first, second, *gradients])
    found = [*hooks.activations().values(), *hooks.gradients().values()]
    assert list(hooks.activations()) == ["0", "1"]
    assert set(hooks.gradients()) == {"0", "1"}
    by_name = [truth[0], truth[1], *(truth[2 + int(name)] for name in hooks.gradients())]
    for one, right in zip(found, by_name, strict=True):
        assert one.as_dict() == pytest.approx(right.as_dict(), rel=1e-5)
    assert 0.2 < hooks.activations()["1"].zeros < 0.8
    assert hooks.gradients()["0"].zeros == hooks.activations()["1"].zeros


def test_all_without_children_are_watched_by_default() -> None:
    model = Net()
    with AutogradHooks(model) as hooks:
        model(batch()).sum().backward()
    leaves = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert set(hooks.activations()) == set(hooks.gradients()) == leaves


def test_the_hooks_are_gone_afterwards() -> None:
    model = Net()
    with pytest.raises(ZeroDivisionError), AutogradHooks(model) as hooks:
        raise ZeroDivisionError
    assert not any(module._forward_hooks for module in model.modules())
    model(batch()).sum().backward()
    assert hooks.activations() == {}


def test_history_is_bounded() -> None:
    model = Net()
    with AutogradHooks(model, ["head", ""], history=3) as hooks:
        for factor in range(1, 6):
            model(factor * batch()).sum().backward()
    assert len(hooks.activation_history("head")) == 3
    assert [entry.mean for entry in hooks.gradient_history("")] == [1.0, 1.0, 1.0]
    assert hooks.activation_history("head")[-1] == hooks.activations()["head"]
    with pytest.raises(KeyError, match=r"nothing was seen of 'blocks\.0', only of head"):
        hooks.activation_history("blocks.0")


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_counts_once(reentrant: bool) -> None:
    model, plain = Net(reentrant), Net()
    plain.load_state_dict(model.state_dict())
    x = batch().requires_grad_()
    found = []
    for net in (model, plain):
        with AutogradHooks(net) as hooks:
            net(x).square().sum().backward()
        assert len(hooks.activation_history("blocks.1.up")) == 1
        assert len(hooks.gradient_history("blocks.1.up")) == 1
        found.append(hooks.gradients()["blocks.1.up"].as_dict())
    assert found[0] == pytest.approx(found[1])


def test_outputs_with_several_tensors() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, object]:
            return {"double": 2 * x, "rest": (x + 1, torch.arange(3))}

    model = Two()
    with AutogradHooks(model, [""]) as hooks:
        model(torch.ones(2, requires_grad=True))["double"].sum().backward()
    assert set(hooks.activations()) == {"[double]", "[rest][0]"}
    assert set(hooks.gradients()) == {"[double]"}


def test_without_gradients_there_are_activations() -> None:
    model = Net()
    with AutogradHooks(model, ["head"]) as hooks, torch.no_grad():
        model(batch())
    assert list(hooks.activations()) == ["head"]
    assert hooks.gradients() == {}


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"modules has 'tail', expected names of the model's modules"):
        AutogradHooks(Net(), ["tail"])
    with pytest.raises(TypeError, match="modules is a str"):
        AutogradHooks(Net(), "head")
    with pytest.raises(ValueError, match="modules is empty"):
        AutogradHooks(Net(), [])
    with pytest.raises(TypeError, match="model is a function"):
        AutogradHooks(batch)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="model is compiled"):
        AutogradHooks(torch.compile(Net(), backend="eager"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="history is 0"):
        AutogradHooks(Net(), history=0)
