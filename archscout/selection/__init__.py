"""Selectors: what chooses the training images of the next round."""

from __future__ import annotations

from collections.abc import Callable

from archscout.selection.full import Full
from archscout.selection.random import Random
from archscout.selection.selector import Record, Selector

SELECTORS: dict[str, Callable[..., Selector]] = {
    "full": Full,
    "random": Random,
}

__all__ = ["SELECTORS", "Record", "Selector"]
