"""What serves a call of sk.attention: the kernel, in a Function where that is needed, or the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ops.everything import call, everything, integers
from torch.autograd import forward_ad

import seo_kernels as sk
from seo_kernels import _library
from seo_kernels.ops import attention as module

native = pytest.mark.skipif(not _library.available("cpu"), reason=_library.reason("cpu"))


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what served the calls, in order."""
    names: list[str] = []

    def observed(name: str, function: Callable) -> Callable:
        def run(*values: object) -> object:
            names.append(name)
            return function(*values)

        return run

    class Observed(module.AttentionFunction):
        apply = staticmethod(observed("Function", module.AttentionFunction.apply))

    monkeypatch.setattr(module, "AttentionFunction", Observed)
    for name in ("forward_op", "attention_op"):
        monkeypatch.setattr(module, name, observed(name, getattr(module, name)))
    return names


@native
def test_a_function_only_where_it_is_needed(served: list[str]) -> None:
    tensors = {name: tensor.detach() for name, tensor in everything().items()}
    call(tensors)
    with torch.no_grad():
        call(tensors | {"sinks": tensors["sinks"].clone().requires_grad_()})
    with torch.inference_mode():
        call(tensors)
    assert served == ["forward_op"] * 3
    served.clear()
    for name in tensors:
        call(tensors | {name: tensors[name].clone().requires_grad_()})
    with forward_ad.dual_level():
        call(tensors)
    torch.func.vmap(lambda query: call(tensors | {"query": query}))(tensors["query"][None])
    assert served == ["Function"] * (len(tensors) + 2)


def test_reference_serves_what_has_no_kernel(monkeypatch: pytest.MonkeyPatch, served: list[str]) -> None:
    """After one warning, with every derivative, eager and compiled."""
    monkeypatch.setattr(_library, "available", lambda device: False)
    monkeypatch.setattr(_library, "reason", lambda device="cpu": "it was not built")
    monkeypatch.setattr(_library, "_warned", False)
    tensors = everything()
    with pytest.warns(RuntimeWarning, match="it was not built") as warned:
        tested = [call(tensors), call(tensors)]
    assert len(warned) == 1
    expected = call(tensors, sk.reference.attention)
    torch.testing.assert_close(tested, [expected, expected], rtol=0, atol=0)
    assert served == ["attention_op"] * 2
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(call, backend="aot_eager", fullgraph=True)(tensors), expected)


def test_results_do_not_depend_on_what_is_asked_for() -> None:
    """The same numbers with and without gradients, with and without lse."""
    tensors = everything(2, query_length=70, key_length=90, dtype=torch.float32)
    tensors |= integers(tensors)
    out, lse = call(tensors)
    with torch.no_grad():
        torch.testing.assert_close(call(tensors), (out, lse), rtol=0, atol=0)
    operands = [tensors[name] for name in ("query", "key", "value")]
    both = sk.attention(*operands, pattern=sk.Causal(), return_lse=True)
    torch.testing.assert_close(sk.attention(*operands, pattern=sk.Causal()), both[0], rtol=0, atol=0)


@pytest.mark.parametrize("lengths", [[5, 1], [-1, 2]])
def test_values_in_tensors_are_checked(lengths: list[int]) -> None:
    """A ValueError in every mode but the compiled reference, which may not look at values."""
    tensors = everything(2) | {"key_lengths": torch.tensor(lengths)}
    for run in (lambda: call(tensors), torch.no_grad()(lambda: call(tensors))):
        with pytest.raises(ValueError, match="key_lengths"):
            run()
    if _library.available("cpu"):
        torch.compiler.reset()
        with pytest.raises(ValueError, match="key_lengths"):
            torch.compile(call, backend="aot_eager", fullgraph=True)(tensors)
