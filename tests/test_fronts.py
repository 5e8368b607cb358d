"""What the report says of a choice: the knee of a front, the best under each budget, and the front of accuracy."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from chromium import open_page
from test_page import fake_facts, painted, probed

from archscout import page
from archscout.candidates import Candidates
from archscout.devices.profile import Profile
from archscout.facts import safe_ends
from archscout.fronts import BUDGETS, best_within, budgets_of, knee, pareto, rounded_up
from archscout.page import front
from archscout.page.report import view_of
from archscout.page.words import percent, quantity

pytestmark = pytest.mark.usefixtures("quick_profile")


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """Invented facts; what is predicted is a tenth below its safe end."""
    found = fake_facts(2000)
    return {**found, "safe_ends": {"latency": [1.1 * c["costs"]["latency"] for c in found["candidates"]]}}


def slow_knee(rank: np.ndarray, cost: np.ndarray, log: bool) -> int | None:
    """By the distance of each point from the line through the first and the last, on the side of the better corner."""
    points = [(math.log(c) if log else float(c), float(r)) for c, r in zip(cost, rank, strict=True)]
    (left, worst), (right, best) = points[0], points[-1]
    found, farthest = None, 1e-9
    for place, (x, y) in enumerate(points):
        a, b = (x - left) / (right - left), (y - best) / (worst - best)
        distance = abs(a + b - 1) / math.sqrt(2)  # from the line a + b = 1
        if a + b < 1 and distance > farthest:
            found, farthest = place, distance
    return found


def test_the_knee_is_the_farthest_from_the_chord() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(60):
        rank, cost = rng.permutation(400)[:200] + 1.0, np.exp(rng.normal(0, 2, 200))
        front = pareto(rank, cost)
        for log in (False, True):
            place = knee(rank[front], cost[front], log=log)
            assert place == slow_knee(rank[front], cost[front], log)
            found.append(place)
    assert len(set(found)) > 4
    assert knee(np.array([100.0, 10, 1]), np.array([1.0, 2, 100])) == 1
    assert knee(np.array([100.0, 10, 1]), np.array([1.0, 2, 100]), log=True) == 1
    assert knee(np.array([100.0, 95, 1]), np.array([1.0, 80, 100])) is None  # worse than the line on both axes
    assert knee(np.array([100.0, 55, 1]), np.array([1.0, 20, 100])) == 1
    assert knee(np.array([100.0, 55, 1]), np.array([1.0, 20, 100]), log=True) is None  # the scale decides
    assert knee(np.array([2.0, 1]), np.array([1.0, 2])) is None


def test_the_page_marks_the_knee_and_names_it(facts: dict[str, Any]) -> None:
    view = view_of(facts)
    figure = view["figures"]["front"]
    feasible = [c for c in facts["candidates"] if c["feasible"]]
    choices = {one["axis"]: one for one in next(s for s in view["sections"] if s["key"] == "front")["choices"]}
    assert list(choices) == list(figure["views"]) == ["latency", "memory", "params", "macs"]
    html = page.render(facts)
    for axis, choice in choices.items():
        cost = np.array([c["costs"][axis] for c in feasible])
        rank = np.array([c["rank"] for c in feasible], float)
        front = pareto(rank, cost)
        shown = figure["views"][axis]
        place = slow_knee(rank[front], cost[front], shown["xaxis"]["type"] == "log")
        assert place is not None
        winner = feasible[front[place]]
        assert choice["knee"]["arch"] == winner["arch"]
        assert shown["knee"]["y"] == [winner["rank"]]
        assert shown["knee"]["x"] == [pytest.approx(winner["costs"][axis], rel=1e-3)]
        assert f"rank {winner['rank']}" in shown["knee"]["text"][0]
        assert f'The knee of the front is <span class="arch">{winner["arch"]}</span>: rank {winner["rank"]:,}' in html
    mark = figure["data"][figure["knee"]]
    assert mark["name"] == "knee"
    assert mark["y"] == figure["views"]["latency"]["knee"]["y"]


def test_a_front_without_a_knee_says_so() -> None:
    pool = [
        {"arch": f"net{k}", "rank": rank, "costs": {"macs": cost}, "scores": {}, "front": True}
        for k, (cost, rank) in enumerate([(1.0, 100), (8.0, 95), (10.0, 1)])
    ]
    view = view_of({"candidates": pool, "cost_axis": "macs"})
    assert "knee" not in {trace["name"] for trace in view["figures"]["front"]["data"]}
    assert view["figures"]["front"]["knee"] is None
    assert "This front has no knee" in page.render({"candidates": pool, "cost_axis": "macs"})


def test_safe_ends_of_columns_are_those_of_the_profile() -> None:
    rows = [
        {"latency": 2.0, "energy": 3.0, "power": 1.5, "params": 10.0},
        {"latency": 4.0, "energy": 1.0, "power": 0.25},
    ]
    own = [{**rows[0], "latency_high": 2.5, "energy_high": 4.5}, {**rows[1], "latency_high": 9.0, "energy_high": 2.0}]
    profile: Any = SimpleNamespace(
        half_width=0.3, restless=0.4, energy_half_width=0.2, energy_terms={"a": 1.0}, few={"energies": {"b": 1.0}}
    )
    profile.upper = partial(Profile.upper, profile)
    for some in (rows, own):
        pool = Candidates()
        for row in some:
            pool.add({"arch": "a", "costs": {**row, "violation": 0.0}})
        found = safe_ends(pool, profile)
        assert set(found) == {"latency", "energy", "power"}
        for name, column in found.items():
            assert column.tolist() == pytest.approx([profile.upper(row)[name] for row in some])
        assert found["latency"][0] > 2.4
    assert safe_ends(pool, None) == {}


def test_budgets_are_quantiles_and_the_limit() -> None:
    costs = np.random.default_rng(0).lognormal(1, 1, 5000)
    found = budgets_of(np.r_[costs, np.nan], 3.0)
    assert [share for _, share in found if share is not None] == list(BUDGETS)
    assert (3.0, None) in found
    assert found == sorted(found, key=lambda one: one[0])
    for budget, share in found:
        if share is not None:
            assert np.mean(costs <= budget) == pytest.approx(share, abs=0.01)
            assert float(f"{budget:.3g}") == budget
    assert budgets_of(np.full(9, 7.0), None) == [(7.0, BUDGETS[0])]
    assert [rounded_up(v) for v in (1.2301, 1230.0, 123456.0, 0.00999)] == [1.24, 1230.0, 124000.0, 0.00999]
    assert best_within(np.array([3.0, 1, 2]), np.array([1.0, 9, 2]), 5.0) == 2
    assert best_within(np.array([3.0]), np.array([1.0]), 0.5) is None


def test_the_best_under_each_budget(facts: dict[str, Any]) -> None:
    """Against a loop over candidates and entrants: validation first, at the safe end of each cost."""
    middle = {axis: np.median([c["costs"][axis] for c in facts["candidates"]]) for axis in ("latency", "params")}
    dear = [e for e in facts["entrants"] if all(e["costs"][axis] > middle[axis] for axis in middle)]
    assert len(dear) > 1
    facts = {**facts, "entrants": dear}
    rows = {c["axis"]: c["rows"] for c in front.section(facts, {})["choices"]}  # type: ignore[index]
    feasible = [c for c in facts["candidates"] if c["feasible"]]
    kinds = set()
    for axis in ("latency", "params"):
        doubt = 0.1 if axis == "latency" else 0.0
        limit = facts["summary"]["limits"][axis]
        budgets = budgets_of(np.array([c["costs"][axis] for c in feasible]), limit)
        assert len(rows[axis]) == len(budgets) == 6
        assert [row["limit"] for row in rows[axis]].count(True) == 1
        for (budget, _), row in zip(budgets, rows[axis], strict=True):
            inside = [c for c in feasible if c["costs"][axis] * (1 + doubt) <= budget]
            known = [
                (e["rounds"][-1]["validation"], e["arch"])
                for e in facts["entrants"]
                if e["rounds"] and (e["measured_latency"] if axis == "latency" else e["costs"][axis]) <= budget
            ]
            assert row["budget"] == quantity(budget, axis)
            if known:
                assert (row["merit"], row["arch"]) == (percent(max(known)[0]), max(known)[1])
            else:
                best = min(inside, key=lambda c: c["rank"])
                assert (row["merit"], row["arch"]) == (f"rank {best['rank']:,}", best["arch"])
                assert row["params"] == quantity(best["costs"]["params"], "params")
                assert row["most"] == (quantity(best["costs"][axis] * 1.1, axis) if doubt else "")
            kinds.add(bool(known))
    assert kinds == {True, False}
    html = page.render(facts)
    assert "The best under each budget on latency" in html
    assert "after 6 epochs" in html
    assert "your limit" in html


def test_a_budget_holds_at_the_safe_end() -> None:
    pool = [
        {"arch": arch, "rank": rank, "costs": {"latency": cost, "params": 5.0}, "scores": {}}
        for arch, rank, cost in (("fast", 2, 3.0), ("near", 1, 4.9))
    ]
    base = {"candidates": pool, "cost_axis": "latency", "summary": {"limits": {"latency": 5.0}}}

    def at_limit(**more: Any) -> dict[str, Any]:
        rows = front.section({**base, **more}, {})["choices"][0]["rows"]  # type: ignore[index]
        return next(row for row in rows if row["limit"])

    assert at_limit()["arch"] == "near"
    assert at_limit(safe_ends={"latency": [3.3, 5.4]})["arch"] == "fast"
    assert at_limit(safe_ends={"latency": [6.0, 5.4]})["arch"] is None
    entrant = {"arch": "slow", "role": "finalist", "costs": {"latency": 1.0}, "rounds": [{"validation": 0.9}]}
    inside = {"latency": {"value": 4.0, "most": 4.5, "measured": True}}
    beyond = {"latency": {"value": 4.0, "most": 5.5, "measured": True}}
    assert at_limit(entrants=[{**entrant, "timed": inside}])["merit"] == percent(0.9)
    assert at_limit(entrants=[{**entrant, "timed": beyond}])["merit"] == "rank 1"
    assert at_limit(entrants=[{**entrant, "role": "teacher", "timed": inside}])["merit"] == "rank 1"
    html = page.render({**base, "safe_ends": {"latency": [6.0, 5.4]}})
    assert "none is surely within" in html


def test_the_front_of_accuracy(facts: dict[str, Any]) -> None:
    import plotly.graph_objects as go

    teacher = {**facts["entrants"][0], "arch": "known", "role": "teacher", "measured_latency": 0.5}
    teacher["rounds"] = [{"epochs": 12, "validation": 0.99}]
    shown = {**facts, "entrants": [*facts["entrants"], teacher]}
    figure = view_of(shown)["figures"]["accuracy"]
    go.Figure(data=painted(figure["data"]), layout=painted(figure["layout"]))
    points = [
        (e["measured_latency"], e["rounds"][-1]["validation"])
        for e in facts["entrants"]
        if e["rounds"] and not e["failure"]
    ]
    best = sorted(p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points))
    line, *others = figure["data"]
    assert line["x"] == [cost for cost, _ in best]
    assert line["y"] == pytest.approx([100 * value for _, value in best])
    drawn = {x for trace in others for x in trace["x"]}
    assert drawn == {cost for cost, _ in points} | {0.5}  # a teacher is drawn, and not joined
    assert figure["layout"]["shapes"][0]["x0"] == 5.0
    low, high = figure["layout"]["xaxis"]["range"]
    assert low <= 0.5 < 5.0 < high
    assert "measured latency" in figure["layout"]["xaxis"]["title"]["text"]
    assert "Accuracy against latency" in page.render(shown)
    alone = {**facts, "entrants": facts["entrants"][:1]}
    assert "accuracy" not in view_of(alone)["figures"]
    by_macs = {**facts, "cost_axis": "macs", "summary": {**facts["summary"], "limits": {}}}
    figure = view_of(by_macs)["figures"]["accuracy"]
    assert figure["layout"]["shapes"] == []
    assert figure["layout"]["xaxis"]["title"]["text"] == "multiply-adds for one image"


def test_ends_of_intervals_are_no_axes_of_their_own(facts: dict[str, Any]) -> None:
    pool = [
        {**c, "costs": {**c["costs"], "latency_high": 1.2 * c["costs"]["latency"]}} for c in facts["candidates"][:50]
    ]
    section = front.section({**facts, "candidates": pool}, {})
    assert "latency_high" not in section["axes"]  # type: ignore[index]


def test_browser_switches_the_knee_and_the_budgets_with_the_cost(facts: dict[str, Any], tmp_path: Path) -> None:
    script = """
    const open = () => [...document.querySelectorAll("[data-cost]")].filter((part) => !part.hidden)
      .map((part) => [part.dataset.cost, getComputedStyle(part).display]);
    const mark = () => document.querySelector('[data-figure="front"]').data.find((trace) => trace.name === "knee");
    const seen = [[open(), [...mark().y]]];
    const select = document.getElementById("cost");
    select.value = "macs";
    select.dispatchEvent(new Event("change"));
    seen.push([open(), [...mark().y]]);
    document.title = JSON.stringify(seen);
    """
    path = tmp_path / "probed.html"
    path.write_text(probed(page.render(facts), script), encoding="utf-8")
    opened = open_page(path, width=900)
    assert opened.console == []
    title = re.search(r"<title>(.*?)</title>", opened.dom)
    assert title is not None
    views = view_of(facts)["figures"]["front"]["views"]
    assert json.loads(title[1]) == [
        [[["latency", "block"]], views["latency"]["knee"]["y"]],
        [[["macs", "block"]], views["macs"]["knee"]["y"]],
    ]
