"""Stopping under several objectives, against the definition written out in loops."""

from __future__ import annotations

import numpy as np
import pytest

from archscout.stopping import dominators, front_order


def test_a_network_is_stopped_only_by_one_that_is_surely_better_and_no_costlier() -> None:
    low, high = [0.50, 0.60, 0.30, 0.45], [0.54, 0.64, 0.34, 0.55]
    assert dominators(low, high) == [1, None, 1, 1]
    latency = np.array([[1.0], [2.0], [0.5], [1.0]])
    assert dominators(low, high, latency) == [None, None, None, None]  # the cheaper ones stay on the front
    latency[2] = 1.0
    assert dominators(low, high, latency) == [None, None, 0, None]
    latency[1] = 1.0
    assert dominators(low, high, latency) == [1, None, 1, 1]
    assert dominators(low, high, np.array([[1.0], [np.nan], [1.0], [1.0]])) == [None, None, 0, None]


@pytest.mark.parametrize("axes", [0, 1, 3])
def test_dominators_by_the_definition(axes: int) -> None:
    rng = np.random.default_rng(axes)
    for _ in range(30):
        n = int(rng.integers(1, 12))
        middle, half = rng.random(n), 0.1 * rng.random(n)
        costs = rng.integers(0, 3, (n, axes)).astype(float)
        found = dominators(middle - half, middle + half, costs)
        for i in range(n):
            able = [
                j for j in range(n)
                if middle[j] - half[j] > middle[i] + half[i] and all(costs[j, k] <= costs[i, k] for k in range(axes))
            ]  # fmt: skip
            assert (found[i] is None) == (not able)
            assert found[i] is None or found[i] in able
        assert None in found


@pytest.mark.parametrize("unknown", [0.0, 0.3])
def test_front_order_by_the_definition(unknown: float) -> None:
    """Also where a part of the numbers is not known: such a value or cost is worse than any other."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        n = int(rng.integers(1, 10))
        values, costs = rng.integers(0, 5, n).astype(float), rng.integers(0, 4, (n, 2)).astype(float)
        values[rng.random(n) < unknown], costs[rng.random((n, 2)) < unknown] = np.nan, np.nan
        order = front_order(values, costs)
        values, costs = np.where(np.isnan(values), -99.0, values), np.where(np.isnan(costs), 99.0, costs)
        goods = [(v, *(-c)) for v, c in zip(values, costs, strict=True)]
        left, number, front = list(range(n)), 0, {}
        while left:
            best = [
                i for i in left
                if not any(all(a >= b for a, b in zip(goods[j], goods[i], strict=True)) and goods[j] != goods[i]
                           for j in left)
            ]  # fmt: skip
            front |= dict.fromkeys(best, number)
            left, number = [i for i in left if i not in best], number + 1
        assert order == sorted(range(n), key=lambda i: (front[i], -values[i], i))


def test_without_costs_the_order_is_that_of_the_values() -> None:
    assert front_order([0.2, 0.9, 0.2, 0.5]) == [1, 3, 0, 2]
    assert front_order([], np.zeros((0, 2))) == dominators([], [], np.zeros((0, 2))) == []
