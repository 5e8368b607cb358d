"""Random search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from archscout.space import Arch, SearchSpace
from archscout.strategies.strategy import Goal, Open


class Random:
    """Proposes architectures at random, each raw choice equally likely; learns nothing.

    Use it as the yardstick of every other strategy, for small spaces, and when the ranks of all candidates are wanted
    without bias. Costs some microseconds per decision. May propose one architecture more than once.

    Source: Bergstra and Bengio 2012, "Random search for hyper-parameter optimization", JMLR 13; as a baseline of
    architecture search: Li and Talwalkar 2019, arXiv 1902.07638.
    """

    def __init__(self, space: SearchSpace, *, seed: int, goal: Goal) -> None:
        self.space = space
        self._rng = np.random.default_rng(seed)
        self._open = Open()

    def ask(self, n: int = 1) -> list[Arch]:
        """`n` canonical architectures, drawn independently."""
        return self._open.ask([self.space.sample(self._rng) for _ in range(n)])

    def tell(self, archs: Sequence[Arch], values: Sequence[Mapping[str, float]]) -> None:
        """Checks that the tells answer the asks, and forgets them."""
        self._open.tell(archs, values)
