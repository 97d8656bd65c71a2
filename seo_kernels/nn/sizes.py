"""Checks of what layers and models are constructed with."""

from collections.abc import Sequence

from seo_kernels.ops.arguments import MAX_DIM
from seo_kernels.ops.checks import check_finite, kind


def check_size(name: str, value: int, least: int = 1) -> int:
    """The value, an int of at least ``least``."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {kind(value)}, expected an int >= {least}")
    if value < least:
        raise ValueError(f"{name} is {value}, expected an int >= {least}")
    return value


def check_sizes(name: str, values: Sequence[int]) -> list[int]:
    """The values as a list of at least one positive int."""
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"{name} is {kind(values)}, expected a list of ints")
    if not values:
        raise ValueError(f"{name} is empty, expected at least one int")
    return [check_size(f"{name}[{i}]", value) for i, value in enumerate(values)]


def check_heads(width_name: str, width: int, heads_name: str, heads: int) -> None:
    """Raise unless the width divides into so many heads, none of them wider than attention takes."""
    check_size(width_name, width)
    check_size(heads_name, heads)
    if width % heads != 0 or width // heads > MAX_DIM:
        raise ValueError(
            f"{width_name} is {width} for {heads_name}={heads}, expected a multiple of it, at most {MAX_DIM} "
            "times as large"
        )


def check_flag(name: str, value: bool) -> bool:
    """The value, True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {kind(value)}, expected True or False")
    return value


def check_probability(name: str, value: float) -> float:
    """The value, a probability of dropping: in [0, 1)."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} is {kind(value)}, expected a number in [0, 1)")
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} is {value}, expected a number in [0, 1)")
    return float(value)


def check_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """The value, one of the names that are known."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {kind(value)}, expected one of {', '.join(choices)}")
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
    return value


def check_positive(name: str, value: float) -> float:
    """The value, a finite number above 0."""
    check_finite(name, value, "a number above 0")
    if value <= 0.0:
        raise ValueError(f"{name} is {value}, expected a number above 0")
    return float(value)


def check_not_negative(name: str, value: float) -> float:
    """The value, a finite number of at least 0."""
    check_finite(name, value, "a number >= 0")
    if value < 0.0:
        raise ValueError(f"{name} is {value}, expected a number >= 0")
    return float(value)
