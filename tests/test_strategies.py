"""Strategies: same asks for same tells, better than chance, and the front of a toy problem."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from archscout.errors import UserError
from archscout.rows import Rows
from archscout.space import Arch, SearchSpace
from archscout.strategies import STRATEGIES
from archscout.strategies.evolution import Evolution
from archscout.strategies.nsga2 import NSGA2
from archscout.strategies.prune import Prune, place_rows, score_row, score_rows, worst
from archscout.strategies.reinforce import Reinforce
from archscout.strategies.strategy import Goal

SCORES = Goal(scores={"total": "max"})
BOTH = Goal(scores={"total": "max"}, costs=("price",))


def space(decisions: int = 8, options: int = 6, canonical=None) -> SearchSpace:
    return SearchSpace(
        name="toy",
        input_shape=(1, 2, 2),
        classes=2,
        choices={f"d{i}": tuple(range(options)) for i in range(decisions)},
        build_from=lambda picks: nn.Identity(),
        canonical_of=canonical,
    )


def outcome(arch: Arch, limit: float = 24.0) -> dict[str, float]:
    """The sum of the indices is to be large; so is the price that is limited, the second decision costing double."""
    price = float(sum(arch) + arch[1])
    excess = max(0.0, price - limit) / limit
    return {"price": price, "violation": excess, **({} if excess else {"total": float(sum(arch))})}


def search(strategy, evaluations: int, generation: int, evaluate=outcome) -> list[tuple[Arch, Mapping[str, float]]]:
    seen = []
    while len(seen) < evaluations:
        archs = strategy.ask(generation)
        values = [evaluate(arch) for arch in archs]
        strategy.tell(archs, values)
        seen += zip(archs, values, strict=True)
    return seen


def best(seen) -> float:
    return max(value.get("total", 0.0) for _, value in seen)


def test_registry_is_the_folder() -> None:
    import archscout.strategies as package

    files = {path.stem for path in Path(package.__path__[0]).glob("*.py")} - {"__init__", "strategy"}
    assert files == set(STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("generation", [1, 7, 32])
def test_asks_are_canonical_members_and_global_state_stays(name, generation) -> None:
    toy = space(canonical=lambda arch: (*arch[:-1], 0) if arch[0] == 0 else arch)
    np.random.seed(3)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    seen = search(STRATEGIES[name](toy, seed=1, goal=BOTH), 200, generation)
    assert all(arch in toy and toy.canonical(arch) == arch for arch, _ in seen)
    assert all(type(index) is int for arch, _ in seen for index in arch)
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("name", STRATEGIES)
def test_same_seed_and_tells_give_same_asks(name) -> None:
    make = STRATEGIES[name]
    np.random.seed(1)
    one = search(make(space(), seed=5, goal=BOTH), 300, 20)
    np.random.seed(2)
    assert search(make(space(), seed=5, goal=BOTH), 300, 20) == one
    assert search(make(space(), seed=6, goal=BOTH), 300, 20) != one


@pytest.mark.parametrize("name", ["evolution", "nsga2", "prune"])
def test_other_tells_give_other_asks(name) -> None:
    def reverse(arch: Arch) -> dict[str, float]:
        return {"price": 1.0, "violation": 0.0, "total": -float(sum(arch))}

    make = STRATEGIES[name]
    one, other = (search(make(space(), seed=5, goal=BOTH), 300, 20, each) for each in (outcome, reverse))
    assert [arch for arch, _ in one[:40]] == [arch for arch, _ in other[:40]]  # random until enough was told
    assert [arch for arch, _ in one[-20:]] != [arch for arch, _ in other[-20:]]


def test_asks_do_not_depend_on_the_hash_seed() -> None:
    code = (
        "import test_strategies as t\n"
        "for name, make in t.STRATEGIES.items():\n"
        "    print(t.search(make(t.space(), seed=5, goal=t.BOTH), 160, 16))"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        )
        for hash_seed in ("0", "1")
    ]
    printed = {child.communicate()[0] for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert len(printed) == 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_wrong_tells_are_refused_and_change_nothing(name) -> None:
    strategy, twin = (STRATEGIES[name](space(), seed=0, goal=BOTH) for _ in range(2))
    with pytest.raises(ValueError, match="only 0 are asked"):
        strategy.tell([(0,) * 8], [outcome((0,) * 8)])
    archs = strategy.ask(3)
    values = [outcome(arch) for arch in archs]
    with pytest.raises(ValueError, match="3 architectures with 2 values"):
        strategy.tell(archs, values[:2])
    with pytest.raises(ValueError, match="order of asking"):
        strategy.tell(archs[::-1], values)
    strategy.tell(archs[:1], values[:1])  # in parts is fine
    strategy.tell(archs[1:], values[1:])
    with pytest.raises(ValueError, match="only 0 are asked"):
        strategy.tell(archs, values)
    twin.tell(twin.ask(3), values)
    assert strategy.ask(3) == twin.ask(3)


@pytest.mark.parametrize("name", ["evolution", "nsga2", "prune", "reinforce"])
def test_better_than_chance(name) -> None:
    """At 400 evaluations of 6**12 architectures, over five seeds; the best feasible total is 57."""

    def evaluate(arch: Arch) -> dict[str, float]:
        return outcome(arch, limit=58.0)

    pytest.importorskip("archscout.aggregate")
    found = {
        each: [
            best(search(STRATEGIES[each](space(12), seed=seed, goal=SCORES), 400, 20, evaluate)) for seed in range(5)
        ]
        for each in (name, "random")
    }
    assert min(found[name]) > max(found["random"])


def test_direction_min_is_kept() -> None:
    pytest.importorskip("archscout.aggregate")
    goal = Goal(scores={"total": "min"})
    for name in ("evolution", "nsga2", "reinforce"):
        seen = search(STRATEGIES[name](space(), seed=0, goal=goal), 400, 20)
        assert np.mean([sum(arch) for arch, _ in seen[-40:]]) < 8 < 15 < np.mean([sum(arch) for arch, _ in seen[:40]])


def test_evolution_ages_and_takes_in_candidates_only() -> None:
    pytest.importorskip("archscout.aggregate")
    strategy = Evolution(space(), seed=0, goal=SCORES, population=4, tournament=2)
    archs = strategy.ask(9)
    values = [{"violation": 0.0, "total": float(i)} for i in range(9)]
    values[1] = {"violation": 0.5}  # infeasible
    values[2] = {"violation": 0.0}  # failed
    values[3] = {"violation": 0.0, "total": float("nan")}
    strategy.tell(archs, values)
    assert [arch for arch, _ in strategy._members] == archs[5:]  # 0 and 4 were good, and are too old
    children = strategy.ask(200)
    distances = [min(int(np.sum(np.array(child) != parent)) for parent in archs[5:]) for child in children]
    assert distances[0] == 1
    assert distances.count(1) > 80
    assert len(set(children)) > 150  # proposes afresh while there is something new nearby


@pytest.mark.parametrize("name", ["evolution", "nsga2"])
def test_no_architecture_stands_twice_in_a_population(name: str) -> None:
    """Of 64 networks 7 are within the limits: they are proposed again and again, and told as what they are."""

    def members() -> list[Arch]:
        return [tuple(m.X.tolist()) if name == "nsga2" else m[0] for m in strategy._members]

    strategy = STRATEGIES[name](space(3, 4), seed=0, goal=SCORES, population=16)
    met, most = set(), 0
    for _ in range(30):
        seen = search(strategy, 8, 8, lambda arch: outcome(arch, limit=2.0))
        strategy.ask(0)  # takes in what was told
        assert len(set(members())) == len(members()) <= 16
        met |= {arch for arch, value in seen if "total" in value}
        most = max(most, sum(outcome(arch, limit=2.0)["violation"] == 0 for arch in members()))
    assert len(met) == most  # each that was met came in, and none drove another out


def test_reinforce_learns_once_from_what_scored_and_again_from_what_did_not() -> None:
    strategy = Reinforce(space(), seed=0, goal=SCORES)

    def steps(arch: Arch, value: Mapping[str, float]) -> int:
        strategy._open.ask([arch])
        strategy._drawn.append(arch)
        strategy.tell([arch], [value])
        return strategy._steps

    assert [steps((1,) * 8, {"total": 3.0}) for _ in range(3)] == [1, 1, 1]
    assert [steps((2,) * 8, {"violation": 0.5}) for _ in range(2)] == [2, 3]
    assert [steps((3,) * 8, {"skipped": 1.0}), steps((3,) * 8, {"total": 2.0})] == [3, 4]


def test_evolution_learns_nothing_from_what_it_was_told_before() -> None:
    strategy = Evolution(space(), seed=0, goal=SCORES, population=4, tournament=4)
    archs = strategy.ask(6)
    strategy.tell(archs, [{"total": float(i)} for i in range(6)])
    for arch in (archs[2], archs[0], archs[2]):  # a member, one too old to be one, the member
        strategy._open.ask([arch])
        strategy.tell([arch], [{"total": 9.0}])
        assert [arch for arch, _ in strategy._members] == archs[2:]  # nobody has aged
        assert strategy._parent() == archs[5]


@pytest.mark.parametrize("name", ["evolution", "nsga2"])
def test_few_candidates_that_come_again_and_again_are_improved_all_the_same(name: str) -> None:
    """The draws are always the same two; so many outcomes, not so many members, begin the mutations."""
    toy = replace(space(), sample_of=lambda rng: (int(rng.integers(2)),) + (0,) * 7)
    strategy = STRATEGIES[name](toy, seed=0, goal=SCORES, population=20)
    seen = search(strategy, 400, 1, lambda arch: outcome(arch, limit=12.0))
    assert {arch[1:] for arch, _ in seen[:20]} == {(0,) * 7}
    assert best(seen) >= 11


@pytest.mark.parametrize("name", ["evolution", "nsga2"])
def test_what_a_space_calls_typical_is_proposed_first(name: str) -> None:
    drawn = replace(space(), typical=((0,) * 8, (1,) * 8))
    assert STRATEGIES[name](drawn, seed=0, goal=SCORES).ask(3)[:2] == list(drawn.typical)
    asked = STRATEGIES[name](drawn, seed=0, goal=SCORES, start=[(2,) * 8]).ask(3)
    assert asked[0] == (2,) * 8
    assert not set(asked) & set(drawn.typical)


def test_evolution_prefers_good_parents() -> None:
    """With a tournament over the whole population each parent is the best member."""
    pytest.importorskip("archscout.aggregate")
    strategy = Evolution(space(), seed=0, goal=SCORES, population=10, tournament=10)
    archs = strategy.ask(10)
    strategy.tell(archs, [{"violation": 0.0, "total": float(i == 6)} for i in range(10)])
    assert {strategy._parent() for _ in range(20)} == {archs[6]}


def test_evolution_improves_every_kind_of_network_by_proxies_and_the_best_of_all_by_accuracy() -> None:
    """All networks of the second kind score higher; each decision but the first adds to a score."""
    kinds = replace(space(), kinds=("d0",))

    def evaluate(arch: Arch) -> dict[str, float]:
        return {"violation": 0.0, "total": 1000.0 * (arch[0] == 1) + sum(arch[1:])}

    def found(kinds: SearchSpace, goal: Goal) -> dict[int, list[Arch]]:
        seen = search(Evolution(kinds, seed=0, goal=goal, population=20, tournament=5), 600, 10, evaluate)
        return {kind: [arch for arch, _ in seen[200:] if arch[0] == kind] for kind in range(6)}

    apart = found(kinds, SCORES)
    together = found(space(), SCORES)
    by_accuracy = found(kinds, replace(SCORES, proxies={"macs": "max"}))
    assert by_accuracy == together
    assert len(together[1]) > 300 > 150 > max(len(apart[kind]) for kind in range(6))
    assert min(len(apart[kind]) for kind in range(6)) > 30


def test_small_space_is_walked_through() -> None:
    pytest.importorskip("archscout.aggregate")
    toy = space(3, 4)
    strategy = Evolution(toy, seed=0, goal=SCORES, population=10, tournament=3)
    seen = search(strategy, 250, 10, lambda arch: {"violation": 0.0, "total": float(sum(arch))})
    assert {arch for arch, _ in seen} == set(toy)


def dominates(a, b) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def front(points) -> set:
    points = set(points)
    return {p for p in points if not any(dominates(q, p) for q in points)}


def test_nsga2_finds_the_front_by_brute_force() -> None:
    """6**5 architectures with two conflicting objectives under a limit; the front is known by looking at all."""
    toy = space(5, 6)

    def evaluate(arch: Arch) -> dict[str, float]:
        gain = sum(min(index, 3) * (place + 1) for place, index in enumerate(arch))
        price = float(sum(index**2 for index in arch) + arch[0])
        over = max(0.0, price - 30) / 30
        return {"price": price, "violation": over, **({} if over else {"total": float(gain)})}

    def point(value: Mapping[str, float]) -> tuple[float, float]:
        return (-value["total"], value["price"])

    truth = front(point(v) for arch in toy if not (v := evaluate(arch))["violation"])
    assert len(truth) > 15
    recall, by_chance = [], []
    for seed in range(3):
        seen = search(NSGA2(toy, seed=seed, goal=BOTH), 1500, 50, evaluate)
        recall.append(len(truth & {point(v) for _, v in seen if not v["violation"]}) / len(truth))
        seen = search(STRATEGIES["random"](toy, seed=seed, goal=BOTH), 1500, 50, evaluate)
        by_chance.append(len(truth & {point(v) for _, v in seen if not v["violation"]}) / len(truth))
    assert min(recall) >= 0.9, (recall, by_chance)
    assert max(by_chance) < min(recall)


def test_nsga2_survival_is_by_feasibility_then_front_then_room() -> None:
    strategy = NSGA2(space(), seed=0, goal=BOTH, population=4)
    archs = strategy.ask(7)
    totals_prices = [
        (0, 0),
        (2, 1),
        (3, 2.9),
        (3.1, 3),
        (9, 9),
        (1, 5),
    ]  # the last is dominated; 2 and 3 are neighbours
    values = [{"violation": 0.0, "total": t, "price": p} for t, p in totals_prices]
    values.append({"violation": 0.1, "price": 0.0})
    strategy.tell(archs, values)
    strategy.ask(1)
    kept = {tuple(int(i) for i in member.X) for member in strategy._members}
    assert {archs[0], archs[1], archs[4]} < kept
    assert len(kept & {archs[2], archs[3]}) == 1
    few = NSGA2(space(), seed=0, goal=BOTH, population=4)
    archs = few.ask(6)
    few.tell(archs, [{"violation": v, "price": 1.0} for v in (0.3, 0.1, 0.5, 0.2, 0.4)] + [{"price": 1.0}])
    few.ask(1)
    assert [tuple(m.X) for m in few._members] == [archs[1], archs[3], archs[0], archs[4]]
    assert few._places == [0, 1, 2, 3]


def test_nsga2_climbs_out_of_the_infeasible() -> None:
    """Only 1 in some ten thousand random architectures is feasible; violations lead there."""
    toy = space(12, 6)
    seen = search(NSGA2(toy, seed=0, goal=BOTH), 1200, 40, lambda arch: outcome(arch, limit=8.0))
    assert not any("total" in value for _, value in seen[:40])
    assert best(seen) >= 7


def test_prune_drops_the_worst_option_of_every_decision() -> None:
    """Additive scores: each round drops the lowest index, and the last architecture is the best of the space."""
    toy = space(3, 4)

    def evaluate(arch: Arch) -> dict[str, float]:
        return {"total": float(sum(arch))}

    def make() -> Prune:
        return Prune(toy, seed=0, goal=SCORES, samples=8, share=1, retries=0)

    strategy = make()
    first = [arch for arch, _ in search(strategy, 8 * 12, 12, evaluate)]
    for decision in range(3):
        assert np.bincount([arch[decision] for arch in first]).tolist() == [24] * 4  # dealt equally often
    assert {min(arch) for arch in strategy.ask(30)} == {1, 2, 3}
    assert strategy._alive == [[1, 2, 3]] * 3
    asked = [arch for arch, _ in search(make(), 600, 12, evaluate)]
    again = next(place for place, arch in enumerate(asked) if place >= 96 and 0 in arch)  # all options are back
    assert (3, 3, 3) in asked[again - 3 : again]
    assert 96 + 72 + 48 > again > 96 + 12


def test_prune_begins_with_the_clearest_decision() -> None:
    strategy = Prune(space(4, 3), seed=0, goal=SCORES, samples=6, share=0.25)
    search(strategy, 72, 72, lambda arch: {"total": float(10 * (arch[2] != 1) + arch[0])})
    strategy.ask(1)
    assert strategy._alive == [[0, 1, 2], [0, 1, 2], [0, 2], [0, 1, 2]]


def test_prune_judges_an_option_by_its_better_half() -> None:
    drawn, places = np.array([0, 0, 0, 0, 1, 1, 1, 1]), np.array([1.0, 2, 9, 9, 3, 4, 5, 6])
    assert worst(drawn, places, [0, 1]) == (2.0, 1)  # 1.5 and 3.5
    assert worst(drawn, places, [0, 1, 2])[1] == 2  # never seen


def test_prune_asks_the_last_one_left_and_starts_again() -> None:
    toy = space(2, 2)
    strategy = Prune(toy, seed=0, goal=SCORES)
    archs = strategy.ask(6)
    assert set(archs) == set(toy)
    strategy.tell(archs, [{"total": float(2 * arch[0] - arch[1])} for arch in archs])
    assert strategy.ask(1) == [(1, 0)]
    assert len(set(strategy.ask(8))) > 1
    assert strategy._samples >= 1


def test_prune_places_candidates_before_infeasible_before_failed() -> None:
    values = [
        {"violation": 0.5}, {"violation": 0.0, "total": 3.0}, {"violation": 0.0}, {"violation": 0.1},
        {"violation": 0.0, "total": 7.0}, {"violation": 0.0, "total": float("nan")}, {"violation": 0.5},
    ]  # fmt: skip
    two = Goal(scores={"total": "max", "absent": "max"})  # a score that no architecture has does not count
    for goal in (SCORES, two):
        kept = Rows()
        for value in values:
            kept.append(value)
        rows = score_rows(kept, range(len(values)), goal)
        np.testing.assert_array_equal(rows, [score_row(value, goal) for value in values])
        assert place_rows(rows, goal, [()] * 7).tolist() == [4.5, 2, 6.5, 3, 1, 6.5, 4.5]
        np.testing.assert_array_equal(score_rows(kept, [4, 1], goal), rows[[4, 1]])


def test_places_are_among_the_own_kind_by_proxies_and_among_all_by_accuracy() -> None:
    rows = np.array([[0, 9.0], [0, 8.0], [0, 7.0], [0.5, np.nan], [0, 2.0], [0, 1.0], [np.inf, np.nan]])
    kinds = [0, 0, 0, 0, 1, 1, 1]
    assert place_rows(rows, SCORES, kinds).tolist() == pytest.approx([1.33, 3, 4.67, 6, 1.75, 4.25, 7], abs=0.01)
    by_accuracy = replace(SCORES, proxies={"macs": "max"})
    assert place_rows(rows, by_accuracy, kinds).tolist() == [1, 2, 3, 6, 4, 5, 7]


@pytest.mark.parametrize("make", [Prune, Reinforce])
def test_no_kind_is_given_up_for_scores_that_set_kinds_apart(make) -> None:
    """The second option of the first decision scores far higher; where it makes another kind, that says nothing."""

    def share(kinds: tuple[str, ...]) -> float:
        found = []
        for seed in range(4):
            strategy = make(replace(space(options=3), kinds=kinds), seed=seed, goal=SCORES)
            found += search(
                strategy, 160, 8, lambda arch: {"violation": 0.0, "total": 100 * (arch[0] == 1) + sum(arch)}
            )
        return float(np.mean([arch[0] == 1 for arch, _ in found]))

    assert share(()) > 0.5
    assert share(("d0",)) < 0.45


def test_prune_meets_limits_that_chance_does_not() -> None:
    """Hardly any of 6**12 architectures is feasible at random; an option's violations count against it."""

    def evaluate(arch: Arch) -> dict[str, float]:
        return outcome(arch, limit=8.0)

    for seed in range(3):
        assert best(search(Prune(space(12), seed=seed, goal=SCORES), 400, 20, evaluate)) >= 7
        assert best(search(STRATEGIES["random"](space(12), seed=seed, goal=SCORES), 400, 20, evaluate)) == 0


def test_arguments_are_checked() -> None:
    with pytest.raises(UserError, match="above 0"):
        Prune(space(), seed=0, goal=SCORES, samples=0)
    with pytest.raises(UserError, match="share"):
        Prune(space(), seed=0, goal=SCORES, share=1.5)
    with pytest.raises(UserError, match="tournament <= population"):
        Evolution(space(), seed=0, goal=SCORES, population=3, tournament=4)
    with pytest.raises(UserError, match="at least 2"):
        NSGA2(space(), seed=0, goal=SCORES, population=1)
    with pytest.raises(UserError, match="score or cost"):
        NSGA2(space(), seed=0, goal=Goal(scores={}))
