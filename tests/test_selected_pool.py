"""What the savings on a pool of trained cells rest on: searches that do not train twice, curves, levels, shares."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import selected_pool


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return selected_pool.pool_of(60)


def worth(text: str) -> float:
    """More for convolutions; each cell its own, so that there is one best."""
    return 10.0 * text.count("nor_conv") + sum(text.encode()) % 97 / 97


@pytest.mark.parametrize("name", selected_pool.SEARCHES)
def test_a_search_trains_no_cell_twice_and_most_of_them(name: str, texts: list[str]) -> None:
    space = selected_pool.pool_space(texts)
    rewards = {space.parse(text): worth(text) for text in texts}
    order = selected_pool.searched(space, name, 0, rewards)
    assert len(order) == len(set(order))
    assert set(order) <= set(rewards)
    assert len(order) >= 0.6 * len(texts)  # copies in the population ended evolution after a sixth


def test_repeats_are_told_as_skipped(monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    space = selected_pool.pool_space(texts)
    first, second = (space.parse(text) for text in texts[:2])
    told = []

    class Stubborn:
        def __init__(self, space: object, **more: object) -> None:
            self.asked = iter([first, first, second, *[first] * selected_pool.IDLE])

        def ask(self, n: int) -> list:
            return [next(self.asked)]

        def tell(self, archs: list, values: list) -> None:
            told.extend(values)

    monkeypatch.setitem(selected_pool.STRATEGIES, "evolution", Stubborn)
    rewards = {space.parse(text): worth(text) for text in texts}
    assert selected_pool.searched(space, "evolution", 0, rewards) == [first, second]
    skipped = {"violation": 0.0, "skipped": 1.0}
    assert told[:3] == [
        {"violation": 0.0, "accuracy": rewards[first]},
        skipped,
        {**told[0], "accuracy": told[2]["accuracy"]},
    ]
    assert told[3:] == [skipped] * selected_pool.IDLE  # and then it ends


def test_a_curve_has_the_truth_of_the_best_by_reward() -> None:
    order = [(0,), (1,), (2,)]
    rewards, prices = {(0,): 1.0, (1,): 3.0, (2,): 2.0}, {(0,): 10.0, (1,): 1.0, (2,): 5.0}
    seconds, accuracy = selected_pool.curve(order, rewards, prices, {(0,): 90.0, (1,): 80.0, (2,): 99.0})
    assert seconds.tolist() == [10, 11, 16]
    assert accuracy.tolist() == [90, 80, 80]  # it was misled, and never has the third
    table = selected_pool.at([(seconds, accuracy)], np.array([0.0, 9.9, 10.0, 10.9, 11.0, 100.0]))
    assert table.tolist() == [[-math.inf, -math.inf, 90, 90, 80, 80]]


def test_a_level_is_reached_where_the_mean_stays() -> None:
    grid = np.arange(5.0)
    table = np.array([[0.0, 4, 2, 4, 4], [0.0, 4, 2, 4, 6]])
    assert selected_pool.reached(table, grid, 3.0) == 3  # not at 1, from where it falls again
    assert selected_pool.reached(table, grid, 4.0) == 3
    assert selected_pool.reached(table, grid, 5.0) == 4
    assert selected_pool.reached(table, grid, 5.1) == math.inf
    assert selected_pool.reached(table, grid, 0.0) == 0


def test_shares_are_paired_and_none_where_a_level_is_not_reached() -> None:
    grid, after = np.arange(100.0), np.full(6, 50.0)
    rise = np.tile(np.arange(100.0), (6, 1))  # one more each second
    tables, grids = (
        {"full": rise, "dds": 2 * rise, "redrawn": rise / 10},
        dict.fromkeys(("full", "dds", "redrawn"), grid),
    )
    found = selected_pool.shares(tables, grids, after, "dds", spent=np.full(6, 100.0))
    assert found == {"value": 0.25, "low": 0.25, "high": 0.25}
    assert selected_pool.shares(tables, grids, after, "dds", other="full")["value"] == 0.5
    never = {"value": None, "low": None, "high": None}
    assert selected_pool.shares(tables, grids, after, "redrawn", other="full") == never
    assert selected_pool.shares(tables, grids, after, "dds", other="redrawn") == never


def test_equal_accuracies_at_a_tenth_of_the_price_save_nine_tenths(
    monkeypatch: pytest.MonkeyPatch, texts: list[str]
) -> None:
    def some(space: object, name: str, seed: int, rewards: dict) -> list:  # a random search that ends after fifty
        return [
            list(rewards)[place] for place in np.random.default_rng(seed).permutation(len(rewards))[: 50 + seed % 2]
        ]

    monkeypatch.setattr(selected_pool, "searched", some)
    monkeypatch.setattr(selected_pool, "LEVEL", 20)
    monkeypatch.setattr(selected_pool, "LEVELS", (10, 20, 1000))
    chance = np.random.default_rng(0).permutation(len(texts))
    trained = {
        text: {
            "full": {"accuracy": worth(text), "seconds": 20.0 + place % 3},
            "dds": {"accuracy": worth(text), "seconds": 2.0 + place % 3 / 10},
            "redrawn": {"accuracy": float(chance[place]), "seconds": 2.0 + place % 3 / 10},
        }
        for place, text in enumerate(texts)
    }
    rows, more = selected_pool.figures(
        {text: {arm: {**cell, "judge_seconds": 1.0} for arm, cell in arms.items()} for text, arms in trained.items()},
        {text: worth(text) for text in texts}, 20,
    )  # fmt: skip
    for row in rows[:2]:
        name = row["name"].partition("_")[2]
        found = more["searches"][name]
        assert row["value"] == pytest.approx(0.1, rel=0.1)
        assert row["value"] == pytest.approx(row["price"] * row["zero_point"]["value"], rel=0.01)
        assert row["zero_point"]["value"] == pytest.approx(1.0, rel=0.1)
        assert row["over_full"]["value"] == pytest.approx(0.1, rel=0.01)
        assert row["low"] <= row["value"] <= row["high"]
        assert row["redrawn"]["value"] is None or row["redrawn"]["value"] > row["value"]  # it ranks by chance
        assert row["trainings"] == found["levels"][20]["trainings"] == {"least": 20, "mean": 20}
        assert found["levels"][1000]["trainings"] == {"least": 50, "mean": 50.5}  # fewer than asked for, and said so
        assert found["trainings"]["full"] == {"least": 50, "mean": 50.5}
