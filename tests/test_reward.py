"""Search by accuracy: what trains, what is told, how it resumes; and the predictor as a strategy."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from test_strategies import space

from archscout.errors import UserError
from archscout.execute import Outcome
from archscout.predicted import Predictor
from archscout.propose import trial_key
from archscout.reward import (
    Search,
    answers_name,
    begin,
    inherited,
    nearest,
    population_of,
    reads_scores,
    weights_name,
)
from archscout.space import Arch, SearchSpace
from archscout.strategies import STRATEGIES, Random
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


def test_what_brings_nothing_is_told_soon_and_counted_over_rounds(caplog: pytest.LogCaptureFixture) -> None:
    """16 proposals beyond the limits are told before more are asked; 60 times as many in a row end the search."""

    class Lost(Listed):
        def tell(self, archs, values) -> None:
            super().tell(archs, values)
            told.append((len(archs), self.count))

    told: list[tuple[int, int]] = []
    jobs: list[Arch] = []
    search = made(Memory(), Lost([(0, 0, 1)] + [(3, 0, 0)] * 5000), jobs)
    with caplog.at_level("WARNING", "archscout"):
        assert list(search(3)) == [(0, 0, 1)]
    assert told == [(17, 17), *((16, 17 + 16 * k) for k in range(1, 60))]
    assert search.ended == "idle"
    assert "trained 1 of 3 networks: 960 proposals in a row" in caplog.text


def test_a_strategy_that_learns_from_limits_finds_the_few_that_keep_them() -> None:
    """Of 15,625 networks 84 are feasible, one in 186; told of nothing but those, pruning ended after a handful."""
    wide = space(6, 5)

    class Tight(Costs):
        space = wide

        def __call__(self, arch: Arch) -> dict[str, float]:
            return {"violation": max(0.0, size(arch) - 3), "params": size(arch)}

    def strategy(seed: int) -> Any:
        start = {(0,) * 6: {"size": 0.0}}
        return begin(STRATEGIES["prune"], wide, seed=seed, start=start, trainings=24, proxies=PROXIES)

    for seed in range(3):
        log, jobs = Memory(), []
        search = made(log, strategy(seed), jobs)
        search.costing = Tight()
        whole = search(24)
        assert len(whole) == 24
        half = Memory(dict(list(log.items())[: len(log) // 2]))  # cut off in the midst of it
        again = made(half, strategy(seed), [])
        again.costing = Tight()
        assert list(again(24)) == list(whole)
        assert half == log


def test_a_stop_by_time_is_told_and_noticed_where_nothing_comes(caplog: pytest.LogCaptureFixture) -> None:
    log, jobs = Memory(), []
    strategy = Listed([(0, 0, 1)] + [(3, 0, 0)] * 5000)
    search = made(log, strategy, jobs)
    with caplog.at_level("WARNING", "archscout"):
        search(3, out_of_time=lambda: strategy.count > 60)
    assert search.ended == "time"
    assert strategy.count == 65
    assert "trained 1 of 3 networks: time was over" in caplog.text
    again = made(log, strategy := Listed(strategy.archs), [])
    again(3)
    assert (strategy.count, again.ended) == (65, "time")


class Filed(Memory):
    """A log in memory that keeps files."""

    def __init__(self, folder: Any) -> None:
        super().__init__()
        self.folder = folder

    def write(self, name: str, content: bytes) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_bytes(content)


def test_answers_of_earlier_trainings_reach_the_next_ones_and_the_last_are_not_asked(tmp_path: Any) -> None:
    def begun(log: Memory, seen: list[Any]) -> Search:
        search = made(log, Listed([(0, b, c) for b in range(3) for c in range(3)]), [], children=1, together=2)

        def train(items):
            for item in items:
                known = None if item["answers"] is None else item["answers"][:, 0].tolist()
                seen.append((item["arch"], known, item["ask"]))
                if len(seen) == stop:
                    raise KeyboardInterrupt
                value = size(item["arch"])
                said = {"said": np.array([value, 7], dtype=np.uint16)} if item["ask"] else {}
                yield Outcome({"validation": value, **said}, None, 1.0)

        search.train = train
        return search

    stop, seen, log = 0, [], Filed(tmp_path / "whole")
    log.folder.mkdir()
    whole = begun(log, seen)(6)
    assert seen == [
        ((0, 0, 0), None, True), ((0, 0, 1), None, True),
        ((0, 0, 2), [1, 0], True), ((0, 1, 0), [1, 0], True),  # the best first
        ((0, 1, 1), [2, 1, 1, 0], False), ((0, 1, 2), [2, 1, 1, 0], False),
    ]  # fmt: skip
    assert "said" not in whole[0, 0, 0]
    stop, first, second, cut = 4, [], [], Filed(tmp_path / "cut")
    cut.folder.mkdir()
    with pytest.raises(KeyboardInterrupt):
        begun(cut, first)(6)
    stop = 0
    assert begun(cut, second)(6) == whole
    assert first[:3] + second == seen
    assert cut == log


HEIRS = [(0, b, c) for b in range(3) for c in range(3)]


def inheriting(log: Filed, seen: list[Any], fails: bool = False) -> Search:
    """A search whose trainings go on from the weights of others; what they leave follows from what they are given."""
    search = made(log, Listed(HEIRS), [], children=1, together=2, inherit=True)

    def train(items):
        for item in items:
            seen.append((item["arch"], item["changes"]))
            if fails:
                yield Outcome(None, "no memory", 1.0)
                continue
            value = size(item["arch"])
            began = load_tensors(item["state"])["w"] if item["state"] else torch.zeros(1)
            heard = 0 if item["answers"] is None else int(item["answers"].sum())
            said = {"said": np.array([value, 7], dtype=np.uint16)} if item["ask"] else {}
            state = save_tensors({"w": began + value + 100 * heard})
            yield Outcome({"validation": value, "state": state, "changes": [{"done": value}], **said}, None, 1.0)

    def make(arch: Arch) -> torch.nn.Module:
        model = torch.nn.Module()
        model.register_buffer("w", torch.zeros(1))
        return model

    search.train, search.make = train, make
    return search


@pytest.mark.parametrize("how", ["missing", "cut", "all are missing"])
@pytest.mark.parametrize("name", [weights_name, answers_name])
def test_what_trainings_left_and_cannot_be_read_back_is_made_again(name: Any, how: str, tmp_path: Any) -> None:
    """Cut off after four of six trainings: the fourth is made again as it was, and all that follow come out alike."""
    whole = Filed(tmp_path / "whole")
    whole.folder.mkdir()
    records = inheriting(whole, [])(6)
    assert [record["heir_of"] for record in records.values()] == [None, None, "0-0-1", "0-0-0", "0-1-0", "0-1-0"]
    left = {file.name: file.read_bytes() for file in whole.folder.glob("checkpoints/*")}
    events = list(whole.items())
    cut = Filed(tmp_path / "cut")
    cut.update(events[: [key.startswith("short/") for key, _ in events].index(True) + 5])
    assert sum(key.startswith("short/") for key in cut) == 4
    shutil.copytree(whole.folder, cut.folder)
    files = list(cut.folder.glob("checkpoints/*")) if "all" in how else [
        cut.folder / "checkpoints" / name(SPACE, HEIRS[3])
    ]  # fmt: skip
    for file in files:
        file.write_bytes(file.read_bytes()[:5])
        if "missing" in how:
            file.unlink()
    seen: list[Any] = []
    assert inheriting(cut, seen)(6) == records
    assert cut == whole
    assert {file.name: file.read_bytes() for file in cut.folder.glob("checkpoints/*")} == left
    again = HEIRS[:4] if "all" in how else HEIRS[3:4]
    assert seen == [(arch, [{"done": size(arch)}]) for arch in again] + [(arch, None) for arch in HEIRS[4:6]]


def test_what_nobody_needs_is_not_made_again_and_what_cannot_be_is_told(tmp_path: Any) -> None:
    whole = Filed(tmp_path / "whole")
    whole.folder.mkdir()
    records = inheriting(whole, [])(6)
    shutil.rmtree(whole.folder / "checkpoints")
    seen: list[Any] = []
    done = Filed(whole.folder)
    done.update(whole, short={})
    assert inheriting(done, seen)(6) == records
    assert seen == []
    for key in list(whole)[-2:]:
        del whole[key]
    with pytest.raises(UserError, match="is missing; put it back, or type archscout resume"):
        inheriting(whole, seen, fails=True)(6)


def test_a_network_whose_scoring_failed_is_not_built_for_its_inheritance(tmp_path: Any) -> None:
    """It may hang or take all memory, and nothing in this process would stop it."""
    log, seen = Filed(tmp_path / "run"), []
    log.folder.mkdir()
    search = inheriting(log, seen)
    search.children = 2
    search.score = lambda archs: [Outcome(None, "took longer than 4 s", 4.0) for _ in archs]
    search.make = lambda arch: pytest.fail("built")  # type: ignore[assignment]
    assert [record["heir_of"] for record in search(4).values()] == [None] * 4


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


def test_of_proposals_of_several_kinds_the_best_of_its_kind_trains() -> None:
    """Kind 2 scores above all; the proposal of kind 0 is second of nine of its own, that of kind 2 first of two."""
    first = {(0, i, j): {"size": float(4 * i + j)} for i in (0, 1) for j in range(4)}
    first |= {(2, 0, 0): {"size": 100.0}, (0, 3, 3): {"size": 15.0}}
    del first[0, 1, 3]
    scores = {(0, 3, 0): 12.0, (2, 3, 3): 115.0}

    def trained(space: SearchSpace) -> list[Arch]:
        jobs = list[Arch]()
        search = made(Memory(), Listed(list(scores)), jobs, children=2, together=1, scores=dict(first))
        search.costing = Costs()
        search.costing.space = space
        search.score = lambda archs: [
            Outcome({"scores": {"size": scores[arch]}, "failures": {}}, None, 0.1) for arch in archs
        ]
        search(1)
        return jobs

    assert trained(replace(SPACE, kinds=("d0",))) == [(0, 3, 0)]
    assert trained(SPACE) == [(2, 3, 3)]


def test_the_predictor_begins_at_the_best_of_each_kind_and_learns_which_is_good() -> None:
    scored = {(kind, i, j): {"size": 100.0 * kind + 4 * i + j} for kind in (0, 1) for i in range(4) for j in range(4)}
    goal = Goal(scores={"validation": "max"}, proxies=PROXIES)

    def asked(space: SearchSpace) -> list[list[int]]:
        strategy = Predictor(space, seed=0, goal=goal, start=scored, explore=0.0)
        kinds = []
        for _ in range(4):
            archs = strategy.ask(4)
            kinds.append([arch[0] for arch in archs])
            strategy.tell(archs, [{"validation": 0.9 - 0.5 * arch[0] + 0.01 * arch[1]} for arch in archs])
        return kinds

    apart, together = asked(replace(SPACE, kinds=("d0",))), asked(SPACE)
    assert together[0] == [1, 1, 1, 1]
    assert sorted(apart[0]) == sorted(apart[1]) == [0, 0, 1, 1]  # too few to learn from
    assert apart[2] == apart[3] == [0, 0, 0, 0]
    strategy = Predictor(replace(SPACE, kinds=("d0",)), seed=0, goal=goal, start=scored)
    assert strategy.best_of({(2, 0, 0): {}, (0, 3, 3): {"size": 15.0}}) == (0, 3, 3)  # not what has no score
