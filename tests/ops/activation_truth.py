"""The activations and their derivatives in float64, right to the last digits of float32 everywhere.

Errors are counted in units in the last place (ulp) of float32 of a *size*: the magnitude of the exact result,
or, for derivatives, of the largest of the terms that it is a sum of, since where these cancel (the derivative
of gelu is zero at -0.75) no digit of the sum follows from theirs. With f(x) = x g(x):

    f' = g + x g',    f'' = 2 g' + x g''

and g'' of a logistic function s(u) is s' u'' + s' (1 - 2 s) u'^2. The unit of a denormal is the smallest one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

DENSITY = 1 / math.sqrt(2 * math.pi)
P, Q = 2 * math.sqrt(2 / math.pi), 2 * math.sqrt(2 / math.pi) * 0.044715  # of gelu_tanh's u = p x + q x^3


class Truth(NamedTuple):
    """value, first and second derivative, and their sizes."""

    results: tuple[Tensor, Tensor, Tensor]
    sizes: tuple[Tensor, Tensor, Tensor]


def truth(activation: str, x: Tensor, negative_slope: float = 0.01) -> Truth:
    """Of finite x, any dtype."""
    x = x.double()
    if activation in _GATES:
        gate, first, seconds = _GATES[activation](x)
        second = sum(seconds)
        results = (x * gate, gate + x * first, 2 * first + x * second)
        terms = (
            (x * gate,),
            (gate, x * first),
            (2 * first, *(x * term for term in seconds)),
        )
    else:
        results = _OTHERS[activation](x) if activation != "leaky_relu" else _leaky_relu(x, negative_slope)
        terms = tuple((result,) for result in results)
        if activation == "sigmoid":
            value, first, _ = results
            terms = (terms[0], terms[1], (first * value, first * torch.sigmoid(-x)))
    sizes = tuple(
        torch.stack([*(t.abs() for t in of), r.abs()]).amax(0) for of, r in zip(terms, results, strict=True)
    )
    return Truth(results, sizes)


def ulps(found: Tensor, expected: Tensor, size: Tensor) -> Tensor:
    """|found - expected| in units in the last place of ``size`` in float32."""
    _, exponent = torch.frexp(size)
    unit = torch.ldexp(torch.ones_like(size), (exponent - 24).clamp(min=-149))
    return (found.double() - expected).abs() / unit


def _logistic(u: Tensor, u1: Tensor | float, u2: Tensor | float) -> tuple[Tensor, Tensor, list[Tensor]]:
    """s(u), its derivative, and the terms of the second."""
    s, rest = torch.sigmoid(u), torch.sigmoid(-u)
    slope = s * rest
    return s, slope * u1, [slope * u2, slope * (rest - s) * u1 * u1]


def _gelu(x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    density = DENSITY * torch.exp(-x * x / 2)
    return torch.special.erfc(-x / math.sqrt(2)) / 2, density, [-x * density]


def _gelu_tanh(x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    return _logistic(x * (P + Q * x * x), P + 3 * Q * x * x, 6 * Q * x)


def _silu(x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    return _logistic(x, 1.0, 0.0)


def _mish(x: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """tanh(log(1 + w)) = n / (n + 2) with w = e^x, n = w (w + 2); over w^2 where x > 0."""
    e = torch.exp(-x.abs())
    n = torch.where(x < 0, e * (e + 2), 1 + 2 * e)
    two = torch.where(x < 0, 2.0, 2 * e * e)
    t = n / (n + two)
    square = two / (n + two) * (1 + t)  # 1 - t^2
    s, rest = torch.sigmoid(x), torch.sigmoid(-x)
    return t, square * s, [-2 * t * square * s * s, square * s * rest]


def _tanh(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    value, first = torch.tanh(x), 4 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)
    return value, first, -2 * value * first


def _sigmoid(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    s, rest = torch.sigmoid(x), torch.sigmoid(-x)
    return s, s * rest, s * rest * (rest - s)


def _leaky_relu(x: Tensor, slope: float) -> tuple[Tensor, Tensor, Tensor]:
    first = torch.full_like(x, slope).masked_fill(x > 0, 1.0)
    return x * first, first, torch.zeros_like(x)


def _relu(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.clamp(min=0), (x > 0).double(), torch.zeros_like(x)


def _relu2(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.clamp(min=0).square(), 2 * x.clamp(min=0), 2 * (x > 0).double()


_GATES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, list[Tensor]]]] = {
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
    "mish": _mish,
}
_OTHERS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = {
    "relu": _relu,
    "relu2": _relu2,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
}
