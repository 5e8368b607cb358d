"""Strategies: what proposes architectures, by asking and telling."""

from __future__ import annotations

from collections.abc import Callable

from archscout.strategies.evolution import Evolution
from archscout.strategies.nsga2 import NSGA2
from archscout.strategies.prune import Prune
from archscout.strategies.random import Random
from archscout.strategies.reinforce import Reinforce
from archscout.strategies.strategy import Goal, Strategy

STRATEGIES: dict[str, Callable[..., Strategy]] = {
    "evolution": Evolution,
    "nsga2": NSGA2,
    "prune": Prune,
    "random": Random,
    "reinforce": Reinforce,
}

__all__ = ["STRATEGIES", "Goal", "Strategy"]
