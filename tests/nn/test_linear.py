"""sk.nn.Linear in the place of torch.nn.Linear: by itself, in torch's parents, compiled and scripted."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import seo_kernels as sk
from seo_kernels import _library

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu, "tanh": torch.tanh}


def twins(bias: bool = True, activation: str | None = None) -> tuple[nn.Linear, sk.nn.Linear]:
    """A torch layer, and ours with its state_dict."""
    theirs = nn.Linear(6, 5, bias, dtype=torch.float64)
    ours = sk.nn.Linear(6, 5, bias, dtype=torch.float64, activation=activation)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def results(function: object, layer: nn.Module, input: Tensor) -> tuple[Tensor, ...]:
    input = input.clone().requires_grad_()
    out = function(layer(input))
    return out, *torch.autograd.grad(out.sin().sum(), (input, *layer.parameters()))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_as_torch(activation: str | None, bias: bool) -> None:
    theirs, ours = twins(bias, activation)
    assert isinstance(ours, nn.Linear)
    for shape in ((6,), (3, 6), (2, 3, 6), (0, 6)):
        input = torch.randn(shape, dtype=torch.float64)
        after = (lambda x: x) if activation is None else ACTIVATIONS[activation]
        torch.testing.assert_close(results(lambda x: x, ours, input), results(after, theirs, input))
        with torch.no_grad():
            torch.testing.assert_close(ours(input), after(theirs(input)))


def test_same_outside() -> None:
    """Constructor, initial values, repr, state_dict; the activation shows where there is one."""
    torch.manual_seed(1)
    theirs = nn.Linear(4, 3, False, "cpu", torch.bfloat16)
    torch.manual_seed(1)
    ours = sk.nn.Linear(4, 3, False, "cpu", torch.bfloat16)
    assert repr(ours) == repr(theirs) == "Linear(in_features=4, out_features=3, bias=False)"
    assert torch.equal(ours.weight, theirs.weight)
    assert list(ours.state_dict()) == list(theirs.state_dict()) == ["weight"]
    assert list(ours.children()) == []
    shown = repr(sk.nn.Linear(4, 3, activation="swish"))
    assert shown == "Linear(in_features=4, out_features=3, bias=True, activation='silu')"
    assert sk.nn.Linear(4, 3, device="meta").weight.is_meta


def test_copies() -> None:
    _, ours = twins(activation="gelu")
    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    input = torch.randn(2, 6, dtype=torch.float64)
    for other in (copy.deepcopy(ours), torch.load(file, weights_only=False)):
        assert torch.equal(other(input), ours(input))
        assert len(other._forward_pre_hooks) == 1


def test_wrong_activation() -> None:
    message = r"activation is a str \('geglu'\), expected one of gelu, gelu_tanh"
    with pytest.raises(ValueError, match=message):
        sk.nn.Linear(4, 3, activation="geglu")
    with pytest.raises(TypeError, match="expected one of gelu"):
        sk.nn.Linear(4, 3, activation=F.gelu)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    theirs, ours = (layer.float() for layer in twins(activation="gelu"))
    input = torch.randn(2, 6)
    with torch.autocast("cpu", dtype):
        tested, expected = results(lambda x: x, ours, input), results(F.gelu, theirs, input)
    assert tested[0].dtype == dtype
    assert {gradient.dtype for gradient in tested[1:]} == {torch.float32}
    torch.testing.assert_close(tested, expected, rtol=2e-2, atol=2e-2)


@native
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_compiled(activation: str | None) -> None:
    torch.compiler.reset()
    _, ours = twins(activation=activation)
    whole = torch.compile(ours, backend="aot_eager", fullgraph=True)
    input = torch.randn(2, 6, dtype=torch.float64)
    tested, expected = results(lambda x: x, whole, input), results(lambda x: x, ours, input)
    torch.testing.assert_close(tested, expected)
    exported = torch.export.export(ours, (input,))
    torch.testing.assert_close(exported.module()(input), ours(input))
    (node,) = (n for n in exported.graph.nodes if n.target is torch.ops.seo_kernels.linear_forward.default)
    assert node.args[4:] in ((), (False,))  # an exported program keeps nothing for a backward


@native
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", [None, "gelu", "swish"])
def test_scripted(activation: str | None, bias: bool) -> None:
    _, ours = twins(bias, activation)
    scripted = torch.jit.script(ours)
    input = torch.randn(2, 3, 6, dtype=torch.float64)
    for _ in range(3):  # the profiling executor optimises from the second call on
        torch.testing.assert_close(results(lambda x: x, scripted, input), results(lambda x: x, ours, input))
    with torch.no_grad():
        torch.testing.assert_close(scripted(input), ours(input))
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(input), ours(input))


@native
@pytest.mark.parametrize("activation", [None, "gelu"])
def test_scripted_under_autocast(activation: str | None) -> None:
    ours = twins(activation=activation)[1].float()
    scripted, input = torch.jit.script(ours), torch.randn(2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            tested = scripted(input)
            assert tested.dtype == torch.bfloat16
            torch.testing.assert_close(tested, ours(input))


def encoder_layer(**options: object) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, dtype=torch.float64, **options)


def put_in_place(parent: nn.Module) -> nn.Module:
    """A copy with our layer wherever torch's was."""
    parent = copy.deepcopy(parent)
    for module in list(parent.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                ours = sk.nn.Linear(child.in_features, child.out_features, dtype=child.weight.dtype)
                ours.load_state_dict(child.state_dict())
                setattr(module, name, ours)
    return parent.train(parent.training)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("mode", ["eval no_grad", "eval", "train"])
def test_in_torchs_encoder(mode: str, padded: bool) -> None:
    theirs = nn.TransformerEncoder(encoder_layer(), 2).train(mode == "train")
    source = torch.randn(3, 7, 8, dtype=torch.float64)
    padding = torch.arange(7) >= torch.tensor([[7], [4], [1]]) if padded else None
    ours = put_in_place(theirs)
    with torch.set_grad_enabled(mode != "eval no_grad"):
        tested, expected = (encoder(source, src_key_padding_mask=padding) for encoder in (ours, theirs))
    if padding is not None:
        tested, expected = tested[~padding], expected[~padding]
    torch.testing.assert_close(tested, expected)


def test_activation_counts_inside_torchs_encoder_layer() -> None:
    """In eval without gradients torch's layer would read the weight and leave the activation out."""
    parent = encoder_layer(activation="relu").eval()
    ours = put_in_place(parent)
    ours.linear2 = sk.nn.Linear(16, 8, dtype=torch.float64, activation="tanh")
    ours.linear2.load_state_dict(parent.linear2.state_dict())
    source = torch.randn(3, 7, 8, dtype=torch.float64)
    ours.eval()
    with torch.no_grad():
        fast = ours(source)
    torch.testing.assert_close(fast, ours(source))
    with torch.no_grad():
        assert not torch.allclose(fast, parent(source))


@native
@pytest.mark.parametrize("grad", [False, True])
def test_in_a_scripted_parent(grad: bool) -> None:
    parent = put_in_place(encoder_layer().eval())
    source = torch.randn(3, 7, 8, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(parent)
    with torch.set_grad_enabled(grad):
        for _ in range(2):
            torch.testing.assert_close(scripted(source), parent(source))


def test_transforms_of_the_layer() -> None:
    """Gradients of samples, as opacus and functorch's users take them."""
    theirs, ours = twins(activation="gelu")
    input = torch.randn(4, 6, dtype=torch.float64)

    def gradients(layer: nn.Module, after: object) -> dict[str, Tensor]:
        def number(parameters: dict[str, Tensor], sample: Tensor) -> Tensor:
            return after(torch.func.functional_call(layer, parameters, (sample,))).square().sum()

        return torch.func.vmap(torch.func.grad(number), in_dims=(None, 0))(
            dict(layer.named_parameters()), input
        )

    torch.testing.assert_close(gradients(ours, lambda x: x), gradients(theirs, F.gelu))
