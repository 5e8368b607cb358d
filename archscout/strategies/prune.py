"""Pruning: options are dropped from every decision until one is left."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from archscout.aggregate import rank_among_kinds, rank_rows
from archscout.errors import UserError
from archscout.rows import Rows
from archscout.space import Arch, SearchSpace
from archscout.strategies.strategy import Goal, Open


class Prune:
    """Drops bad options, round after round, until a single architecture is left.

    Use it where the decisions contribute much by themselves, and where few architectures are feasible: violations prune
    too, and lead to the limits sooner than mutations do. It wants one pass of proposals to pay off: about 100 on
    nasbench201, 220 on mobilenet, 300 on vit. Costs one ranking per round, some ten microseconds per proposal.

    A round proposes random architectures of the options that are alive, dealt so that all options of a decision come
    equally often. An option is judged by the better half of the proposals that have it: the mean of their places by
    `rank_pool` (of proxies among the own kind, see SearchSpace.kinds), with the infeasible ones behind the candidates,
    by violation, and those that failed last. Once there
    are `samples` times as many outcomes as options to choose from (those of earlier rounds count if all their options
    live), the worst option goes in that `share` of the undecided decisions where it is clearest: where it lies farthest
    behind the mean of the others. The one architecture in the end is proposed, and a new pass begins with all options
    and twice the `samples`; what was told still counts. What was proposed before is drawn anew, up to `retries` times,
    and counts once more where it is told again, or a round of few options would never have outcomes enough.

    Source: Chen, Gong and Wang 2021, "Neural architecture search on ImageNet in four GPU hours" (TE-NAS), arXiv
    2102.11535. There each option is taken out of a supernet in turn, is judged by the rank of what that changes, and
    every decision loses one a round; docs/decisions/004-prune-without-a-supernet.md says why not here.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        goal: Goal,
        samples: float = 0.5,
        share: float = 0.25,
        retries: int = 10,
    ) -> None:
        if not (samples > 0 and 0 < share <= 1):
            raise UserError(f"prune wants samples above 0 and a share above 0, up to 1, got {samples} and {share}")
        self.space, self.goal = space, goal
        self.share, self.retries = share, retries
        self._samples = samples  # outcomes wanted per option; doubled with every pass
        self._rng = np.random.default_rng(seed)
        self._open = Open()
        self._alive = self._all()
        self._hands: list[list[int]] = [[] for _ in self._alive]  # options still to be dealt, per decision
        self._drawn: deque[Arch] = deque()  # the draws whose canonical forms are asked and not yet told
        self._told: list[Arch] = []  # draws, in the order of their outcomes
        self._kinds: list[tuple[int, ...]] = []  # of each
        self._outcomes = Rows()  # scores and violation of each
        self._inside: list[int] = []  # places of the outcomes all of whose options live
        self._judged = 0  # outcomes that were looked at for that
        self._seen: set[Arch] = set()

    def ask(self, n: int = 1) -> list[Arch]:
        """`n` canonical architectures of the options that are alive after the outcomes so far."""
        self._prune()
        return self._open.ask([self._propose() for _ in range(n)])

    def tell(self, archs: Sequence[Arch], values: Sequence[Mapping[str, float]]) -> None:
        """Keeps the outcomes; the next ask prunes by them."""
        self._open.tell(archs, values)
        for arch, value in zip(archs, values, strict=True):
            draw = self._drawn.popleft()
            if value.get("skipped"):
                continue
            self._told.append(draw)
            self._kinds.append(self.space.kind(arch))
            kept = {name: value.get(name) for name in (*self.goal.scores, "violation")}
            self._outcomes.append({name: number for name, number in kept.items() if number is not None})

    def _all(self) -> list[list[int]]:
        return [list(range(len(options))) for options in self.space.choices.values()]

    def _propose(self) -> Arch:
        draw = self._draw()
        if all(len(options) == 1 for options in self._alive):
            self._alive, self._samples = self._all(), 2 * self._samples
            self._inside, self._judged = [], 0
        else:
            for _ in range(self.retries):
                if self.space.canonical(draw) not in self._seen:
                    break
                draw = self._draw()
        self._drawn.append(draw)
        arch = self.space.canonical(draw)
        self._seen.add(arch)
        return arch

    def _draw(self) -> Arch:
        """An architecture of alive options; every option of a decision is dealt once before any comes again."""
        for hand, options in zip(self._hands, self._alive, strict=True):
            hand[:] = [option for option in hand if option in options] or self._rng.permutation(options).tolist()
        return tuple(hand.pop() for hand in self._hands)

    def _prune(self) -> None:
        """Drop the worst options, again and again, as long as there are outcomes enough."""
        while undecided := [spot for spot, options in enumerate(self._alive) if len(options) > 1]:
            wanted = self._samples * sum(len(self._alive[spot]) for spot in undecided)
            self._inside += filter(self._lives, range(self._judged, len(self._told)))
            self._judged = len(self._told)
            if len(self._inside) < wanted:
                return
            kinds = [self._kinds[place] for place in self._inside]
            places = place_rows(score_rows(self._outcomes, self._inside, self.goal), self.goal, kinds)
            draws = np.array([self._told[place] for place in self._inside])
            found = [worst(draws[:, spot], places, self._alive[spot]) for spot in undecided]
            clearest = sorted(zip(found, undecided, strict=True), reverse=True)
            for (_, option), spot in clearest[: math.ceil(self.share * len(undecided))]:
                self._alive[spot].remove(option)
            self._inside = [place for place in self._inside if self._lives(place)]

    def _lives(self, place: int) -> bool:
        """Whether all options of an outcome are alive."""
        return all(index in options for index, options in zip(self._told[place], self._alive, strict=True))


def worst(drawn: np.ndarray, places: np.ndarray, options: Sequence[int]) -> tuple[float, int]:
    """How far the worst of a decision's options lies behind the mean of the others, and which it is.

    drawn, places: the option and the place (small is good) of each outcome. An option without outcomes is the worst.
    """
    means = np.full(len(options), 2.0 * places.max())
    for number, option in enumerate(options):
        if len(having := np.sort(places[drawn == option])):
            means[number] = having[: math.ceil(len(having) / 2)].mean()
    last = int(np.argmax(means))
    return float(means[last] - np.delete(means, last).mean()), options[last]


def score_row(value: Mapping[str, float], goal: Goal) -> list[float]:
    """An outcome as numbers: how far it is from being allowed, infinite if it failed, and its scores, NaN for none."""
    scores = [float(value.get(name, math.nan)) for name in goal.scores]
    over = value.get("violation") or (0.0 if any(map(math.isfinite, scores)) else math.inf)
    return [float(over), *scores]


def score_rows(outcomes: Rows, inside: Sequence[int], goal: Goal) -> np.ndarray:
    """`score_row` of the outcomes at some places, (n, 1 + scores), without a dict of each."""
    scores = outcomes.table(list(goal.scores))[inside]
    over = np.nan_to_num(outcomes.column("violation")[inside], nan=0.0, posinf=np.inf)
    known = np.isfinite(scores).any(1)
    return np.column_stack([np.where(over == 0, np.where(known, 0.0, np.inf), over), scores])


def place_rows(rows: np.ndarray, goal: Goal, kinds: Sequence[Any]) -> np.ndarray:
    """Places (n,) of outcomes, small is good: scored ones by rank, infeasible ones by violation, failed ones last.

    rows: (n, 1 + scores), as `score_row` makes each. kinds: of each, see SearchSpace.kinds. Where the scores are those
    of proxies and there are several kinds, a rank is one among the own kind, stretched to the number of those scored.
    """
    over = rows[:, 0]
    bad = over > 0
    table = np.where(bad[:, None], np.nan, rows[:, 1:])
    if goal.zero_shot and len(set(kinds)) > 1:
        ranks, sizes = rank_among_kinds(table, goal.scores, kinds)
        places = np.minimum((ranks - 0.5) / sizes, 1.0) * (len(rows) - bad.sum()) + 0.5
    else:
        places = rank_rows(table, goal.scores)
    return np.where(bad, rankdata(over), places) if bad.any() else places
