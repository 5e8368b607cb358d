"""NSGA-II: a front of candidates over scores and costs at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from archscout.errors import UserError
from archscout.space import Arch, SearchSpace
from archscout.strategies.strategy import Goal, Open


class NSGA2:
    """Keeps a population that is spread along the front of every score and every cost of the goal.

    Use it when the trade-off between scores and costs is wanted, not one best candidate; with more than about four
    objectives nearly nothing dominates anything and it comes close to random search. Costs one non-dominated sorting
    of the population per ask (some milliseconds for a hundred members), so ask for generations, not for one.

    population: members kept, each architecture once; an outcome that is told again takes the place of the first.
    Proposals are those of `start` (default: what the space calls typical), then random, until so many outcomes were
    told. Then each child has two parents won by tournaments of two (smaller violation, then better front, then more
    room on the front); with probability `crossover` each decision comes from either parent, else all from the first;
    each decision is redrawn with probability one over the number of decisions. A child that was proposed before is
    mutated, up to `retries` times. Infeasible members stand behind all feasible ones, by violation. Failed proposals
    are dropped.

    Sorting, crowding distance and survival are pymoo's. Source: Deb, Pratap, Agarwal and Meyarivan 2002, "A fast and
    elitist multiobjective genetic algorithm: NSGA-II", doi 10.1109/4235.996017.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        goal: Goal,
        population: int = 50,
        crossover: float = 0.9,
        retries: int = 10,
        start: Iterable[Arch] | None = None,
    ) -> None:
        if population < 2:
            raise UserError(f"nsga2 wants a population of at least 2, got {population}")
        if not goal.scores and not goal.costs:
            raise UserError("nsga2 wants at least one score or cost as its goal")
        self.space = space
        self.goal = goal
        self.population, self.crossover, self.retries = population, crossover, retries
        self._rng = np.random.default_rng(seed)
        self._open = Open()
        self._start = deque(space.typical if start is None else start)
        self._members: Any = None  # a pymoo Population: X architecture, F objectives (smaller is better), G violation
        self._told: dict[Arch, tuple[list[float], float]] = {}  # since the last ask
        self._outcomes = 0  # told so far, repeats included
        self._places: list[int] = []  # of the members in a tournament; smaller wins
        self._widths = np.array([len(options) for options in space.choices.values()])
        self._seen: set[Arch] = set()

    def ask(self, n: int = 1) -> list[Arch]:
        """`n` canonical architectures: random ones until the population is full, then children of good members."""
        self._take_in()
        return self._open.ask([self._propose() for _ in range(n)])

    def tell(self, archs: Sequence[Arch], values: Sequence[Mapping[str, float]]) -> None:
        """Keeps the outcomes of all that did not fail; the next ask merges them with the population."""
        self._open.tell(archs, values)
        for arch, value in zip(archs, values, strict=True):
            if row := self._objectives(value):
                self._told[tuple(arch)] = row
                self._outcomes += 1

    def _take_in(self) -> None:
        from pymoo.core.population import Population

        if not self._told:
            return
        told = Population.new(
            X=np.array(list(self._told), dtype=np.int64),
            F=np.array([objectives for objectives, _ in self._told.values()], dtype=float),
            G=np.array([[violation] for _, violation in self._told.values()], dtype=float),
        )
        merged = told
        if self._members is not None:
            once = [tuple(member.X.tolist()) not in self._told for member in self._members]
            merged = Population.merge(self._members[once], told)
        self._told = {}
        self._members = _survivors(merged, self.population, self._rng)
        # small is good: violation, then the number of the front, then (negative) room around it
        keys = [(float(m.CV[0]), int(m.get("rank") or 0), -float(m.get("crowding") or 0.0)) for m in self._members]
        places = {key: place for place, key in enumerate(sorted(set(keys)))}
        self._places = [places[key] for key in keys]

    def _objectives(self, value: Mapping[str, float]) -> tuple[list[float], float] | None:
        """Objectives (all to be small) and violation; None for a failed proposal."""
        violation = float(value.get("violation") or 0.0)
        if violation > 0:  # has no scores, and is compared by its violation only
            return (
                ([0.0] * (len(self.goal.scores) + len(self.goal.costs)), violation) if np.isfinite(violation) else None
            )
        costs = [float(value.get(name, np.nan)) for name in self.goal.costs]
        if not self.goal.complete(value) or not np.isfinite(costs).all():
            return None
        signs = [-1.0 if direction == "max" else 1.0 for direction in self.goal.scores.values()]
        return [sign * float(value[name]) for sign, name in zip(signs, self.goal.scores, strict=True)] + costs, 0.0

    def _propose(self) -> Arch:
        if self._outcomes < self.population or len(self._members) < 2:
            child = self._start.popleft() if self._start else self.space.sample(self._rng)
            for _ in range(self.retries):
                if child not in self._seen:
                    break
                child = self.space.sample(self._rng)
        else:
            child = self._child()
            for _ in range(self.retries):
                if child not in self._seen:
                    break
                child = self.space.mutate(child, self._rng)
        self._seen.add(child)
        return child

    def _child(self) -> Arch:
        first, second = self._parent(), self._parent()
        if self._rng.random() < self.crossover:
            first = np.where(self._rng.random(len(first)) < 0.5, first, second)
        redrawn = self._rng.random(len(first)) < 1 / len(first)
        genes = np.where(redrawn, self._rng.integers(self._widths), first)
        return self.space.canonical(tuple(int(gene) for gene in genes))

    def _parent(self) -> np.ndarray:
        one, other = self._rng.choice(len(self._members), size=2, replace=False)
        return self._members[min(one, other, key=self._places.__getitem__)].X


def _survivors(members: Any, size: int, rng: np.random.Generator) -> Any:
    """The best `size` members, feasible ones first; sets `rank` and `crowding` of the feasible ones."""
    from pymoo.core.problem import Problem
    from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

    problem = Problem(n_var=members[0].X.size, n_obj=members[0].F.size, n_ieq_constr=1)
    with _global_state_kept(rng):
        return RankAndCrowding().do(problem, members, n_survive=size, random_state=rng)


@contextmanager
def _global_state_kept(rng: np.random.Generator) -> Iterator[None]:
    """For releases of pymoo that draw from numpy's global generator: they draw from a seeded one, restored after."""
    before = np.random.get_state()
    np.random.seed(int(rng.integers(2**32)))
    try:
        yield
    finally:
        np.random.set_state(before)
