"""What every strategy is: asked for architectures, and told the outcome."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from archscout.space import Arch

Direction = Literal["max", "min"]


@dataclass(frozen=True)
class Goal:
    """What a search wants.

    scores: proxy -> whether larger ("max") or smaller ("min") values are better.
    costs:  names of the costs that are to be small as well; only strategies with several objectives use them.
    proxies:  zero-shot scores that are told beside accuracies; a predictor reads them. Where there are any, the scores
              are accuracies, which compare networks of all kinds (SearchSpace.kinds); scores of proxies do not.
    """

    scores: Mapping[str, Direction]
    costs: tuple[str, ...] = ()
    proxies: Mapping[str, Direction] = field(default_factory=dict)

    @property
    def zero_shot(self) -> bool:
        """Whether the scores are those of proxies, and not accuracies."""
        return not self.proxies

    def reached(self, values: Mapping[str, float]) -> bool:
        """Whether an outcome is that of a candidate: feasible, with a finite score; some may be missing."""
        return not values.get("violation") and any(math.isfinite(values.get(name, math.nan)) for name in self.scores)

    def complete(self, values: Mapping[str, float]) -> bool:
        """Whether it is that of a candidate with every score."""
        return self.reached(values) and all(math.isfinite(values.get(name, math.nan)) for name in self.scores)


class Strategy(Protocol):
    """Proposes architectures in generations whose size does not depend on the number of workers.

    Rules that every strategy keeps: the same seed and the same tells give the same asks; no global random state is
    touched; what was asked is told in the same order, by any number of tells.
    """

    def ask(self, n: int = 1) -> list[Arch]:
        """`n` canonical architectures; they may repeat earlier ones."""
        ...

    def tell(self, archs: Sequence[Arch], values: Sequence[Mapping[str, float]]) -> None:
        """The outcomes of asked architectures, in ask order.

        `values[i]` has the costs of `archs[i]`, its `violation` (0 = feasible) and, if it is feasible and did not fail,
        every score; `skipped` is 1 where it was feasible and left untried. What was asked before is told again as it is
        known, though nothing was measured anew. Raises ValueError for what was not asked, for another order, and for
        unequal lengths.
        """
        ...


class Open:
    """The proposals that were asked and not yet told; every strategy holds one, to check its tells."""

    def __init__(self) -> None:
        self._archs: deque[Arch] = deque()

    def ask(self, archs: list[Arch]) -> list[Arch]:
        """Notes asked architectures and returns them."""
        self._archs.extend(archs)
        return archs

    def tell(self, archs: Sequence[Arch], values: Sequence[Mapping[str, float]]) -> None:
        """Strikes told architectures off, or raises ValueError and leaves everything as it was."""
        if len(archs) != len(values):
            raise ValueError(f"told {len(archs)} architectures with {len(values)} values: give one value for each")
        if len(archs) > len(self._archs):
            raise ValueError(f"told {len(archs)} architectures, but only {len(self._archs)} are asked and not yet told")
        for arch, asked in zip(archs, self._archs, strict=False):
            if tuple(arch) != asked:
                raise ValueError(f"told {arch}, but {asked} was asked: tell in the order of asking")
        for _ in archs:
            self._archs.popleft()
