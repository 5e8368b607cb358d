"""The funnel: who trains how long in verification, who is stopped, and who is named later, with scripted trainings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save as save_tensors
from torch import nn

from archscout.asked import Methods
from archscout.config import Config
from archscout.execute import Outcome
from archscout.facts import passed_over
from archscout.fit import Recipe
from archscout.plan import Plan
from archscout.propose import Costing, Trials, trial_key
from archscout.proxies import PROXIES
from archscout.run import Run
from archscout.shortlist import Door, pulled, various
from archscout.space import SearchSpace
from archscout.verify import Entrant, choose, verify

SPACE = SearchSpace(
    name="toy", input_shape=(3, 8, 8), classes=2, choices={"a": tuple(range(40))},
    build_from=lambda picks: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)),
    format_of=lambda arch: f"n{arch[0]}", parse_of=lambda text: (int(text[1:]),),
)  # fmt: skip


class Scripted:
    """A pool whose trainings answer at once: `truth` of the architecture, with an interval of `half` around it."""

    def __init__(self, truth: Any, half: float = 0.02) -> None:
        self.truth, self.half, self.jobs = truth, half, []

    def map(self, items: list[dict], timeout: Any = None) -> list[Outcome]:
        self.jobs += [(item["round"], item["arch"][0], item["epochs"]) for item in items]
        return [Outcome(self.answer(item), None, 0.0) for item in items]

    def answer(self, item: dict) -> dict:
        value = self.truth(item["arch"][0])
        return {
            "validation": value, "interval": [value - self.half, value + self.half], "epochs": item["epochs"],
            "seconds": 1.0, "history": [], "state": save_tensors({}),
        }  # fmt: skip


def entrant(number: int, role: str = "finalist", **costs: float) -> Entrant:
    return Entrant(SPACE, (number,), role, costs)


def trained(run: Run, pool: Scripted, entrants: list[Entrant], rounds: int = 2, **options: Any) -> dict[int, dict]:
    plan = Plan(10, len(entrants), 4.0, (1.0, 2.0, 4.0)[:rounds], None, {})
    records = verify(run, entrants, plan, pool, recipe=Recipe(), seed=0, **options)
    return {int(r["arch"][1:]): r for r in records}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    with Run.create(tmp_path / "run", "") as run:
        yield run


def test_what_is_surely_beaten_stops_and_the_better_half_goes_on(run: Run) -> None:
    truth = {0: 0.50, 1: 0.49, 2: 0.48, 3: 0.60, 4: 0.20, 5: 0.58}.__getitem__
    entrants = [entrant(0), entrant(1), entrant(2), entrant(3), entrant(4, "random"), entrant(5, "baseline")]
    pool = Scripted(truth)
    found = trained(run, pool, entrants)
    out = {n: (r["eliminated_after"], r["stopped_by"]) for n, r in found.items()}
    assert out == {
        0: (0, "toy/n3"), 1: (0, "toy/n3"), 2: (0, "toy/n3"), 3: (None, None), 4: (0, "toy/n3"), 5: (None, None),
    }  # fmt: skip
    assert [job[1] for job in pool.jobs if job[0] == 1] == [3, 5]
    assert choose(list(found.values()))["arch"] == "n3"


def test_within_the_intervals_only_the_halving_decides(run: Run) -> None:
    truth = {0: 0.50, 1: 0.51, 2: 0.52, 3: 0.53, 4: 0.49}.__getitem__
    found = trained(run, Scripted(truth), [entrant(0), entrant(1), entrant(2), entrant(3), entrant(4, "random")])
    assert {n: r["eliminated_after"] for n, r in found.items()} == {0: 0, 1: 0, 2: None, 3: None, 4: None}
    assert all(r["stopped_by"] is None for r in found.values())


def test_a_control_that_nobody_would_choose_wins_beyond_chance_only(run: Run) -> None:
    """Within its interval the random one is passed over, and the report says so; the baseline needs no such lead."""
    entrants = [entrant(0), entrant(1), entrant(2, "random"), entrant(3, "baseline")]
    for lead, base, wins in ((0.01, 0.50, "n1"), (0.09, 0.50, "n2"), (0.01, 0.515, "n3")):
        records = [
            {
                "key": e.key, "space": "toy", "arch": e.text, "role": e.role, "costs": {"params": 1.0},
                "rounds": [{"interval": [value - 0.04, value + 0.04]}], "validation": value,
                "eliminated_after": None, "stopped_by": None, "failure": None,
            }
            for e, value in zip(entrants, (0.48, 0.51, 0.51 + lead, base), strict=True)
        ]  # fmt: skip
        won = choose(records)
        assert won["arch"] == wins
        told = passed_over({"verified": records, "winner": {"space": "toy", "arch": won["arch"]}})
        assert (f"{100 * (0.51 + lead - won['validation']):.1f} points higher" in told) == (wins != "n2")
    alone = choose([r for r in records if r["role"] == "random"])
    assert alone["arch"] == "n2"


def test_with_objectives_a_cheaper_network_is_kept(run: Run) -> None:
    """Four finalists, two of them on the front of accuracy and latency; a third objective saves one more control."""
    truth = {0: 0.50, 1: 0.60, 2: 0.55, 3: 0.40, 4: 0.30, 5: 0.30}.__getitem__
    costs = {0: 3.0, 1: 3.0, 2: 4.0, 3: 1.0, 4: 3.5, 5: 3.5}
    sizes = {0: 9.0, 1: 9.0, 2: 9.0, 3: 9.0, 4: 9.0, 5: 1.0}
    roles = dict.fromkeys((4, 5), "random")
    entrants = [entrant(n, roles.get(n, "finalist"), latency=costs[n], params=sizes[n]) for n in costs]
    found = trained(run, Scripted(truth), entrants, objectives=("latency", "params"))
    assert {n for n, r in found.items() if r["eliminated_after"] is None} == {1, 3, 5}
    assert found[2]["stopped_by"] == found[4]["stopped_by"] == "toy/n1"


def test_a_teacher_neither_wins_nor_stops_others(run: Run) -> None:
    truth = {0: 0.50, 1: 0.45, 2: 0.90}.__getitem__
    found = trained(run, Scripted(truth), [entrant(0), entrant(1, "baseline"), entrant(2, "teacher")])
    assert found[0]["stopped_by"] is None
    assert found[1]["stopped_by"] == "toy/n0"
    assert choose(list(found.values()))["arch"] == "n0"


def test_later_waves_train_in_the_first_round_and_a_resumed_run_is_the_same(run: Run) -> None:
    asked = []

    def pull(wave: int, count: int, records: Any) -> list[Entrant]:
        asked.append((wave, count, [r["arch"] for r in records if r["rounds"]]))
        return [entrant(10 + 2 * wave + i) for i in range(count)]

    pool = Scripted(lambda n: 0.5 + 0.001 * n)
    first = trained(run, pool, [entrant(0), entrant(1)], waves=(2, 1), pull=pull)
    assert asked == [(0, 2, ["n0", "n1"]), (1, 1, ["n0", "n1", "n10", "n11"])]
    assert [n for r, n, _ in pool.jobs if r == 0] == [0, 1, 10, 11, 12]
    assert [n for r, n, _ in pool.jobs if r == 1] == [10, 11, 12]  # the better half of five
    before = list(pool.jobs)
    again = trained(run, pool, [entrant(0), entrant(1)], waves=(2, 1), pull=pull)
    assert pool.jobs == before
    assert again == first


def scored_run(run: Run, costing: Costing, count: int = 40) -> list[tuple[int, ...]]:
    """Logged trials whose proxies say: the larger the number, the worse."""
    for number in range(count):
        arch = (number,)
        scores = {"params": float(count - number), "naswot": float(count - number), "zen": float(number % 5)}
        run.record(trial_key(SPACE, arch), {"arch": f"n{number}", "costs": costing(arch), "scores": scores})
    return [(number,) for number in range(count)]


def test_finalists_are_of_several_sizes_before_they_are_the_first_of_the_ranking() -> None:
    sizes = dict(enumerate([100, 110, 50, 300, 170, 480, 20, 1000, 5, 7]))
    costing = Costing(SPACE, {})
    for number, size in sizes.items():
        costing.known[(number,)] = {"params": float(size), "violation": 0.0}
    found = [arch[0] for arch in various(costing, [(number,) for number in sizes])]
    assert found == [0, 2, 3, 4, 1, 5, 6, 7, 8, 9]  # of the better half those apart, then all others in their order
    assert various(costing, [(3,)]) == [(3,)]
    kinds = {"kind": ("a", "b", "c"), "n": tuple(range(10))}
    space = SearchSpace("kinds", (3, 8, 8), 2, kinds, lambda picks: nn.Flatten(), kinds=("kind",))
    costing = Costing(space, {})
    ranked = [(0, 0), (0, 1), (0, 3), (0, 2), (2, 1), (2, 0), (1, 6), (1, 7), (1, 5), (1, 4)]
    for kind, n in ranked:
        costing.known[kind, n] = {"params": float(sizes[n]), "violation": 0.0}
    # the best of kinds a, c and b, then a second size of the better half of a and of b (300 and 1000 are apart)
    assert various(costing, ranked)[:3] == [(0, 0), (2, 1), (1, 6)]
    assert various(costing, ranked) == [*ranked[:1], ranked[4], ranked[6], (1, 7), *ranked[1:4], (2, 0), *ranked[8:]]
    assert various(costing, []) == []


def test_the_order_of_the_ranking_is_by_rank_among_the_own_kind() -> None:
    space = SearchSpace(
        "kinds", (3, 8, 8), 2, {"kind": ("a", "b"), "n": (0, 1, 2, 3)}, lambda picks: nn.Flatten(), kinds=("kind",)
    )
    costing = Costing(space, {})
    trials = Trials(costing)
    for arch in space:
        costing.known[arch] = {"params": 1.0, "violation": 0.0}
        score = 10.0 * arch[0] + arch[1] if arch != (0, 3) else 7.0  # kind b is above kind a throughout
        trials.add(arch, {"scores": {"naswot": score}})
    directions = {"naswot": "max"}
    assert trials.order(directions) == [(1, 3), (0, 3), (1, 2), (0, 2), (1, 1), (0, 1), (1, 0), (0, 0)]
    costing.space = replace(space, kinds=())
    assert trials.order(directions) == [(1, 3), (1, 2), (1, 1), (1, 0), (0, 3), (0, 2), (0, 1), (0, 0)]


def test_each_entrant_trains_in_its_own_precision(run: Run) -> None:
    class Noting(Scripted):
        def answer(self, item: dict) -> dict:
            seen[item["arch"][0]] = item["recipe"].precision
            return super().answer(item)

    seen: dict[int, str] = {}
    found = {0: "32-true", 1: "bf16-mixed"}
    trained(run, Noting(lambda n: 0.5), [entrant(0), entrant(1)], 1, precision=lambda one: found[one.arch[0]])
    assert seen == found


@pytest.mark.parametrize("evidence", [4, 12])
def test_the_predictor_names_networks_that_the_ranking_did_not(run: Run, evidence: int) -> None:
    """What decides is zen alone, one of three proxies; with enough evidence those are named that have it."""
    costing = Costing(SPACE, {})
    ranked = scored_run(run, costing)
    names = {name: PROXIES[name] for name in ("params", "naswot", "zen")}
    methods = Methods("x", SPACE, None, names, tuple(names), "full")
    shown = list(range(evidence))
    records = [
        {"key": f"toy/n{n}", "space": "toy", "arch": f"n{n}", "costs": {},
         "rounds": [{"validation": 0.5 + 0.05 * (n % 5) + 0.0001 * n}]}
        for n in shown
    ]  # fmt: skip
    door = Door(run, Config(data="x", epochs=1.0), None)
    found = pulled(door, costing, methods, ranked, records, 0, 3)
    event = run.recall("pulled/0")
    numbers = [e.arch[0] for e in found]
    assert event["evidence"] == evidence
    assert not set(numbers) & set(shown)
    if evidence == 4:
        assert event["by"] == "aggregate"
        assert numbers == [4, 5, 6]
    else:
        assert event["by"] == "predictor"
        assert np.mean([n % 5 for n in numbers]) > 3
        assert event["ranks"] == [n + 1 for n in numbers]


def test_the_predictor_learns_which_kind_is_good_from_finalists_and_controls(run: Run) -> None:
    """By the proxies kind 0 is above kind 1 throughout; the verified networks of kind 1 are far better."""
    space = SearchSpace(
        "toy", (3, 8, 8), 2, {"kind": (0, 1), "n": tuple(range(20))}, SPACE.build_from,
        format_of=lambda arch: f"n{arch[0]}-{arch[1]}", parse_of=lambda text: tuple(map(int, text[1:].split("-"))),
        kinds=("kind",),
    )  # fmt: skip
    named = {}
    for of in (space, replace(space, kinds=())):
        costing = Costing(of, {})
        log = Run.create(run.folder.parent / f"kinds{len(of.kinds)}", "")
        for kind, n in of:
            scores = dict.fromkeys(("params", "naswot"), 100.0 - 50 * kind - n)
            log.record(
                trial_key(of, (kind, n)), {"arch": f"n{kind}-{n}", "costs": costing((kind, n)), "scores": scores}
            )
        ranked = [(kind, n) for n in range(19) for kind in (0, 1)]  # two are controls, and were never ranked
        records = [
            {"key": f"toy/n{kind}-{n}", "space": "toy", "arch": f"n{kind}-{n}", "costs": {},
             "rounds": [{"validation": 0.4 + 0.3 * kind - 0.001 * n}]}
            for kind in (0, 1) for n in (0, 1, 2, 3, 19)
        ]  # fmt: skip
        methods = Methods("x", of, None, {n: PROXIES[n] for n in ("params", "naswot")}, ("params", "naswot"), "full")
        door = Door(log, Config(data="x", epochs=1.0), None)
        named[of.kinds] = [entrant.arch for entrant in pulled(door, costing, methods, ranked, records, 0, 4)]
        log.close()
    assert named["kind",] == [(1, 4), (1, 5), (1, 6), (1, 7)]
    assert named[()] != named["kind",]


def test_answers_of_a_round_reach_the_selector_of_the_next(run: Run) -> None:
    class Asking(Scripted):
        def answer(self, item: dict) -> dict:
            given.append((item["round"], item["answers"]))
            return {**super().answer(item), "said": np.array([item["arch"][0], 7, 7], dtype=np.uint16)}

    given: list[tuple[int, Any]] = []
    trained(run, Asking(lambda n: 0.5), [entrant(0), entrant(1), entrant(3), entrant(2, "random")])
    assert [answers for number, answers in given if number == 0] == [None] * 4
    last = [answers for number, answers in given if number == 1]
    assert [a.tolist() for a in last] == [[[0, 7, 7], [1, 7, 7], [2, 7, 7]]] * 3  # of those that went on
    assert "said" not in run.recall("verify/0/toy/n0")


def test_the_trainer_asks_where_the_selector_compares() -> None:
    from archscout.data import load
    from archscout.spaces.plain import plain
    from archscout.verify import Trainer, places_at_most

    rng = np.random.default_rng(0)
    data = load((rng.integers(0, 256, (120, 8, 8, 3)).astype(np.uint8), np.arange(120) % 3))
    space = plain(data.shape, 3)
    item = {"space": "plain", "arch": (0, 0), "recipe": Recipe(batch_size=16), "epochs": 0.5, "seconds": None,
            "seed": 0, "round": 0, "state": None, "answers": None, "ask": True}  # fmt: skip
    said = Trainer((space,), data, "accuracy", "disagreement")(item)["said"]
    train = data.part("train")
    assert said.shape == (len(train),)
    assert "said" not in Trainer((space,), data, "accuracy", "random")(item)
    assert "said" not in Trainer((space,), data, "accuracy", "disagreement")({**item, "ask": False})
    again = Trainer((space,), data, "accuracy", "disagreement")(
        {**item, "answers": np.stack([said, 1 - said.clip(0, 1)])}
    )
    assert 0 <= again["interval"][0] <= again["validation"] <= again["interval"][1] <= 1
    assert len(places_at_most(train, 20)) == 20
