"""The aggregate: one ranking from several proxies, relative to a pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from archscout.errors import UserError

INPUTS = (
    "params", "synflow", "jacob_cov", "naswot", "expressivity", "trainability", "progressivity", "short_path",
)  # fmt: skip
MODIFIERS = ("short_path",)  # proxies that say something only among networks of like capacity
LARGE = 1000  # rows beyond which columns are ranked one by one: a call costs a quarter of a ms, all at once much memory


def aggregate(values: Sequence[Mapping[str, float]]) -> np.ndarray:
    """Ranks (n,) int64 of a pool by the INPUTS, 1 = best: which of these networks should be trained?

    values: per member, proxy -> score. See rank_pool. Costs O(n log n).
    """
    from archscout.proxies import PROXIES

    return rank_pool(values, {name: PROXIES[name].direction for name in INPUTS})


def rank_pool(
    values: Sequence[Mapping[str, float]],
    directions: Mapping[str, str],
    filter: float = 0.0,
) -> np.ndarray:
    """Ranks (n,) int64 of a pool of networks by several proxies, 1 = best; ties share the smallest.

    values:      per member, proxy -> score; other entries are ignored.
    directions:  the proxies that count -> "max" or "min".
    filter:      share of the pool; members in that worst share of any proxy come behind all members that are not.

    With r(s) the rank of a score divided by the number of members (1 is best, ties share their mean):

        C = r(sum over proxies p of log r(p)),     score = C (1 + C R),      R = mean over modifiers m of r(m)

    C, the sum of log-ranks (Lee & Ham 2024, arXiv 2403.19232), asks for capacity: a member that one proxy finds poor
    cannot be saved by the others. R are the proxies in MODIFIERS, about how easily the signal passes the depth. They
    matter in proportion to what there is to train: alone they prefer networks that compute nothing, while among equally
    large ones they tell which train best. Without modifiers the order is that of C, with nothing else that of R. Why
    this form: docs/decisions/005-the-aggregate.md.

    A proxy that no member has is left out. Members that lack another come last, in one tie; one that lacks a modifier
    only counts as the worst by it. Ranks exist only within this pool. Costs O(n log n) per proxy.
    Raises UserError for an unknown direction or a filter outside [0, 1).
    """
    return rank_rows(score_table(values, list(directions)), directions, filter)


def score_table(values: Sequence[Mapping[str, float]], names: Sequence[str]) -> np.ndarray:
    """The scores of some names as a table (n, names), NaN where there is none."""
    table = np.array([[member.get(name, np.nan) for name in names] for member in values], dtype=float)
    return table.reshape(len(values), len(names))


def rank_rows(table: np.ndarray, directions: Mapping[str, str], filter: float = 0.0) -> np.ndarray:
    """The same for a table (n, proxies) whose columns are in the order of `directions`; NaN where there is no score."""
    wrong = {name: way for name, way in directions.items() if way not in ("max", "min")}
    if wrong:
        raise UserError(f"a direction is 'max' or 'min', got {wrong}")
    if not 0 <= filter < 1:
        raise UserError(f"filter is a share of the pool from 0 to below 1, got {filter}")
    signs = [1.0 if way == "max" else -1.0 for way in directions.values()]
    better = np.where(np.isfinite(table), table, np.nan) * signs
    main, modifying, complete = counted(better, directions)
    ranks = np.full(len(table), int(complete.sum()) + 1, dtype=np.int64)
    rows = better[complete]
    if not len(rows):
        return ranks
    n = len(rows)
    if n > LARGE:
        places = [rankdata(rows[:, j]) / n for j in main]
    else:
        places = list(rankdata(rows[:, main], axis=0).T / n) if main else []
    total = np.zeros(n)
    for place in places:
        total += np.log(place)
    if modifying:
        ease = (rankdata(np.nan_to_num(rows[:, modifying], nan=-np.inf), axis=0) / n).mean(1)
        capacity = rankdata(total.round(9)) / n
        total = capacity * (1 + capacity * ease) if places else ease
    poor = np.any([place <= filter for place in places], axis=0) if places else np.zeros(n, dtype=bool)
    ranks[complete] = positions(total.round(9), poor)
    return ranks


def counted(table: np.ndarray, directions: Mapping[str, str]) -> tuple[list[int], list[int], np.ndarray]:
    """The columns of a score table that count, as proxies and as modifiers, and which rows have all that count."""
    known = np.isfinite(table)
    given = known.any(axis=0).nonzero()[0].tolist()
    modifying = [j for j, name in enumerate(directions) if name in MODIFIERS and j in given]
    main = [j for j in given if j not in modifying]
    return main, modifying, known[:, main].all(axis=1) & (len(given) > 0 or not directions)


def rank_among_kinds(
    table: np.ndarray, directions: Mapping[str, str], kinds: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """The same with ranks among the members of the own kind, and how many members that kind has.

    kinds: of each row; equal where networks are of one kind, see SearchSpace.kinds. A row that lacks a score that
    others have, of whatever kind, has rank n + 1, behind all.
    """
    members: dict[Any, list[int]] = {}
    for i in np.flatnonzero(counted(table, directions)[2]).tolist():
        members.setdefault(kinds[i], []).append(i)
    ranks, sizes = np.full(len(table), len(table) + 1, dtype=np.int64), np.ones(len(table), dtype=np.int64)
    for places in members.values():
        ranks[places] = rank_rows(table[places], directions)
        sizes[places] = len(places)
    return ranks, sizes


def positions(total: np.ndarray, poor: np.ndarray) -> np.ndarray:
    """Ranks (n,) of the largest `total` first, those that are `poor` behind the others; ties share the smallest."""
    n = len(total)
    order = np.lexsort((-total, poor))
    first = np.ones(n, dtype=bool)
    first[1:] = (np.diff(total[order]) != 0) | (np.diff(poor[order].astype(int)) != 0)
    ranks = np.empty(n, dtype=np.int64)
    ranks[order] = np.maximum.accumulate(np.where(first, np.arange(1, n + 1), 0))
    return ranks
