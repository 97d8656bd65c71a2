"""sk.nn's activations in the place of torch's, and the gated ones."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import seo_kernels as sk
from seo_kernels import _library

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))
PAIRS: list[tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = [
    (sk.nn.GELU, nn.GELU),
    (lambda: sk.nn.GELU(approximate="tanh"), lambda: nn.GELU(approximate="tanh")),
    (sk.nn.SiLU, nn.SiLU),
    (sk.nn.ReLU, nn.ReLU),
    (sk.nn.LeakyReLU, nn.LeakyReLU),
    (lambda: sk.nn.LeakyReLU(0.3), lambda: nn.LeakyReLU(0.3)),
    (sk.nn.Mish, nn.Mish),
    (sk.nn.Tanh, nn.Tanh),
    (sk.nn.Sigmoid, nn.Sigmoid),
]
LAYERS = [ours for ours, _ in PAIRS] + [sk.nn.ReLUSquared, sk.nn.SwiGLU, sk.nn.GEGLU, sk.nn.ReGLU]


def with_gradient(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, ...]:
    own = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    out = function(*own)
    return out.detach(), *torch.autograd.grad(out.sin().sum(), own)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_in_the_place_of_torchs(ours: Callable[[], nn.Module], theirs: Callable[[], nn.Module]) -> None:
    layer, twin = ours(), theirs()
    assert isinstance(layer, type(twin))
    assert repr(layer) == repr(twin)
    assert list(layer.state_dict()) == list(twin.state_dict())
    theirs_take = list(inspect.signature(type(twin)).parameters)
    # what nn.Module's own constructor is declared with stands for none
    assert list(inspect.signature(type(layer)).parameters) == [
        name for name in theirs_take if name not in ("args", "kwargs")
    ]
    x = 3 * torch.randn(5, 7, 33)
    torch.testing.assert_close(with_gradient(layer, x), with_gradient(twin, x))
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(again(x), layer(x), rtol=0, atol=0)


def test_gated() -> None:
    x = torch.randn(5, 7, 32)
    gate, up = x.chunk(2, -1)
    for layer, act in (
        (sk.nn.SwiGLU(), F.silu),
        (sk.nn.GEGLU(), F.gelu),
        (sk.nn.GEGLU(approximate="tanh"), lambda t: F.gelu(t, approximate="tanh")),
        (sk.nn.ReGLU(), F.relu),
    ):
        torch.testing.assert_close(layer(x), act(gate) * up)
        torch.testing.assert_close(layer(gate, up), act(gate) * up)
        torch.testing.assert_close(
            with_gradient(layer, x),
            with_gradient(lambda t, act=act: act(t[..., :16]) * t[..., 16:], x),
        )
        assert not list(layer.parameters())
    torch.testing.assert_close(sk.nn.ReLUSquared()(x), F.relu(x).square())
    assert repr(sk.nn.GEGLU("tanh")) == "GEGLU(approximate='tanh')"


@pytest.mark.parametrize("make", [sk.nn.SiLU, sk.nn.ReLU, sk.nn.LeakyReLU, sk.nn.Mish])
def test_inplace_is_refused(make: Callable[..., nn.Module]) -> None:
    assert make(inplace=False)(torch.randn(3)).shape == (3,)
    with pytest.raises(ValueError, match="inplace is True, expected False"):
        make(inplace=True)


def test_wrong_arguments() -> None:
    for make in (sk.nn.GELU, sk.nn.GEGLU):
        with pytest.raises(ValueError, match="approximate is 'erf', expected 'none' or 'tanh'"):
            make("erf")
    with pytest.raises(TypeError, match="negative_slope is a str"):
        sk.nn.LeakyReLU("a")
    with pytest.raises(ValueError, match=r"expected \(..., 2n\)"):
        sk.nn.SwiGLU()(torch.randn(3, 5))


@native
@pytest.mark.parametrize("make", LAYERS)
def test_script(make: Callable[[], nn.Module]) -> None:
    layer, x = make(), torch.randn(4, 6)
    scripted = torch.jit.script(layer)
    assert "bias_act_forward" in str(scripted.inlined_graph) or "gated_act_forward" in str(
        scripted.inlined_graph
    )
    torch.testing.assert_close(with_gradient(scripted, x), with_gradient(layer, x), rtol=0, atol=0)
    if isinstance(layer, (sk.nn.SwiGLU, sk.nn.GEGLU, sk.nn.ReGLU)):
        torch.testing.assert_close(scripted(x, 2 * x), layer(x, 2 * x), rtol=0, atol=0)


@pytest.mark.parametrize("make", LAYERS)
def test_compiled(make: Callable[[], nn.Module]) -> None:
    torch.compiler.reset()
    layer, x = make(), torch.randn(4, 6)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(with_gradient(compiled, x), with_gradient(layer, x))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("make", "function"),
    [
        (sk.nn.GELU, F.gelu),
        (sk.nn.ReLU, F.relu),
        (lambda: sk.nn.GELU("tanh"), lambda t: F.gelu(t, approximate="tanh")),
        (sk.nn.SiLU, F.silu),
    ],
)
def test_within_torchs_transformer(
    make: Callable[[], nn.Module],
    function: Callable[[Tensor], Tensor],
    training: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The parent calls the layer, in eval without gradients too."""
    calls = []

    def counted(*args: Any, **options: Any) -> Tensor:
        calls.append(args)
        return sk.bias_act(*args, **options)

    monkeypatch.setattr("seo_kernels.nn.activation.bias_act", counted)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=make(), batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).train(training)
    plain = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=function, batch_first=True)
    plain.load_state_dict(layer.state_dict())
    x, padding = torch.randn(2, 5, 8), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    with torch.no_grad():
        found = encoder(x, src_key_padding_mask=padding)
        expected = plain(x, src_key_padding_mask=padding)
    torch.testing.assert_close(found[~padding], expected[~padding])
    assert calls


def test_nested() -> None:
    parts = [torch.randn(length, 6, requires_grad=True) for length in (2, 5)]
    for layout in (torch.strided, torch.jagged):
        nested = torch.nested.as_nested_tensor(parts, layout=layout)
        for part, out in zip(parts, sk.nn.SiLU()(nested).unbind(), strict=True):
            torch.testing.assert_close(out, F.silu(part))
