"""One protocol for every score: order, picks, limits, fronts, failures, with intervals and trivial scores beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from archscout.bench.bootstrap import draw_counts
from archscout.bench.correlation import correlations
from archscout.bench.hypervolume import share_of_area
from archscout.bench.noise import best_share, ceiling
from archscout.bench.picks import budgets_of, means_of_top, regrets
from archscout.bench.table import Table
from archscout.errors import UserError, unknown

Pool = Callable[[np.ndarray], Any]
TOPS = {"top10": 0.1, "top5": 0.05}
PICKS = (1, 10, 50)
POINTS = 20  # networks of a front


def evaluate(
    scores: Mapping[Any, float] | Sequence[float] | np.ndarray | Pool,
    table: Table,
    accuracy: str = "cifar10",
    *,
    direction: str = "max",
    costs: str | Sequence[str] = (),
    points: int | None = POINTS,
    pools: Sequence[str] = ("all", "connected"),
    resamples: int = 200,
    seed: int = 0,
    seconds: float | Mapping[Any, float] | Sequence[float] | np.ndarray | None = None,
    ceilings: bool = True,
) -> dict[str, Any]:
    """How good scores are on a table: a plain dict of figures, each {"value", "low", "high"} with a 95 % interval.

    scores:     an array of one score per row of the table; or a mapping from text or Arch to a score, which twins share
                (NaN, None or an absent network is a failure); or, for what exists only relative to a pool, a function
                from row numbers (m,) to their scores or ranks (m,), which is called for every pool.
    accuracy:   name in `table.accuracies`.  direction: "max", or "min" where 1 is best (ranks).
    costs:      names in `table.costs` under which networks are picked.
    points:     largest size of the front whose hypervolume is taken; None for no limit.
    pools:      "all" networks, "connected" ones (see Table), or both.
    resamples:  bootstrap samples; 0 for none, and intervals of no width.  seconds: per network, or one for each.
    ceilings:   whether to take what noise lets a score reach, which is the table's and the same for every score.

    Networks without a score tie as the worst; none is dropped. The answer holds, for each pool:
    `all`, `top10`, `top5`: over the whole pool and its best tenth and twentieth by true accuracy,
        `spearman`, `kendall`, `n`, and `ceiling`, what noise lets a score reach (noise.py).
    `picks`: mean true accuracy of the best 1, 10 and 50 by score, and `best`, that of the best network.
    `under`, by cost: `regret` under 20 limits, percentiles 5 to 100 of the cost in the pool (picks.py), and
        `hypervolume`: the networks that no other beats in both score and cost, thinned to `points` evenly by position
        in the order of cost; the area that their true accuracies dominate over the same area of the true front. The
        reference is the median accuracy and the largest cost of the pool. Networks without the cost are left out.
    and `failures`, the share of networks without a score, and `milliseconds` per network where `seconds` is given.

    Intervals come from drawing networks (bootstrap.py); a slice by true accuracy and the reference of the area stay as
    they are. Ranks relative to a pool are made anew for each limit but not for each sample.
    For 15,625 networks, one cost and both pools: 1 s, and 1 s more for every 100 resamples.
    """
    if accuracy not in table.accuracies:
        raise unknown("accuracy", accuracy, table.accuracies)
    if direction not in ("max", "min"):
        raise UserError(f"direction is 'max' or 'min', got '{direction}'")
    names = [costs] if isinstance(costs, str) else list(costs)
    for name in names:
        if name not in table.costs:
            raise unknown("cost", name, table.costs)
        if not np.isfinite(table.costs[name]).any():
            raise UserError(f"no network of the table has the cost '{name}'")
    sign = 1.0 if direction == "max" else -1.0
    ranked: Pool = scores if callable(scores) else table.align(scores).__getitem__

    def values_of(rows: np.ndarray) -> np.ndarray:
        found = np.asarray(ranked(rows), dtype=np.float64)
        if found.shape != rows.shape:
            raise UserError(f"wanted one score for each of {len(rows)} networks, got the shape {found.shape}")
        return np.where(np.isfinite(found), sign * found, -np.inf)

    truth = table.accuracies[accuracy]
    known = np.flatnonzero(np.isfinite(truth))
    if len(known) < 2:
        raise UserError(f"the table holds {len(known)} networks with accuracy '{accuracy}'; wanted two or more")
    failed = ~np.isfinite(values_of(known))
    answer: dict[str, Any] = {"n": len(known), "failures": float(failed.mean()), "resamples": resamples}
    if seconds is not None:
        spent = seconds if isinstance(seconds, float | int) else float(np.nanmean(table.align(seconds)))
        answer["milliseconds"] = 1000 * spent
    for pool in pools:
        if pool not in ("all", "connected"):
            raise unknown("pool", pool, ("all", "connected"))
        rows = known if pool == "all" else known[table.connected[known]]
        answer[pool] = judge(values_of, table, rows, accuracy, names, points, resamples, seed, ceilings)
    return answer


def judge(
    values_of: Callable[[np.ndarray], np.ndarray],
    table: Table,
    rows: np.ndarray,
    accuracy: str,
    costs: Sequence[str],
    points: int | None,
    resamples: int,
    seed: int,
    ceilings: bool,
) -> dict[str, Any]:
    """The figures of one pool, the rows of the table. `values_of`: rows -> scores, larger is better, -inf is none."""
    values, truth = values_of(rows), table.accuracies[accuracy][rows]
    seeds = table.seeds[accuracy][rows] if accuracy in table.seeds else None
    counts = draw_counts(table.twins[rows], resamples, seed)
    found: dict[str, Any] = {}
    for slice_, share in {"all": 1.0, **TOPS}.items():
        top = best_share(truth, share)
        found[slice_] = correlations(values[top], truth[top], counts[:, top])
        if ceilings:
            found[slice_]["ceiling"] = ceiling(truth, table.twins[rows], seeds, share)
    found["picks"] = {**means_of_top(values, truth, PICKS, counts), "best": float(truth.max())}
    found["under"] = {}
    for name in costs:
        cost = table.costs[name][rows]
        priced = np.flatnonzero(np.isfinite(cost))
        feasible = [priced[cost[priced] <= budget] for budget in budgets_of(cost)]
        found["under"][name] = {
            "n": len(priced),
            "regret": regrets([values_of(rows[inside]) for inside in feasible], truth, feasible, counts),
            "hypervolume": share_of_area(values[priced], truth[priced], cost[priced], points, counts[:, priced]),
        }
    return found


def beside(table: Table, accuracy: str = "cifar10", *, draws: int = 10, **options: Any) -> dict[str, Any]:
    """What every score has to stand beside: the figures of `params`, `macs`, and `random` scores.

    Those of `random` are the mean of `draws` seeds, with the smallest and largest as `low` and `high`.
    options: as for evaluate. Ceilings, equal for all, are with params only.
    """
    bare = {**options, "ceilings": False}
    params = evaluate(table.costs["params"], table, accuracy, **options)
    macs = evaluate(table.costs["macs"], table, accuracy, **bare)
    runs = [
        evaluate(np.random.default_rng(draw).random(len(table)), table, accuracy, **{**bare, "resamples": 0})
        for draw in range(draws)
    ]
    return {"params": params, "macs": macs, "random": merged(runs)}


def merged(runs: Sequence[Any]) -> Any:
    """Several answers of one shape as one: figures become their mean with the extremes, all else is the first's."""
    first = runs[0]
    if isinstance(first, dict) and set(first) == {"value", "low", "high"}:
        values = [run["value"] for run in runs]
        return {"value": float(np.mean(values)), "low": min(values), "high": max(values)}
    if isinstance(first, dict):
        return {key: merged([run[key] for run in runs]) for key in first}
    return first
