"""Numbers of files that may come from anybody: finite amounts, and whole numbers of a size that makes sense."""

from __future__ import annotations

from typing import Any

from archscout.errors import UserError

MOST = 65536  # the largest side of an image, number of classes, of threads or of images that is believed


def whole_number(value: Any, what: str) -> int:
    """The value if it is a whole number from 1 to MOST, UserError for any other."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise UserError(f"{what} is {value!r:.40}; wanted a whole number from 1 to {MOST}")
    return value


def amount(value: Any, what: str, *, positive: bool = False) -> float:
    """The value if it is a finite number that is not negative (or is above zero), UserError for any other."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e300  # NaN is none
    if not good or (positive and value == 0):
        raise UserError(f"{what} is {value!r:.40}; wanted a number {'above zero' if positive else 'from zero on'}")
    return float(value)
