"""The benchmark of fronts, on made-up cells whose truth is known; and the figures of repeats and limits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import devices
import repeats
import trade_offs

from archscout.spaces.nasbench201 import nasbench201


@pytest.fixture(scope="module")
def cells() -> trade_offs.Cells:
    """Every cell's accuracy and cost grow with its convolutions, and one score tells their number; two rows each."""
    space = nasbench201((3, 32, 32), 10)
    archs = list(dict.fromkeys(space.canonical(arch) for arch in space))[::12]
    worth = np.array([sum(op == 3 for op in arch) + 0.4 * sum(op == 2 for op in arch) for arch in archs])
    rng = np.random.default_rng(0)
    truth = np.repeat(70 + 4 * worth + rng.normal(0, 0.05, len(archs)), 2)
    cost = np.repeat(1 + worth + rng.normal(0, 0.02, len(archs)).clip(-0.2, 0.2), 2)
    return trade_offs.Cells(
        space,
        {arch: [2 * i, 2 * i + 1] for i, arch in enumerate(archs)},
        {arch: dict.fromkeys(trade_offs.INPUTS, float(w)) for arch, w in zip(archs, worth, strict=True)},
        truth - 10,
        truth,
        {"latency": cost, "energy": 5 * cost},
        {},
    )


def test_the_share_of_all_is_one_and_of_one_cell_a_rectangle(cells: trade_offs.Cells) -> None:
    every = list(cells.members)
    assert cells.share("latency", every) == pytest.approx(1)
    truth, paid = cells.reached, cells.paid["latency"]
    floor, most = np.median(list(truth.values())), max(paid.values())
    values, costs = np.array(list(truth.values())), np.array(list(paid.values()))
    grid = np.linspace(costs.min(), most, 20_001)
    best = np.array([values[costs <= x].max(initial=floor) for x in grid]) - floor
    whole = float(((best[1:] + best[:-1]) / 2 * np.diff(grid)).sum())  # the area under the front, by another way
    one = max(every, key=truth.__getitem__)
    expected = (truth[one] - floor) * (most - paid[one]) / whole
    assert cells.share("latency", [one]) == pytest.approx(expected, rel=1e-3)


def test_front_by_front_fills_up_without_repeats() -> None:
    value, cost = np.array([1.0, 2, 3, 0.5, 1.5, 2.5]), np.array([1.0, 2, 3, 1, 2, 3])
    assert trade_offs.front_by_front(value, cost, 3, []) == [0, 1, 2]
    assert trade_offs.front_by_front(value, cost, 5, [1]) == [0, 4, 2, 3, 5]
    assert trade_offs.front_by_front(value, cost, 9, [0]) == [3, 1, 2, 4, 5]


def test_a_search_asks_for_fifty_cells_and_beats_random_ones(cells: trade_offs.Cells) -> None:
    found = trade_offs.search(cells, 0)
    assert set(found) == {"found", "unasked", "random_50", "random_200_true"}
    assert found["found"] > 0.9
    assert found["found"] > found["random_50"]
    assert trade_offs.search(cells, 0) == found
    assert sum(trade_offs.ROUNDS) == 50


def test_figures_of_repeats_and_limits() -> None:
    def row(first: float, second: float, half: float = 0.01) -> dict:
        return {
            name: {"median": value, "low": value * (1 - half), "high": value * (1 + half), "usual": 2.0}
            for name, value in (("first", first), ("second", second))
        }

    rows = [row(1.0, 1.04), row(1.0, 1.1), row(1.0, 1.1, 0.06)]
    assert [repeats.agree(one) for one in rows] == [True, False, True]
    (figure,) = devices.repeated(rows)
    assert figure["value"] == pytest.approx(8.0)
    assert figure["usual"] == 0
    assert figure["within_5_or_interval"] == pytest.approx(2 / 3)
    searches = [{"limit": 2.0, "again": {"median": value}} for value in (1.0, 2.0, 2.1)] + [{"refused": "none fits"}]
    (figure,) = devices.met(searches)
    assert (figure["value"], figure["n"], figure["refused"]) == (pytest.approx(200 / 3), 3, 1)
    assert figure["largest_over_limit"] == pytest.approx(1.05)
    assert devices.met([{"refused": "none fits"}]) == []
