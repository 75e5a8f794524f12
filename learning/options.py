"""Checks on a task's options: each returns its value or raises `SiteFileError` naming the option."""

import math
from collections.abc import Sequence

from ..protocol.errors import SiteFileError


def count(name: str, value: object, *, least: int = 0) -> int:
    """Return a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise SiteFileError(f"option {name} is {value!r} and must be a whole number of at least {least}")
    return value


def number(name: str, value: object) -> float:
    """Return a finite number."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise SiteFileError(f"option {name} is {value!r} and must be a number")
    return float(value)


def flag(name: str, value: object) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise SiteFileError(f"option {name} is {value!r} and must be true or false")
    return value


def text(name: str, value: object) -> str:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value:
        raise SiteFileError(f"option {name} is {value!r} and must be a text")
    return value


def one_of(name: str, value: object, allowed: Sequence[str]) -> str:
    """Return one of some texts."""
    if not isinstance(value, str) or value not in allowed:
        raise SiteFileError(f"option {name} is {value!r} and must be one of {', '.join(allowed)}")
    return value


def indices(name: str, value: object, bound: int) -> tuple[int, ...]:
    """Return different whole numbers from 0 to `bound` - 1, in order; None stands for all of them."""
    if value is None:
        return tuple(range(bound))
    if (
        not isinstance(value, list | tuple)
        or not all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item < bound for item in value)
        or len(set(value)) != len(value)
    ):
        raise SiteFileError(f"option {name} is {value!r} and must list different numbers from 0 to {bound - 1}")
    return tuple(sorted(value))
