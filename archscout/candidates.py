"""The candidates of a run as they are read back from its log: a sequence of dicts that holds columns of numbers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from archscout.rows import Rows


class Candidates(Sequence[dict[str, Any]]):
    """Every proposal that a run met, in order, at some hundred bytes each; read one and it is a dict.

    Its entries: arch (text), costs, feasible, scores, failures, rank (1 = best, None without a score), front (no other
    one beats it in both rank and `axis`), and finalist if `finalists` were named. Reading one takes some microseconds.
    """

    def __init__(self) -> None:
        self.archs: list[str] = []
        self.costs, self.scores = Rows(), Rows()
        self.finalists: Collection[str] | None = None
        self._feasible = bytearray()
        self._failures: dict[int, dict[str, str]] = {}
        self._rank = np.zeros(0, dtype=np.int64)
        self._front = np.zeros(0, dtype=bool)

    def add(self, trial: Mapping[str, Any]) -> None:
        """Takes the logged value of a trial in; `rate` must be called afterwards."""
        costs = dict(trial["costs"])
        self._feasible.append(costs.pop("violation") <= 0)
        if trial.get("failures"):
            self._failures[len(self.archs)] = dict(trial["failures"])
        self.archs.append(str(trial["arch"]))
        self.costs.append(costs)
        self.scores.append(trial.get("scores") or {})

    def rate(self, directions: Mapping[str, str], axis: str) -> None:
        """Ranks those that have a score, and finds the front over rank and the cost `axis`."""
        from archscout.aggregate import rank_rows

        self._rank = np.zeros(len(self), dtype=np.int64)
        self._front = np.zeros(len(self), dtype=bool)
        scored = np.isfinite(self.scores.table(self.scores.names)).any(axis=1).nonzero()[0]
        if not len(scored):
            return
        self._rank[scored] = rank_rows(self.scores.table(list(directions))[scored], directions)
        cost = np.nan_to_num(self.costs.column(axis), nan=0.0)[scored]
        order = scored[np.lexsort((self._rank[scored], cost))]
        best = np.minimum.accumulate(self._rank[order])
        self._front[order] = np.r_[True, best[1:] < best[:-1]]

    def __len__(self) -> int:
        return len(self.archs)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        found = {
            "arch": self.archs[place],
            "costs": self.costs[place],
            "feasible": bool(self._feasible[place]),
            "scores": self.scores[place],
            "failures": dict(self._failures.get(place, {})),
            "rank": int(self._rank[place]) or None,
            "front": bool(self._front[place]),
        }
        return found if self.finalists is None else {**found, "finalist": found["arch"] in self.finalists}

    def fronted(self) -> list[dict[str, Any]]:
        """The members of the front."""
        return [self[int(place)] for place in self._front.nonzero()[0]]

    def reasons(self, most: int) -> list[tuple[str, str, str]]:
        """(arch, what failed, why) of the first failures."""
        found = (
            (self.archs[place], name, why) for place, failed in self._failures.items() for name, why in failed.items()
        )
        return [one for one, _ in zip(found, range(most), strict=False)]
