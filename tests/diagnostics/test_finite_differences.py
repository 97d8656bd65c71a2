"""Differences find the derivative within the error that they state, which is small where it can be."""

import math
from collections.abc import Callable

import pytest

from seo_kernels.diagnostics.finite_differences import derivative, noise_of

SMOOTH: list[tuple[Callable[[float], float], Callable[[float], float]]] = [
    (math.exp, math.exp),
    (math.sin, math.cos),
    (lambda x: x**5 - 3 * x, lambda x: 5 * x**4 - 3),
    (lambda x: 1 / (1 + x * x), lambda x: -2 * x / (1 + x * x) ** 2),
    (lambda x: 2.0, lambda x: 0.0),
    (lambda x: 1e6 + x, lambda x: 1.0),
]


def at(function: Callable[[float], float], point: float) -> Callable[[float], float]:
    return lambda x: function(point + x)


@pytest.mark.parametrize("point", [-2.0, 0.1, 0.7, 3.0])
@pytest.mark.parametrize("number", range(len(SMOOTH)))
def test_smooth_functions(number: int, point: float) -> None:
    function, truth = SMOOTH[number]
    noise = noise_of(at(function, point), 1e-6)
    found = derivative(at(function, point), noise=noise, largest_step=0.1, target=1e-9)
    scale = max(1.0, abs(function(point)))
    assert abs(found.value - truth(point)) <= found.error < 1e-8 * scale
    assert found.evaluations <= 21


@pytest.mark.parametrize("levels", [2, 3])
@pytest.mark.parametrize("point", [-2.0, 0.1, 0.7])
@pytest.mark.parametrize("number", range(4))
def test_few_steps_state_a_large_error(number: int, point: float, levels: int) -> None:
    function, truth = SMOOTH[number]
    found = derivative(at(function, point), noise=1e-16, largest_step=1.0, target=1e-12, levels=levels)
    assert abs(found.value - truth(point)) <= found.error < 100.0
    assert found.evaluations == 2 * levels + 1


@pytest.mark.parametrize("distance", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, -1e-4])
def test_kinks_beside_the_point(distance: float) -> None:
    def function(x: float) -> float:
        return math.sin(x) + 3.0 * max(0.0, x - distance)

    truth = 1.0 + 3.0 * (distance < 0)
    found = derivative(function, noise=1e-16, largest_step=0.3, target=1e-7)
    assert abs(found.value - truth) <= found.error < 1e-6


@pytest.mark.parametrize("distance", [0.0, 1e-15])
def test_a_kink_at_the_point_is_in_the_error(distance: float) -> None:
    def function(x: float) -> float:
        return x + 3.0 * max(0.0, x - distance)

    found = derivative(function, noise=1e-16, largest_step=0.1, target=1e-9)
    for one_sided in (1.0, 4.0):
        assert abs(found.value - one_sided) <= found.error + 1e-8  # its distance from the point over the step
    assert found.error < 1.6


@pytest.mark.parametrize("digits", [5, 7, 9, 12])
def test_rounding_is_measured_and_stated(digits: int) -> None:
    def function(x: float) -> float:
        return round(math.sin(0.7 + x), digits)

    noise = noise_of(function, 3.0 * 10**-digits)
    deviation = 10**-digits / math.sqrt(12.0)
    assert 0.2 * deviation < noise < 5.0 * deviation
    found = derivative(function, noise=noise, largest_step=0.1, target=1e-9)
    assert abs(found.value - math.cos(0.7)) <= found.error < 10.0 ** (1 - 0.7 * digits)


def test_exact_functions_have_the_noise_of_their_dtype() -> None:
    assert 1e-18 < noise_of(lambda x: 3.0, 1e-6) < 1e-15


def test_nan_is_no_derivative() -> None:
    found = derivative(lambda x: math.nan, noise=1e-16, largest_step=0.1, target=1e-9)
    assert math.isnan(found.value)
    assert found.error == math.inf
