"""Two ops made in Python, for tests of what makes a pair of Functions from an op and its gradient.

``toy_mix``: out = tanh(input weight^T + bias) * factor, with a seed that flips signs by rows: optional
inputs, a setting, a saved output by rows. ``toy_pair``: two outputs, of which one may get no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seo_kernels.ops.function_pair import FunctionPair

CALLS: list[str] = []  # what the ops were called with, for tests that count
_library = torch.library.Library("seo_kernels", "FRAGMENT")


def _define(name: str, schema: str, function: object) -> None:
    _library.define(f"{name}{schema}")
    _library.impl(name, function, "CPU")


def _signs(rows: int, seed: Tensor | None, like: Tensor) -> Tensor:
    """+1 or -1 for every row (rows, 1): functions of seed and row alone."""
    index = torch.arange(rows, device=like.device)
    if seed is None:
        return torch.ones_like(index)[:, None].to(like.dtype)
    return (1 - 2 * ((index * 7 + seed) % 2))[:, None].to(like.dtype)


def _mixed(input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None) -> Tensor:
    """tanh of the product, (rows, out)."""
    flat = input.reshape(-1, input.shape[-1])
    product = flat @ weight.mT
    return torch.tanh(product if bias is None else product + bias) * _signs(len(flat), seed, product)


def _mix_forward(
    input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, factor: float
) -> tuple[Tensor, Tensor]:
    CALLS.append(f"forward {tuple(input.shape)}")
    state = _mixed(input, weight, bias, seed)
    return (state * factor).reshape(*input.shape[:-1], weight.shape[0]), state


def _mix_backward(
    grad_out: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor,
    seed: Tensor | None,
    factor: float,
    wanted: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    CALLS.append(f"backward {wanted}")
    flat = input.reshape(-1, input.shape[-1])
    by_product = grad_out.reshape(state.shape) * factor * (1 - state * state)
    by_product = by_product * _signs(len(flat), seed, by_product)
    gradients = (
        lambda: (by_product @ weight).reshape(input.shape),
        lambda: by_product.mT @ flat,
        lambda: by_product.sum(0),
    )
    results = [
        gradient() if want else input.new_empty(0) for gradient, want in zip(gradients, wanted, strict=True)
    ]
    return tuple(results)


def mix_plain(
    input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, factor: float
) -> Tensor:
    return (_mixed(input, weight, bias, seed) * factor).reshape(*input.shape[:-1], weight.shape[0])


def _fake_mix(
    input: Tensor, weight: Tensor, bias: Tensor | None, seed: Tensor | None, factor: float
) -> tuple[Tensor, Tensor]:
    rows = input.numel() // input.shape[-1]
    out = input.new_empty(*input.shape[:-1], weight.shape[0])
    return out, input.new_empty(rows, weight.shape[0])


_define(
    "toy_mix_forward",
    "(Tensor input, Tensor weight, Tensor? bias, Tensor? seed, float factor) -> (Tensor, Tensor)",
    _mix_forward,
)
_define(
    "toy_mix_backward",
    "(Tensor grad_out, Tensor input, Tensor weight, Tensor? bias, Tensor state, Tensor? seed, float factor, "
    "bool[3] wanted) -> (Tensor, Tensor, Tensor)",
    _mix_backward,
)

mix = FunctionPair(
    "toy_mix",
    inputs=("input", "weight", "bias", "seed", "factor"),
    differentiable=("input", "weight", "bias"),
    plain=mix_plain,
    fake=_fake_mix,
    saved_outputs=("state",),
    backward_takes=("input", "weight", "bias", "state", "seed", "factor"),
    leading=("input", "out"),
    rows=("state",),
)


def _pair_forward(input: Tensor, power: float) -> tuple[Tensor, Tensor]:
    CALLS.append(f"forward {tuple(input.shape)}")
    return input.pow(power), input.sin().sum(-1)


def _pair_backward(
    grad_out: Tensor | None, grad_total: Tensor | None, input: Tensor, out: Tensor, power: float, wanted: list
) -> Tensor:
    CALLS.append(f"backward {grad_out is not None} {grad_total is not None}")
    gradient = torch.zeros_like(input)
    if grad_out is not None:
        gradient = gradient + grad_out * power * out / input
    if grad_total is not None:
        gradient = gradient + grad_total[..., None] * input.cos()
    return gradient if wanted[0] else input.new_empty(0)


def pair_plain(input: Tensor, power: float) -> tuple[Tensor, Tensor]:
    return input.pow(power), input.sin().sum(-1)


_define("toy_pair_forward", "(Tensor input, float power) -> (Tensor, Tensor)", _pair_forward)
_define(
    "toy_pair_backward",
    "(Tensor? grad_out, Tensor? grad_total, Tensor input, Tensor out, float power, bool[1] wanted) -> Tensor",
    _pair_backward,
)

two_outputs = FunctionPair(
    "toy_pair",
    inputs=("input", "power"),
    differentiable=("input",),
    plain=pair_plain,
    fake=lambda input, power: (torch.empty_like(input), input.new_empty(input.shape[:-1])),
    outputs=("out", "total"),
    backward_takes=("input", "out", "power"),
    leading=("input", "out", "total"),
)
