"""Intervals that the page computes itself."""

from __future__ import annotations

import math


def rank_interval(spearman: float, n: int) -> tuple[float, float] | None:
    """The approximate 95 % interval of a Spearman correlation of `n` points without ties, or None below four points.

    On Fisher's scale, with the standard error sqrt((1 + r²/2) / (n - 3)) of Bonett and Wright, "Sample size
    requirements for estimating Pearson, Kendall and Spearman correlations", Psychometrika 65 (2000). Points in perfect
    order would give an interval of no width; there the inner end is that of the next lower value that r can take,
    1 - 12 / (n (n² - 1)), where one neighbouring pair is swapped.
    """
    if n < 4:
        return None
    edge = 1 - 12 / (n * (n * n - 1))
    inner = max(-edge, min(edge, spearman))
    half = 1.959964 * math.sqrt((1 + inner * inner / 2) / (n - 3))
    low, high = math.tanh(math.atanh(inner) - half), math.tanh(math.atanh(inner) + half)
    return (-1.0 if spearman < -edge else low), (1.0 if spearman > edge else high)


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` cases, by Wilson's score (Journal of the American Statistical Association 22,
    1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(0.0, share * (1 - share)) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
