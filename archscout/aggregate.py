"""One ranking from several proxies, relative to a pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import rankdata

from archscout.errors import UserError


def rank_pool(
    values: Sequence[Mapping[str, float]],
    directions: Mapping[str, str],
    filter: float = 0.25,
) -> np.ndarray:
    """Ranks (n,) int64 of a pool of networks by several proxies, 1 = best; ties share the smallest.

    values:      per member, proxy -> score; other entries are ignored.
    directions:  the proxies that count -> "max" or "min".
    filter:      share of the pool; members in that worst share of any proxy come behind all members that are not.

    The aggregate is the sum over proxies of log(rank / n), rank n = best (Lee & Ham 2024, arXiv 2403.19232): a
    member that one proxy finds poor cannot be saved by the others. The filter is the same idea taken to the pool:
    single proxies like degenerate networks, but seldom the same ones. It is insurance: with the default proxies on
    NAS-Bench-201 it does not change the first choice. Nothing saves a set of proxies that all err alike (grad_norm
    with snip). Members that lack a score come last, in one tie.
    Ranks exist only within this pool. Costs O(n log n) per proxy.
    Raises UserError for an unknown direction or a filter outside [0, 1).
    """
    wrong = {name: way for name, way in directions.items() if way not in ("max", "min")}
    if wrong:
        raise UserError(f"a direction is 'max' or 'min', got {wrong}")
    if not 0 <= filter < 1:
        raise UserError(f"filter is a share of the pool from 0 to below 1, got {filter}")
    names = list(directions)
    table = np.array([[member.get(name, np.nan) for name in names] for member in values], dtype=float)
    table = table.reshape(len(values), len(names))
    ranks = np.ones(len(values), dtype=np.int64)
    complete = np.isfinite(table).all(axis=1)
    ranks[~complete] = int(complete.sum()) + 1
    signs = np.array([1.0 if directions[name] == "max" else -1.0 for name in names])
    ranks[complete] = rank_table(table[complete] * signs, filter)
    return ranks


def rank_table(table: np.ndarray, filter: float) -> np.ndarray:
    """Ranks of the rows of a complete (n, proxies) table whose larger numbers are better; see rank_pool."""
    n, proxies = table.shape
    if n == 0 or proxies == 0:
        return np.ones(n, dtype=np.int64)
    # Rank n is best, and equal scores share the mean of their ranks.
    places = np.column_stack([rankdata(table[:, j]) for j in range(proxies)])
    total = np.log(places / n).sum(axis=1).round(9)
    poor = (places <= filter * n).any(axis=1)
    order = np.lexsort((-total, poor))
    first = np.ones(n, dtype=bool)
    first[1:] = (np.diff(total[order]) != 0) | (np.diff(poor[order].astype(int)) != 0)
    ranks = np.empty(n, dtype=np.int64)
    ranks[order] = np.maximum.accumulate(np.where(first, np.arange(1, n + 1), 0))
    return ranks
