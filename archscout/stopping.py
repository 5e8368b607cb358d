"""When a network is given up under way: another is surely more accurate and costs no more, in whatever is counted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def dominators(
    low: Sequence[float] | np.ndarray, high: Sequence[float] | np.ndarray, costs: np.ndarray | None = None
) -> list[int | None]:
    """For each of n networks the position of one that dominates it beyond doubt, or None.

    low, high:  the ends of the interval of each one's accuracy, (n,).
    costs:      (n, k), smaller is better; None or k = 0 where accuracy alone counts. A cost that is not known (NaN)
                speaks against stopping.

    Network j dominates i if low[j] > high[i] and no cost of j is above that of i. Use it between the rounds of a
    verification with any number of objectives: unlike a median or a quantile it never stops a network that is best in
    some trade-off, and the doubt about short trainings is in the intervals. Of several that dominate, the one with the
    highest `low` is named; it is itself dominated by nobody, so that one network always remains. Costs O(n² k).
    """
    bottom, top = np.asarray(low, dtype=float), np.asarray(high, dtype=float)
    n = len(bottom)
    table = np.zeros((n, 0)) if costs is None or not n else np.asarray(costs, dtype=float).reshape(n, -1)
    cheaper = (table[None, :, :] <= table[:, None, :]).all(axis=2)  # [i, j]: j costs no more than i
    beats = (bottom[None, :] > top[:, None]) & cheaper
    return [int(np.argmax(np.where(row, bottom, -np.inf))) if row.any() else None for row in beats]


def front_order(values: Sequence[float], costs: np.ndarray | None = None) -> list[int]:
    """Positions of n networks, the best first: by front (of value up, costs down), within a front by value.

    values (n,), larger is better; costs (n, k) as above. What is not known (NaN) counts as worst: as a value of minus
    infinity, as a cost of infinity. Without costs the order is that of the values; ties keep the order in which they
    were given. The first front are the networks that no other beats in one thing without losing in another, the second
    those that only the first beats, and so on (Deb et al. 2002, NSGA-II). Costs O(n³) at worst.
    """
    value = np.asarray(values, dtype=float)
    n = len(value)
    table = np.zeros((n, 0)) if costs is None or not n else np.asarray(costs, dtype=float).reshape(n, -1)
    value, table = np.where(np.isnan(value), -np.inf, value), np.where(np.isnan(table), np.inf, table)
    goods = np.column_stack([value, -table])
    better = (goods[None] >= goods[:, None]).all(axis=2) & (goods[None] > goods[:, None]).any(axis=2)  # j beats i
    front, left, number = np.zeros(n, dtype=int), np.ones(n, dtype=bool), 0
    while left.any():
        best = left & ~(better & left[None, :]).any(axis=1)
        front[best], number = number, number + 1
        left &= ~best
    return [int(i) for i in np.lexsort((np.arange(n), -value, front))]
