"""Derivatives from values alone: central differences that choose their step and state their error.

The difference ``D(h) = (f(h) - f(-h)) / 2h`` has two errors: what the Taylor series leaves out, which falls
with the square of h, and the noise of f itself (rounding) divided by h, which grows as h falls. So the step
shrinks by four at a time, Richardson's extrapolation removes the leading powers of h, as in Ridders,
"Accurate computation of F'(x) and F'(x) F''(x)" (Advances in Engineering Software 4, 1982), and the
estimate with the least sum of both errors is kept: how far the extrapolation still moves, plus the noise at
that step. The noise is measured, from the high differences of f at neighbouring points (Moré and Wild,
"Estimating computational noise", SIAM J. Sci. Comput. 33, 2011): it need not be known in which precision f
computes.

A kink of f between -h and h spoils D(h) by an amount that changes with h: the extrapolation keeps moving
until the step is smaller than the distance to the kink. A kink nearer than the steps can tell would pass
unseen in D(h), but not in the second difference ``(f(h) - 2 f(0) + f(-h)) / 2h``, which falls with h where
f is smooth: its extrapolation to h = 0, half the difference of the two one-sided derivatives, is the third
part of the error.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

SHRINK = 4.0  # from one step to the next
NOISE_POINTS = 7
NOISE_ORDERS = (3, 4, 5)  # of the differences that noise is read from


@dataclass(frozen=True)
class Derivative:
    """A derivative at 0, and how far it may be off."""

    value: float
    error: float  # estimated bound: extrapolation, noise and kink
    step: float  # of the differences that it was made from
    evaluations: int


def noise_of(function: Callable[[float], float], spacing: float) -> float:
    """How far ``function`` scatters from a smooth function near 0: the deviation of its rounding.

    Args:
        spacing: between the points that it is called at; so small that the function is a line over a few, and
            large enough to change its argument.

    >>> noise_of(lambda x: 3.0 + x, spacing=1e-8) < 1e-15
    True
    >>> 1e-8 < noise_of(lambda x: round(3.0 + x, 7), spacing=3e-8) < 1e-6
    True
    """
    differences = [function((i - NOISE_POINTS // 2) * spacing) for i in range(NOISE_POINTS)]
    rounding = math.ulp(max(map(abs, differences))) / 4  # of the value itself, were everything else exact
    found = []
    for order in range(1, max(NOISE_ORDERS) + 1):
        differences = [after - before for before, after in pairwise(differences)]
        if order in NOISE_ORDERS:
            amplified = math.factorial(2 * order) / math.factorial(order) ** 2  # variance of the difference
            found.append(math.sqrt(sum(d * d for d in differences) / len(differences) / amplified))
    return max(rounding, sorted(found)[len(found) // 2])


def derivative(
    function: Callable[[float], float],
    *,
    noise: float,
    largest_step: float,
    target: float,
    levels: int = 10,
) -> Derivative:
    """The derivative of ``function`` at 0.

    Args:
        function: of one real variable.
        noise: of its values, see ``noise_of``.
        largest_step: the first step, over which the function may bend, but not much more than once.
        target: an error that is small enough to stop at.
        levels: the most steps to try, each a quarter of the one before.

    >>> found = derivative(math.exp, noise=1e-16, largest_step=0.1, target=1e-9)
    >>> abs(found.value - 1.0) <= found.error <= 1e-9
    True
    """
    best = Derivative(math.nan, math.inf, largest_step, 0)
    middle = function(0.0)
    slopes: list[float] = []  # of one step, extrapolated further and further
    bends: list[float] = []
    for level in range(levels):
        step = largest_step * SHRINK**-level
        after, before = function(step), function(-step)
        before_slopes = slopes
        slopes = _extrapolated((after - before) / (2.0 * step), slopes, first_power=2)
        bends = _extrapolated((after - 2.0 * middle + before) / (2.0 * step), bends, first_power=1)
        rounding = 4.0 * noise / step  # five deviations of the difference
        for k in range(1, len(slopes)):
            moved = max(abs(slopes[k] - slopes[k - 1]), abs(slopes[k] - before_slopes[k - 1]))
            error = moved + rounding + abs(bends[k])
            if error < best.error:
                best = Derivative(slopes[k], error, step, 0)
        if best.error <= target or rounding > best.error:  # smaller steps are noisier still
            break
    return Derivative(best.value, best.error, best.step, 2 * level + 3)


def _extrapolated(value: float, previous: Sequence[float], first_power: int) -> list[float]:
    """Richardson: ``value`` at this step, then without its leading powers of the step, which go up by two."""
    row = [value]
    for k, older in enumerate(previous):
        row.append(row[-1] + (row[-1] - older) / (SHRINK ** (first_power + 2 * k) - 1.0))
    return row
