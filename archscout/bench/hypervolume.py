"""Sets that trade accuracy against a cost: who is in them, and how much they dominate."""

from __future__ import annotations

import numpy as np

from archscout.bench.bootstrap import figure


def share_of_area(
    values: np.ndarray, truth: np.ndarray, cost: np.ndarray, points: int | None, counts: np.ndarray
) -> dict[str, float]:
    """The area that the front by score dominates with its true accuracies, over the area of the true front.

    values: (n,) scores, larger is better.  truth: (n,) accuracies.  cost: (n,).  counts: (resamples, n).
    points: the most networks of the front, None for all. The reference is the median accuracy and the largest cost,
    also for the bootstrap samples. 0 where nothing is better than the reference.
    """
    floor, most = float(np.median(truth)), float(cost.max())
    by_values, by_truth = (np.lexsort((-each, cost)) for each in (values, truth))

    def ratio(count: np.ndarray) -> float:
        inside, every = by_values[count[by_values] > 0], by_truth[count[by_truth] > 0]
        chosen = thin(inside[on_front(values[inside], cost[inside])], points)
        whole = area(truth[every], cost[every], floor, most)
        return area(truth[chosen], cost[chosen], floor, most) / whole if whole else 0.0

    return figure(ratio(np.ones(len(values))), [ratio(count) for count in counts])


def front_of(values: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Rows of the networks that no other beats in both value (larger is better) and cost (smaller), by cost.

    values, cost: (n,). A row is out if another has at least its value at no more cost, one of the two strictly; equal
    pairs are in together. Rows with a value of -inf are never in.
    """
    order = np.lexsort((-values, cost))
    return order[on_front(values[order], cost[order])]


def on_front(values: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Which of some rows, sorted by cost and then by falling value, are on their front."""
    if not len(values):
        return np.zeros(0, dtype=bool)
    before = np.concatenate(([-np.inf], np.maximum.accumulate(values)[:-1]))
    chosen = values > before
    last = np.maximum.accumulate(np.where(chosen, np.arange(len(values)), 0))
    return chosen | ((values == values[last]) & (cost == cost[last]) & (values > -np.inf))


def thin(rows: np.ndarray, most: int | None) -> np.ndarray:
    """At most `most` of some rows, evenly by position and with both ends; all of them if `most` is None.

    Of m rows, the positions round(i (m - 1) / (most - 1)) for i = 0 .. most - 1 stay.
    """
    if most is None or len(rows) <= most:
        return rows
    return rows[np.round(np.linspace(0, len(rows) - 1, most)).astype(int)]


def hypervolume(values: np.ndarray, cost: np.ndarray, floor: float, most: float) -> float:
    """Exact area of the points (value, cost) that some row beats and that beat the reference (floor, most)."""
    order = np.argsort(cost, kind="stable")
    return area(values[order], cost[order], floor, most)


def area(values: np.ndarray, cost: np.ndarray, floor: float, most: float) -> float:
    """The hypervolume of rows sorted by cost.

    Each row adds a rectangle: how far it exceeds the best value so far, times how far it is below the reference cost.
    """
    best = np.maximum.accumulate(np.concatenate(([floor], values)))
    return float(np.diff(best) @ np.maximum(most - cost, 0))
