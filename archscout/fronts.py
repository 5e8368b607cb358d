"""The front of two numbers, and what to take of many networks: the knee, and the best under each budget."""

from __future__ import annotations

import numpy as np

BUDGETS = (0.1, 0.25, 0.5, 0.75, 0.9)  # shares of the candidates that cost no more


def pareto(rank: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Indices of the points that no other beats in both numbers (smaller is better), by rising cost; O(n log n)."""
    order = np.lexsort((rank, cost))
    best = np.minimum.accumulate(rank[order])
    keep = np.r_[True, best[1:] < best[:-1]] if len(order) else np.zeros(0, bool)
    return order[keep]


def knee(rank: np.ndarray, cost: np.ndarray, *, log: bool = False) -> int | None:
    """The place in a front (by rising cost) of the member farthest from the line between its two ends, or None.

    Both numbers are scaled to the range of the front, with `log` the logarithm of the cost. Only members on the better
    side of the line count, so that what is farthest is worth its cost; None where there is none, and in a front of
    fewer than three. Source: Das 1999, Structural Optimization 18.
    """
    if len(cost) < 3:
        return None
    paid = np.log(cost) if log else np.asarray(cost, float)
    paid = (paid - paid[0]) / (paid[-1] - paid[0])
    lost = (rank - rank[-1]) / (rank[0] - rank[-1])
    gain = 1 - paid - lost  # root two times the distance
    best = int(np.argmax(gain))
    return best if gain[best] > 1e-9 else None


def budgets_of(costs: np.ndarray, limit: float | None) -> list[tuple[float, float | None]]:
    """Budgets on a cost by rising value, each with the share of the networks (n,) that cost no more.

    Quantiles, rounded up to three digits and each once, and the limit, whose share is None.
    """
    known = costs[np.isfinite(costs)]
    found: dict[float, float | None] = {}
    for share in BUDGETS if len(known) else ():
        found.setdefault(rounded_up(float(np.quantile(known, share))), share)
    if limit is not None:
        found[limit] = None
    return sorted(found.items())


def rounded_up(value: float) -> float:
    """The least number of three digits that is no less."""
    if value <= 0:
        return value
    step = 10.0 ** (np.floor(np.log10(value)) - 2)
    return float(f"{np.ceil(value / step) * step:.3g}")


def best_within(rank: np.ndarray, most: np.ndarray, budget: float) -> int | None:
    """The index of the best rank among the networks whose safe end `most` is within a budget, None for none."""
    inside = np.flatnonzero(most <= budget)
    return int(inside[np.argmin(rank[inside])]) if len(inside) else None
