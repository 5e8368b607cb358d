"""Proposals by the learned predictor, for a search by accuracy: next comes what it expects to be best."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from archscout.errors import UserError
from archscout.predictor import predict_pool
from archscout.space import Arch, SearchSpace
from archscout.strategies.strategy import Goal, Open

SCORED = 1000  # best candidates by the aggregate that it chooses among
FEW = 4  # outcomes from which on it looks around the best of them
PARENTS = 3  # best outcomes around which it looks


class Predictor:
    """Proposes what a learned predictor expects to be best: ranked candidates, and neighbours of the best outcomes.

    Use it where outcomes are dear, as accuracies after short trainings are (archscout.reward), and zero-shot scores are
    cheap; the outcome is the first score of the goal, and `goal.proxies` are the scores told beside it. Not for the
    zero-shot ranking itself, where there is nothing to predict; so it is none of STRATEGIES. Costs one fit of the
    predictor per tell: a hundredth of a second at 10 outcomes, a second at 500.

    The candidates are those of `start`, of which the SCORED best by the aggregate count, and whatever was told with
    scores and has not been tried. A proposal is the best expected candidate; from FEW outcomes on, a share `explore` of
    them are instead architectures one decision away from one of the PARENTS best outcomes. Of several proposals that
    were scored meanwhile, `best_of` says which to try. What is expected comes from archscout.predictor: from the
    aggregate of the scores while outcomes are few, from both as they grow.

    start:    candidates, a mapping from architectures to their zero-shot scores.

    Sources: candidates by a predictor of accuracies: Wen et al. 2020, "Neural predictor for neural architecture
    search", arXiv 1912.00848; around the best: White et al. 2021, "BANANAS", arXiv 1910.11858.
    """

    reads_scores = True  # wants the scores of all candidates to start with

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int,
        goal: Goal,
        start: Mapping[Arch, Mapping[str, float]] | Iterable[Arch] = (),
        explore: float = 0.75,
        retries: int = 20,
    ) -> None:
        if not 0 <= explore <= 1:
            raise UserError(f"predictor wants explore from 0 to 1, got {explore}")
        self.space, self.goal, self.explore, self.retries = space, goal, explore, retries
        self._rng = np.random.default_rng(seed)
        self._open = Open()
        scored = dict(start) if isinstance(start, Mapping) else {arch: {} for arch in start}
        archs = list(scored)
        ranks = predict_pool(list(scored.values()), goal.proxies, {}, kinds=self._kinds(archs)).ranks
        kept = sorted(zip(ranks.tolist(), range(len(scored)), strict=True))[:SCORED]
        self._scores: dict[Arch, Mapping[str, float]] = {archs[place]: scored[archs[place]] for _, place in kept}
        self._outcomes: dict[Arch, float] = {}  # larger is better
        self._order: list[Arch] | None = None  # of the candidates, best first; None after a tell
        self._tried: set[Arch] = set()

    def ask(self, n: int = 1) -> list[Arch]:
        """`n` canonical architectures: the best expected candidates, and neighbours of the best outcomes."""
        return self._open.ask([self._propose() for _ in range(n)])

    def tell(self, archs: Sequence[Arch], values: Sequence[Mapping[str, float]]) -> None:
        """Keeps outcomes; what was scored and left untried stays a candidate."""
        self._open.tell(archs, values)
        ((name, direction),) = list(self.goal.scores.items())[:1]
        for arch, value in zip(map(tuple, archs), values, strict=True):
            if scores := {key: float(value[key]) for key in self.goal.proxies if key in value}:
                self._scores[arch] = scores
            if value.get("skipped"):
                self._tried.discard(arch)
            if self.goal.complete(value):
                self._outcomes[arch] = float(value[name]) * (1.0 if direction == "max" else -1.0)
        self._order = None

    def best_of(self, group: Mapping[Arch, Mapping[str, float]]) -> Arch:
        """Of some architectures with their scores, the one that is expected to be best."""
        ranked = self._ranked({**self._scores, **group})
        return min(group, key=ranked.index)

    def _propose(self) -> Arch:
        arch = None
        if len(self._outcomes) < FEW or self._rng.random() >= self.explore:
            if self._order is None:
                self._order = self._ranked(self._scores)
            arch = next((one for one in self._order if one not in self._tried), None)
        if arch is None:
            arch = self._neighbour()
        self._tried.add(arch)
        return arch

    def _ranked(self, scores: Mapping[Arch, Mapping[str, float]]) -> list[Arch]:
        """Architectures by what is expected of them, best first."""
        archs = list(scores)
        place = {arch: i for i, arch in enumerate(archs)}
        known = {place[arch]: value for arch, value in self._outcomes.items() if arch in place}
        if not archs:
            return []
        ranks = predict_pool(list(scores.values()), self.goal.proxies, known, kinds=self._kinds(archs)).ranks
        return [archs[i] for i in np.argsort(ranks, kind="stable")]

    def _kinds(self, archs: Sequence[Arch]) -> list[tuple[Any, ...]]:
        return [self.space.kind(arch) for arch in archs]

    def _neighbour(self) -> Arch:
        if not self._outcomes:
            return self.space.sample(self._rng)
        best = sorted(self._outcomes, key=self._outcomes.__getitem__, reverse=True)[:PARENTS]
        parent = best[int(self._rng.integers(len(best)))]
        child = self.space.mutate(parent, self._rng)
        for _ in range(self.retries):
            if child not in self._tried and child not in self._outcomes:
                break
            child = self.space.mutate(child if self._rng.random() < 0.5 else parent, self._rng)
        return child
