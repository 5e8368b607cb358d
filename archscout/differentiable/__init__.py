"""Differentiable searches: each is one function that trains a supernet and returns an architecture of its space."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from archscout.differentiable.darts import darts
from archscout.differentiable.pdarts import pdarts
from archscout.differentiable.tas import tas

DIFFERENTIABLE: dict[str, Callable[..., Any]] = {"darts": darts, "pdarts": pdarts, "tas": tas}

__all__ = ["DIFFERENTIABLE"]
