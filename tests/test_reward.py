"""Search by accuracy: what trains, what is told, how it resumes; and the predictor as a strategy."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from test_strategies import space

from archscout.errors import UserError
from archscout.execute import Outcome
from archscout.predicted import Predictor
from archscout.propose import trial_key
from archscout.reward import Search, begin, inherited, nearest, population_of, reads_scores
from archscout.space import Arch
from archscout.strategies import Random
from archscout.strategies.strategy import Goal

PROXIES = {"size": "max"}
SPACE = space(3, 4)


class Memory(dict[str, Any]):
    """A log in memory."""

    folder: Any = None

    def recall(self, key: str) -> Any:
        return self.get(key)

    def record(self, key: str, value: Any, seconds: float = 0.0) -> Any:
        self[key] = value
        return value

    def write(self, name: str, content: bytes) -> None:
        raise NotImplementedError


class Costs:
    """Costs of a space in which architectures that begin with 3 are too large."""

    space = SPACE

    def __init__(self) -> None:
        self.failures: dict[Arch, str] = {}

    def fail(self, arch: Arch, why: str) -> None:
        self.failures[arch] = why

    def __call__(self, arch: Arch) -> dict[str, float]:
        return {"violation": float(arch[0] == 3), "params": float(sum(arch))}


class Broken(Costs):
    """The same, but what has failed is as good as above a limit."""

    def __init__(self, inside: Any) -> None:
        super().__init__()
        self.inside = inside

    def __call__(self, arch: Arch) -> dict[str, float]:
        return {"violation": 1e9} if arch in self.failures else self.inside(self, arch)


class Listed:
    """A strategy that proposes a list, again and again, and keeps what it is told."""

    def __init__(self, archs: Sequence[Arch]) -> None:
        self.archs, self.told, self.count = list(archs), [], 0

    def ask(self, n: int = 1) -> list[Arch]:
        self.count += 1
        return [self.archs[(self.count - 1) % len(self.archs)]]

    def tell(self, archs, values) -> None:
        self.told += list(zip(archs, values, strict=True))


def size(arch: Arch) -> float:
    return float(sum(arch))


def made(run: Memory, strategy: Any, jobs: list[Arch], **more: Any) -> Search:
    """A search whose accuracy is the sum of the decisions, and whose only score is that sum too."""

    def train(items):
        for item in items:
            jobs.append(item["arch"])
            yield Outcome({"validation": size(item["arch"])}, None, 1.0)

    def score(archs):
        return [Outcome({"scores": {"size": size(arch)}, "failures": {}}, None, 0.1) for arch in archs]

    return Search(run, Costs(), strategy, PROXIES, score, train, **more)  # type: ignore[arg-type]


def test_of_four_proposals_the_best_by_its_scores_trains_and_the_others_are_told_as_skipped() -> None:
    proposals = [(0, 0, 1), (0, 2, 2), (3, 3, 3), (1, 0, 0), (0, 0, 3), (0, 1, 1), (2, 2, 2), (0, 3, 0), (1, 1, 1)]
    strategy, jobs = Listed(proposals), []
    found = made(Memory(), strategy, jobs, children=4, together=2)(2)
    assert jobs == list(found) == [(0, 2, 2), (2, 2, 2)]
    told = dict(strategy.told)
    assert told[3, 3, 3]["violation"] > 0
    assert told[0, 2, 2]["validation"] == 4.0
    assert told[0, 0, 3]["skipped"]
    assert "validation" not in told[0, 0, 3]


def test_what_it_was_given_to_start_with_trains_unfiltered_and_failures_do_not_win() -> None:
    strategy, jobs = Listed([(0, 0, 0), (0, 0, 1), (0, 0, 2), (2, 2, 2), (1, 0, 0), (1, 1, 0), (1, 1, 1)]), []
    search = made(Memory(), strategy, jobs, start=[(0, 0, 0), (0, 0, 1)], together=1)

    def train(items):
        for item in items:
            broken = item["arch"] == (0, 0, 1)
            yield Outcome(None if broken else {"validation": size(item["arch"])}, "broke" if broken else None, 1.0)

    search.train = train
    found = search(3)
    assert list(found) == [(0, 0, 0), (0, 0, 1), (2, 2, 2)]
    assert found[0, 0, 1]["failure"] == "broke"
    assert search.ranked() == [(2, 2, 2), (0, 0, 0)]
    assert "validation" not in dict(strategy.told)[0, 0, 1]


def test_stopped_it_goes_on_to_the_same_and_trains_nothing_twice() -> None:
    rng = np.random.default_rng(0)
    proposals = [tuple(int(v) for v in rng.integers(0, 3, 3)) for _ in range(60)]
    whole_jobs: list[Arch] = []
    whole = made(Memory(), Listed(proposals), whole_jobs)(8)
    log, jobs = Memory(), []
    first = made(log, Listed(proposals), jobs)
    inner = first.train

    def killed(items):
        for number, outcome in enumerate(inner(items)):
            if len(jobs) == 6 and number:
                raise KeyboardInterrupt
            yield outcome

    first.train = killed
    with pytest.raises(KeyboardInterrupt):
        first(8)
    again = made(log, Listed(proposals), jobs)(8)
    assert again == whole
    assert len(jobs) <= len(whole_jobs) + 1  # only the one whose outcome was never heard of trains again
    rest: list[Arch] = []
    assert made(log, Listed(proposals), rest)(8) == whole
    assert rest == []


def test_it_ends_where_nothing_new_comes_and_when_time_is_over() -> None:
    jobs: list[Arch] = []
    assert len(made(Memory(), Listed([(0, 0, 1), (0, 1, 0)]), jobs)(9)) == 2
    log, jobs = Memory(), []
    rng = np.random.default_rng(1)
    many = [tuple(int(v) for v in rng.integers(0, 3, 3)) for _ in range(80)]
    some = made(log, Listed(many), jobs, children=1, together=2)(10, out_of_time=lambda: len(jobs) >= 4)
    assert len(some) == 4
    assert made(log, Listed(many), [], children=1, together=2)(10) == some  # a stop by time is an event


def test_the_nearest_and_what_is_inherited() -> None:
    others = [(0, 0, 0), (1, 1, 1), (1, 1, 2)]
    assert nearest((1, 1, 3), others) == (1, 1, 2)
    assert nearest((3, 3, 3), others) is None
    assert nearest((3, 3, 3), []) is None
    fresh = {"a": torch.zeros(2), "b": torch.zeros(3)}
    mixed = inherited(fresh, {"a": torch.ones(2), "b": torch.ones(4)})
    assert mixed["a"].tolist() == [1, 1]
    assert mixed["b"].tolist() == [0, 0, 0]
    assert [population_of(n) for n in (4, 40, 1000)] == [4, 10, 50]


def test_begin_gives_each_strategy_what_it_accepts() -> None:
    start = {(0, 0, n): {"size": float(n)} for n in range(4)}
    predictor = begin(Predictor, SPACE, seed=0, start=start, trainings=8, proxies=PROXIES)
    assert predictor.ask(1) == [(0, 0, 3)]  # the best by the score while nothing was trained
    plain = begin(lambda space, seed, goal: (seed, goal), SPACE, seed=3, start=start, trainings=8, proxies=PROXIES)
    assert plain.strategy == (3, Goal(scores={"validation": "max"}, proxies=PROXIES))
    assert reads_scores(partial(partial(Predictor, explore=0.1), retries=3))
    assert not reads_scores(Random)


def test_a_strategy_that_knows_of_no_beginning_begins_at_the_ranking_all_the_same() -> None:
    start = {(0, 0, n): {"size": float(n)} for n in range(4)}
    strategy = begin(Random, SPACE, seed=0, start=start, trainings=8, proxies=PROXIES)
    alone = Random(SPACE, seed=0, goal=Goal(scores={"validation": "max"}))
    asked = [strategy.ask(3), strategy.ask(3)]
    assert asked[0] + asked[1][:1] == list(start)
    assert asked[1][1:] == alone.ask(2)
    strategy.tell([arch for some in asked for arch in some], [{"violation": 0.0, "validation": 1.0}] * 6)
    with pytest.raises(ValueError, match="asked"):
        strategy.tell([(0, 0, 0)], [{}])


def test_a_network_that_could_not_be_built_is_logged_and_not_tried_again() -> None:
    run, jobs = Memory(), []
    search = made(run, Listed([(0, 0, 0), (0, 0, 1), (0, 0, 2)]), jobs, start=[(0, 0, 0), (0, 0, 1), (0, 0, 2)])
    inside = Costs.__call__
    search.costing = Broken(inside)
    search.costing.fail((0, 0, 1), "too slow to build")
    found = search(2)
    assert list(found) == [(0, 0, 0), (0, 0, 2)]
    key = trial_key(SPACE, (0, 0, 1))
    assert run[key]["failures"] == {"network": "too slow to build"}
    again = made(run, Listed([(0, 0, 0), (0, 0, 1), (0, 0, 2)]), [], start=[(0, 0, 0), (0, 0, 1), (0, 0, 2)])
    again.costing = Broken(inside)  # on a quieter machine it can be built
    assert list(again(2)) == list(found)


def test_the_predictor_learns_that_a_score_misleads() -> None:
    """The score says the larger the better, the truth that the second decision alone counts, downwards."""
    wide = space(3, 6)
    start = {arch: {"size": float(sum(arch)), "second": float(arch[1])} for arch in wide}
    goal = Goal(scores={"validation": "max"}, proxies={"size": "max", "second": "max"})
    strategy = Predictor(wide, seed=0, goal=goal, start=start, explore=0.0)
    tried = []
    for _ in range(60):
        (arch,) = strategy.ask(1)
        tried.append(arch)
        strategy.tell([arch], [{"validation": -float(arch[1]), "violation": 0.0, **start[arch]}])
    assert len(set(tried)) == 60
    assert tried[0] == (5, 5, 5)
    assert np.mean([arch[1] for arch in tried[-10:]]) < np.mean([arch[1] for arch in tried[:10]]) - 2
    with pytest.raises(UserError, match="explore from 0 to 1"):
        Predictor(wide, seed=0, goal=goal, explore=2)


def test_what_was_skipped_stays_a_candidate() -> None:
    start = {(0, 0, n): {"size": float(n)} for n in range(3)}
    goal = Goal(scores={"validation": "max"}, proxies=PROXIES)
    strategy = Predictor(SPACE, seed=0, goal=goal, start=start, explore=0.0)
    (first,) = strategy.ask(1)
    strategy.tell([first], [{"skipped": 1.0, **start[first]}])
    assert strategy.ask(1) == [first]
