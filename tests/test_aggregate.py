"""rank_pool against a plain-loop version, its edge cases, its speed, and degenerate picks."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archscout.aggregate import INPUTS, MODIFIERS, aggregate, rank_among_kinds, rank_pool, rank_rows
from archscout.errors import UserError

WAYS = {"a": "max", "b": "min", "c": "max"}
MODIFIED = {**WAYS, "short_path": "min"}


def slow(values: list[dict[str, float]], ways: dict[str, str], share: float) -> list[int]:
    """Written from the definition: mean rank of each score by counting, sum of logarithms, then counting again."""
    there = [name for name in ways if any(math.isfinite(v.get(name, math.nan)) for v in values)]
    main, extra = ([name for name in there if (name in MODIFIERS) == modifies] for modifies in (False, True))
    if ways and not there:
        return [1] * len(values)
    whole = [v for v in values if all(name in v and math.isfinite(v[name]) for name in main)]

    def number(member: dict[str, float], name: str) -> float:
        value = member.get(name, math.nan)
        return (1 if ways[name] == "max" else -1) * value if math.isfinite(value) else -math.inf

    def place(found: list[float], mine: float) -> float:
        below, equal = sum(x < mine for x in found), sum(x == mine for x in found)
        return (below + (equal + 1) / 2) / len(found)

    def share_of(member: dict[str, float], name: str) -> float:
        return place([number(other, name) for other in whole], number(member, name))

    def logs(member: dict[str, float]) -> float:
        return round(sum(math.log(share_of(member, name)) for name in main), 9)

    def key(member: dict[str, float]) -> tuple[bool, float]:
        poor = any(share_of(member, name) <= share for name in main)
        total = logs(member)
        if extra:
            ease = sum(share_of(member, name) for name in extra) / len(extra)
            capacity = place([logs(other) for other in whole], total)
            total = capacity * (1 + capacity * ease) if main else ease
        return poor, -round(total, 9)

    keys = [key(v) for v in whole]
    found = iter([1 + sum(other < mine for other in keys) for mine in keys])
    return [next(found) if any(v is w for w in whole) else len(whole) + 1 for v in values]


names = st.sampled_from([*"abcd", "short_path"])
members = st.lists(st.dictionaries(names, st.integers(-3, 3).map(float) | st.just(math.nan)), max_size=12)


@settings(max_examples=150, deadline=None)
@given(members, st.sampled_from([WAYS, MODIFIED, {"short_path": "min"}, {}]), st.sampled_from([0.0, 0.1, 0.5]))
def test_equals_the_slow_version(values: list[dict[str, float]], ways: dict[str, str], share: float) -> None:
    assert rank_pool(values, ways, share).tolist() == slow(values, ways, share)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30))
def test_any_increasing_change_of_scale_and_any_order_leave_the_ranks(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, 3))
    values = [dict(zip("abc", row, strict=True)) for row in table]
    ranks = rank_pool(values, WAYS)
    bent = [{"a": math.exp(v["a"]), "b": 5 * v["b"] + 3, "c": v["c"] ** 3} for v in values]
    assert (rank_pool(bent, WAYS) == ranks).all()
    order = rng.permutation(n)
    assert (rank_pool([values[i] for i in order], WAYS) == ranks[order]).all()


def test_one_proxy_gives_its_own_order_with_ties() -> None:
    values = [{"a": v} for v in (3.0, 1.0, 3.0, 2.0)]
    assert rank_pool(values, {"a": "max"}).tolist() == [1, 4, 1, 3]
    assert rank_pool(values, {"a": "min"}).tolist() == [3, 1, 3, 2]


def test_empty_single_and_missing() -> None:
    assert rank_pool([], WAYS).tolist() == []
    assert rank_pool([{"a": 1, "b": 2, "c": 3}], WAYS).tolist() == [1]
    assert rank_pool([{}], WAYS).tolist() == [1]
    assert rank_pool([{"a": 1}, {}], {}).tolist() == [1, 1]
    whole = {"a": 0.0, "b": 0.0, "c": 0.0}
    values = [{"a": 9.0, "b": -9.0}, whole, {**whole, "a": math.inf}, {**whole, "a": -1.0}]
    assert rank_pool(values, WAYS).tolist() == [3, 1, 3, 2]


def test_a_modifier_decides_among_equals_and_cannot_save_the_incapable() -> None:
    members = [{"a": a, "short_path": p} for a, p in ((1.0, 1.0), (2.0, 8.0), (2.0, 5.0), (3.0, 9.0))]
    ways = {"a": "max", "short_path": "min"}
    # C = 1/4, 5/8, 5/8, 1 and R = 1, 1/2, 3/4, 1/4: scores .31, .82, .92, 1.25.
    assert rank_pool(members, ways).tolist() == [4, 3, 2, 1]
    assert rank_pool(members, {"short_path": "min"}).tolist() == [1, 3, 2, 4]
    del members[2]["short_path"]  # counts as the worst by it
    assert rank_pool(members, ways).tolist() == [4, 2, 3, 1]


def test_aggregate_reads_its_inputs_alone() -> None:
    rng = np.random.default_rng(0)
    values = [dict(zip(INPUTS, row, strict=True)) for row in rng.normal(size=(20, len(INPUTS))).tolist()]
    ranks = aggregate([{**value, "zen": number} for number, value in enumerate(values)])
    ways = {name: "min" if name == "short_path" else "max" for name in INPUTS}
    assert (ranks == rank_pool(values, ways)).all()


def test_the_filter_sends_lopsided_members_behind_the_others() -> None:
    # The first is best by three proxies and worst by the fourth.
    values = [
        {"a": 50.0, "b": 50.0, "c": 50.0, "d": 0.0},
        *({"a": i, "b": i, "c": i, "d": 9.0} for i in map(float, range(10))),
    ]
    ways = dict.fromkeys("abcd", "max")
    assert rank_pool(values, ways, 0.0).tolist() == [6, 11, 10, 9, 8, 7, 5, 4, 3, 2, 1]
    # Of 11, the worst two by any proxy go back: the first and the two smallest.
    assert rank_pool(values, ways, 0.2).tolist() == [9, 11, 10, 8, 7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("change", [{"directions": {"a": "up"}}, {"filter": 1.0}, {"filter": -0.1}])
def test_wrong_arguments_are_user_errors(change: dict) -> None:
    with pytest.raises(UserError, match="got"):
        rank_pool([{"a": 1.0}], **{"directions": {"a": "max"}, **change})


def test_ten_thousand_by_five_are_fast() -> None:
    rng = np.random.default_rng(0)
    names = "abcde"
    values = [dict(zip(names, row, strict=True)) for row in rng.normal(size=(10_000, 5)).tolist()]
    spent = []
    for _ in range(3):
        start = time.process_time()
        rank_pool(values, dict.fromkeys(names, "max"))
        spent.append(time.process_time() - start)
    # About 25 ms on a quiet core; the bound leaves room for a busy one and would still catch a quadratic version.
    assert min(spent) < 0.25, spent


def test_many_rows_are_ranked_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    table = draw.integers(0, 30, (400, 4)).astype(float)
    table[draw.random((400, 4)) < 0.05] = np.nan
    directions = {"params": "max", "synflow": "max", "naswot": "min", "short_path": "min"}
    at_once = rank_rows(table, directions)
    monkeypatch.setattr("archscout.aggregate.LARGE", 10)
    np.testing.assert_array_equal(rank_rows(table, directions), at_once)


def test_ranks_among_kinds_and_what_lacks_a_score_is_behind_all() -> None:
    nan = np.nan
    table = np.array([[3, 1], [5, 1], [4, 1], [9, 1], [9, 1], [nan, nan], [7, nan], [1, 1]], dtype=float)
    ranks, sizes = rank_among_kinds(table, {"a": "max", "b": "max"}, [0, 0, 0, 1, 1, 2, 3, 1])
    assert ranks.tolist() == [3, 1, 2, 1, 1, 9, 9, 3]
    assert sizes.tolist()[:5] == [3, 3, 3, 3, 3]
    assert (((ranks - 0.5) / sizes)[5:7] > 1).all()
    one, of = rank_among_kinds(table, {"a": "max", "b": "max"}, [()] * 8)
    assert np.argsort(one, kind="stable").tolist() == [3, 4, 1, 2, 0, 7, 5, 6]
    assert of.tolist()[:5] == [6] * 5
