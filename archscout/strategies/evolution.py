"""Ageing evolution."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from archscout.errors import UserError
from archscout.space import Arch, SearchSpace
from archscout.strategies.strategy import Goal, Open


class Evolution:
    """Mutates good members of a population in which the oldest, not the worst, is replaced.

    Use it when scores are cheap and the space is too large to sample well; it wants some hundred proposals to pay off.
    Costs one ranking of the population per tell and some ten microseconds per proposal.

    population: members kept; until so many candidates were told, proposals are random. tournament: members drawn
    (without replacement) for each child; the best by fitness is the parent. A child is the parent with one
    decision changed; one that was proposed before is changed once more, up to `retries` times, so that a small space
    is walked and not proposed again and again. start: the first proposals, instead of random ones; default: what the
    space calls typical.
    Only feasible proposals with a score enter the population, and each architecture once: what is told of it again is
    nothing new, and ages nobody. So copies never fill the population of a small space, or where little is feasible.
    Costs of the goal are not looked at: limits are kept by what enters.

    Fitness is the rank of `archscout.aggregate.rank_pool` within the population, so several proxies count alike. Where
    the space has several kinds of networks it is the rank among the members of the own kind, so that each kind is
    improved, since proxies compare kinds badly; accuracies do not, and rank among all.

    Source: Real, Aggarwal, Huang and Le 2019, "Regularized evolution for image classifier architecture search",
    arXiv 1802.01548.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        goal: Goal,
        population: int = 50,
        tournament: int = 10,
        retries: int = 10,
        start: Iterable[Arch] | None = None,
    ) -> None:
        if not 1 <= tournament <= population:
            raise UserError(f"evolution wants 1 <= tournament <= population, got {tournament} and {population}")
        self.space = space
        self.goal = goal
        self.population, self.tournament, self.retries = population, tournament, retries
        self._rng = np.random.default_rng(seed)
        self._open = Open()
        self._start = deque(space.typical if start is None else start)
        self._members: deque[tuple[Arch, dict[str, float]]] = deque(maxlen=population)  # the oldest first
        self._entered: set[Arch] = set()
        self._candidates = 0  # told so far, repeats included
        self._ranks: np.ndarray | None = None  # of the members; None after a change
        self._seen: set[Arch] = set()

    def ask(self, n: int = 1) -> list[Arch]:
        """`n` canonical architectures: random ones until the population is full, then mutants of good members."""
        return self._open.ask([self._propose() for _ in range(n)])

    def tell(self, archs: Sequence[Arch], values: Sequence[Mapping[str, float]]) -> None:
        """Lets the candidates among the outcomes into the population; each new one drives the oldest member out."""
        self._open.tell(archs, values)
        for arch, value in zip(map(tuple, archs), values, strict=True):
            if not self.goal.reached(value):
                continue
            self._candidates += 1
            if arch not in self._entered:
                self._entered.add(arch)
                scores = {name: float(value[name]) for name in self.goal.scores if name in value}
                self._members.append((arch, scores))
                self._ranks = None

    def _propose(self) -> Arch:
        if self._candidates < self.population:
            child = self._start.popleft() if self._start else self.space.sample(self._rng)
            for _ in range(self.retries):
                if child not in self._seen:
                    break
                child = self.space.sample(self._rng)
        else:
            child = self.space.mutate(self._parent(), self._rng)
            for _ in range(self.retries):
                if child not in self._seen:
                    break
                child = self.space.mutate(child, self._rng)
        self._seen.add(child)
        return child

    def _parent(self) -> Arch:
        if self._ranks is None:
            from archscout.aggregate import rank_among_kinds, score_table

            table = score_table([scores for _, scores in self._members], list(self.goal.scores))
            kinds = [self.space.kind(arch) if self.goal.zero_shot else () for arch, _ in self._members]
            self._ranks, _ = rank_among_kinds(table, self.goal.scores, kinds)
        count = len(self._members)
        drawn = self._rng.choice(count, size=min(self.tournament, count), replace=False)
        return self._members[int(drawn[np.argmin(self._ranks[drawn])])][0]
