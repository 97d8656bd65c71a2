"""sk.nn.LoRALinear copied, saved, compiled, scripted, checkpointed, under autocast and torch.func."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from nn.lora_twins import IN, KINDS, OUT, VARIANTS, assert_same, base_layer, ours, outcome, peft_twin
from torch import nn
from torch.utils.checkpoint import checkpoint

import seo_kernels as sk

needs_kernels = pytest.mark.skipif(not sk.info()["native"], reason="TorchScript calls the compiled op")


def own(layer: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in layer.named_parameters() if "lora" in name}


def two_adapters(
    kind: str = "linear", dtype: torch.dtype = torch.float64, **options: Any
) -> sk.nn.LoRALinear:
    layer = ours(base_layer(kind, dtype), ("a", "b"), **options)
    layer.set_adapter(["b", "a"])
    return layer


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_copies(variant: dict[str, Any], copied: Any) -> None:
    layer = two_adapters(**variant)
    other = copied(layer)
    x = torch.randn(5, IN, dtype=torch.float64)
    assert_same(outcome(other, x, own(other)), outcome(layer, x, own(layer)))
    other.set_adapter("a")
    assert layer.active_adapters == ["b", "a"]
    assert not torch.equal(other(x), layer(x))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_state_dict(kind: str, variant: dict[str, Any]) -> None:
    layer, other = two_adapters(kind, **variant), two_adapters(kind, **variant)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer))
    x = torch.randn(5, IN, dtype=torch.float64)
    assert torch.equal(other(x), layer(x))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_compile(kind: str, variant: dict[str, Any], dropout: float) -> None:
    layer = two_adapters(kind, torch.float32, dropout=dropout, **variant)
    torch.compiler.reset()  # the layers share their code, which is recompiled a few times only
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, IN)
    for change in (lambda: None, lambda: layer.set_adapter("a"), layer.eval, layer.merge, layer.unmerge):
        change()
        torch.manual_seed(1)
        expected = outcome(layer, x, {} if layer.merged else own(layer))
        torch.manual_seed(1)
        assert_same(outcome(compiled, x, {} if layer.merged else own(layer)), expected, atol=1e-5, rtol=1e-4)
    with layer.disabled():
        torch.testing.assert_close(compiled(x), layer(x))


@needs_kernels
@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_script(kind: str, variant: dict[str, Any], dropout: float) -> None:
    layer = two_adapters(kind, torch.float32, dropout=dropout, **variant)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(layer), buffer)
    buffer.seek(0)
    scripted = torch.jit.load(buffer)
    x = torch.randn(5, IN)
    for mode in (True, False):
        layer.train(mode)
        scripted.train(mode)
        for _ in range(2):  # the profiling executor compiles anew for the second call
            torch.manual_seed(1)
            expected = outcome(layer, x, own(layer))
            torch.manual_seed(1)
            assert_same(outcome(scripted, x, own(scripted)), expected, atol=1e-5, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert scripted(x).dtype == torch.bfloat16
        torch.testing.assert_close(scripted(x), layer(x), atol=0.2, rtol=0.05)
    layer.merge()
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))
    with layer.disabled():
        torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_autocast(variant: dict[str, Any]) -> None:
    base = base_layer(dtype=torch.float32)
    layer = ours(base, **variant)
    twin = peft_twin(layer, base)
    x = torch.randn(50, IN)
    exact = outcome(layer, x, own(layer))
    with torch.autocast("cpu", torch.bfloat16):
        got, theirs = (outcome(module, x, own(module)) for module in (layer, twin))
    assert got["out"].dtype == theirs["out"].dtype == torch.bfloat16
    assert got["input"].dtype == torch.float32
    names = dict(zip(exact, theirs, strict=True))  # PEFT orders its parameters in the same way
    for name, value in exact.items():
        errors = [(one.float() - value).norm() / value.norm() for one in (got[name], theirs[names[name]])]
        assert errors[0] < 2 * errors[1] + 1e-6, name


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_checkpointing_draws_the_same_dropout_again(variant: dict[str, Any], reentrant: bool) -> None:
    layer = two_adapters(dropout=0.5, **variant)
    x = torch.randn(5, IN, dtype=torch.float64)
    torch.manual_seed(1)
    expected = outcome(layer, x, own(layer))
    torch.manual_seed(1)
    got = outcome(lambda leaf: checkpoint(layer, leaf, use_reentrant=False), x, own(layer))
    assert_same(got, expected)
    if reentrant:  # it knows no autograd.grad
        leaf = x.clone().requires_grad_()
        torch.manual_seed(1)
        out = checkpoint(layer, leaf, use_reentrant=True)
        out.backward(torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape))
        torch.testing.assert_close(leaf.grad, expected["input"])
        for name, parameter in own(layer).items():
            torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize("variant", VARIANTS[:2], ids=str)
def test_second_derivatives(variant: dict[str, Any]) -> None:
    layer = ours(base_layer(), **variant)
    x = torch.randn(3, IN, dtype=torch.float64, requires_grad=True)
    names, values = zip(*own(layer).items(), strict=True)

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    arguments = (x, *(value.detach().clone().requires_grad_() for value in values))
    assert torch.autograd.gradcheck(call, arguments, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, arguments)


def test_gradients_per_sample() -> None:
    layer = two_adapters()
    x = torch.randn(4, IN, dtype=torch.float64)

    def loss(parameters: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, parameters, (sample,)).square().sum()

    parameters = {name: parameter.detach() for name, parameter in own(layer).items()}
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
    for index, sample in enumerate(x):
        for name, gradient in torch.func.grad(loss)(parameters, sample).items():
            torch.testing.assert_close(found[name][index], gradient)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_nested_tensors(variant: dict[str, Any]) -> None:
    """What torch.nn.TransformerEncoder makes of padded sequences in eval."""
    layer = two_adapters(**variant).eval()
    pieces = [torch.randn(length, IN, dtype=torch.float64) for length in (4, 1, 3)]
    for _ in range(2):
        out = layer(torch.nested.nested_tensor(pieces))
        for piece, got in zip(pieces, out.unbind(), strict=True):
            torch.testing.assert_close(got, layer(piece))
        layer.merge()


def test_repr() -> None:
    layer = two_adapters("conv1d", use_dora=True)
    for text in (f"in_features={IN}, out_features={OUT}", "active=['b', 'a']", "rank=3", "use_dora=True"):
        assert text in repr(layer)
    layer.merge()
    assert "transposed=True, merged=True" in repr(layer)
