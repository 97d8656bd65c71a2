"""The features of ``sk.linear`` and ``sk.lora_linear`` that the gradient verification runs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from seo_kernels.diagnostics.checked_op import CheckedOp, Feature, Problem, Size
from seo_kernels.ops.checks import ACTIVATIONS

DROPOUT_SEED = 7
_KINK = 0.05  # finite differences stay on one side of it


def ops() -> tuple[CheckedOp, ...]:
    """Both ops against their references."""
    import seo_kernels as sk

    linear = [Feature(name or "no activation", _linear_maker(name)) for name in (None, *ACTIVATIONS)]
    linear += [
        Feature("no bias, gelu", _linear_maker("gelu", bias=False)),
        Feature("transposed weight, strided input", _linear_maker(None, transposed=True)),
        Feature("float32 bias", _linear_maker("gelu"), wide=("bias",)),
    ]
    lora = [
        Feature("bias", _lora_maker()),
        Feature("no bias", _lora_maker(bias=False)),
        Feature("dropout", _lora_maker(dropout_p=0.3)),
        Feature("transposed weight, strided input", _lora_maker(transposed=True)),
        Feature("float32 bias and adapter", _lora_maker(dropout_p=0.1), wide=("bias", "lora_a", "lora_b")),
    ]
    return (
        CheckedOp("linear", sk.linear, sk.reference.linear, tuple(linear)),
        CheckedOp("lora_linear", sk.lora_linear, sk.reference.lora_linear, tuple(lora)),
    )


def _inputs(size: Size) -> dict[str, Tensor]:
    """Input, weight, bias, lora_a, lora_b; products are about as large as their factors."""
    rows, in_features, out_features, rank = ((2, 2), 4, 3, 2) if size == "tiny" else ((3, 43), 131, 100, 12)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, terms: int = 1) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64) / terms**0.5

    weight, bias = draw(out_features, in_features, terms=in_features), draw(out_features)
    adapter = {
        "lora_a": draw(rank, in_features, terms=in_features),
        "lora_b": draw(out_features, rank, terms=rank),
    }
    input = draw(*rows, in_features)
    while size == "tiny" and bool((F.linear(input, weight, bias).abs() < _KINK).any()):
        input = draw(*rows, in_features)
    return {"input": input, "weight": weight, "bias": bias, **adapter}


def _strided(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views of transposed copies: leading dimensions swapped, the weight stored as GPT-2's Conv1D has it."""
    return {**values, "input": values["input"].transpose(0, 1), "weight": values["weight"].mT}


def _stored(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``_strided`` turns back into these inputs."""
    return {name: tensor.contiguous() for name, tensor in _strided(inputs).items()}


def _linear_maker(
    activation: str | None, *, bias: bool = True, transposed: bool = False
) -> Callable[[Size, str], Problem]:
    names = ("input", "weight", *(["bias"] if bias else []))

    def call(function: Callable[..., Any], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        given = _strided(values) if transposed else values
        return (function(given["input"], given["weight"], given.get("bias"), activation),)

    def problem(size: Size, device: str) -> Problem:
        inputs = {name: value for name, value in _inputs(size).items() if name in names}
        return Problem(_stored(inputs) if transposed else inputs, call)

    return problem


def _lora_maker(
    *, bias: bool = True, dropout_p: float = 0.0, transposed: bool = False
) -> Callable[[Size, str], Problem]:
    def problem(size: Size, device: str) -> Problem:
        def call(function: Callable[..., Any], values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            given = {"bias": None, **(_strided(values) if transposed else values)}
            devices = [torch.cuda.current_device()] if device == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(DROPOUT_SEED)
                return (function(**given, scaling=1.5, dropout_p=dropout_p),)

        inputs = {name: value for name, value in _inputs(size).items() if bias or name != "bias"}
        return Problem(_stored(inputs) if transposed else inputs, call)

    return problem
