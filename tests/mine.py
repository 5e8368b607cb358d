"""Someone's own proxy, space and strategy, as they would write them outside the package."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from archscout.space import Arch, SearchSpace, Shape


def slowness(probe: Any) -> float:
    """Minus the number of layers: a proxy nobody should use."""
    return -float(sum(1 for _ in probe.model.modules()))


def _network(channels: int, classes: int, picks: dict[str, Any]) -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(picks["depth"]):
        layers += [nn.Conv2d(channels, picks["width"], 3, padding=1), nn.BatchNorm2d(picks["width"]), nn.ReLU()]
        channels = picks["width"]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def chain(input_shape: Shape, classes: int) -> SearchSpace:
    """A plain chain of convolutions."""
    return SearchSpace(
        "chain",
        input_shape,
        classes,
        {"width": (4, 8, 12), "depth": (1, 2, 3)},
        lambda picks: _network(input_shape[0], classes, picks),
    )


class Sweep:
    """A strategy that walks through the space in order, again and again."""

    def __init__(self, space: SearchSpace, *, seed: int, goal: Any) -> None:
        self.space, self.at, self.told = space, 0, 0
        self.order = list(space)
        np.random.default_rng(seed).shuffle(self.order)

    def ask(self, n: int = 1) -> list[Arch]:
        archs = [self.order[(self.at + i) % len(self.order)] for i in range(n)]
        self.at += n
        return archs

    def tell(self, archs: Any, values: Any) -> None:
        self.told += len(archs)
