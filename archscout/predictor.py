"""The learned predictor: accuracies of networks that were never trained, from their scores and those that were."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, rankdata

from archscout.aggregate import rank_among_kinds, rank_rows, score_table
from archscout.errors import UserError

LEAST = 8  # evaluations below which the aggregate alone ranks
PRIOR = (5.0, 0.5)  # the aggregate is believed as if 5 evaluations had correlated with it at 0.5
ALIKE = 1.0  # kinds are believed to be equally good as if so many evaluations of each had said so
FITTED = (
    400  # evaluations, at most, on which the three numbers of the kernel are fitted; all of them are conditioned on
)


@dataclass(frozen=True)
class Prediction:
    """What a pool is expected to reach.

    ranks:     int64 (n,), 1 = best.
    value:     float (n,), the expected accuracy, in the unit of the evaluations and within their range; None while the
               aggregate alone ranks.
    evidence:  evaluations it rests on.
    """

    ranks: np.ndarray
    value: np.ndarray | None
    evidence: int


def predict_pool(
    values: Sequence[Mapping[str, float]],
    directions: Mapping[str, str],
    evaluated: Mapping[int, float],
    *,
    features: Sequence[str] | None = None,
    kinds: Sequence[Any] | None = None,
    least: int = LEAST,
    seed: int = 0,
) -> Prediction:
    """The expected accuracy and the rank of every network of a pool, some of which were evaluated.

    values:      per member, name -> score or cost.
    directions:  the proxies of the aggregate, name -> "max" or "min"; see aggregate.rank_pool.
    evaluated:   position in the pool -> accuracy, of comparable trainings.
    features:    the names that the predictor reads; default: those of `directions`. Costs may be among them.
    kinds:       of each member, see SearchSpace.kinds; default: all are of one. The aggregate then ranks members of a
                 kind, and what sets kinds apart is learned from the evaluations: below `least` of them the best of each
                 comes first, then the second of each.
    least:       evaluations below which the ranks are those of the aggregate, whatever was evaluated.

    The aggregate is the mean that the evaluations correct, so that it rules while they are few and fades as they grow:
    every feature becomes a normal score by its rank in the pool, and so do the accuracies; a line in the aggregate is
    fitted whose slope begins at a prior (PRIOR) and is never negative, then the mean of each kind, drawn to that of all
    (ALIKE), and a Gaussian process (Matern 3/2, one length for all features, with noise) explains what is left. Its
    three numbers maximise the likelihood. A member that lacks a score counts as the worst by it, or as the lowest by a
    feature of no direction.

    On NAS-Bench-201 (benchmarks/predictor.py) the order is never clearly worse than the aggregate's and better from
    about 50 evaluations on; a forest needs some 100 to draw level. Fails where evaluations are not comparable, and it
    extrapolates nothing: far from all that was evaluated it repeats the aggregate.
    Costs O(m^3) for m evaluations: a hundredth of a second at 10, seconds at 1,000.
    Source: Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", chapter 2; proxies as inputs of a
    predictor: Krishnakumar et al. 2022, arXiv:2210.03230.
    """
    n = len(values)
    if strange := [i for i in evaluated if not 0 <= i < n]:
        raise UserError(f"evaluated members are positions from 0 to {n - 1} in the pool, got {strange[0]}")
    if wrong := [v for v in evaluated.values() if not np.isfinite(v)]:
        raise UserError(f"evaluations are finite numbers, got {wrong[0]}")
    kinds = [()] * n if kinds is None else list(kinds)
    scores = score_table(values, list(directions))
    ranks = rank_rows(scores, directions)
    among, sizes = rank_among_kinds(scores, directions, kinds)
    if len(set(kinds)) > 1:
        ranks = rankdata(among * (n + 1) + ranks, method="min").astype(np.int64)
    if len(evaluated) < max(least, 2):
        return Prediction(ranks, None, len(evaluated))
    names = list(directions if features is None else features)
    table = score_table(values, names)
    believed = normal_scores(-(among - 0.5) / sizes)
    signs = [-1.0 if directions.get(name) == "min" else 1.0 for name in names]
    columns = [normal_scores(sign * table[:, j]) for j, sign in enumerate(signs)]
    inputs = np.column_stack([*(c for c in columns if np.ptp(c) > 0), believed])
    at = np.fromiter(evaluated, dtype=np.int64)
    accuracies = np.array([evaluated[int(i)] for i in at], dtype=float)
    place = regress(inputs, believed, kinds, at, normal_scores(accuracies), seed)
    found = np.empty(n, dtype=np.int64)
    found[np.lexsort((ranks, -place))] = np.arange(1, n + 1)
    known = np.sort(accuracies)
    value = np.interp(place, norm.ppf((np.arange(len(known)) + 0.5) / len(known)), known)
    return Prediction(found, value, len(evaluated))


def normal_scores(column: np.ndarray) -> np.ndarray:
    """The normal quantiles (n,) of the ranks of a column (n,), ties at their mean; what is not finite is the lowest."""
    ranks = rankdata(np.where(np.isfinite(column), column, -np.inf))
    return norm.ppf((ranks - 0.5) / len(ranks))


def slope_of(x: np.ndarray, z: np.ndarray) -> float:
    """The slope of standardised z (m,) in standardised x (m,), drawn to the prior; at least 0."""
    weight, correlation = PRIOR
    return max(0.0, float((weight * correlation + (x * z).sum()) / (weight + (x * x).sum())))


def means_of(kinds: Sequence[Any], at: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The mean of the kind of each member (n,), from z (m,) of those evaluated, drawn to 0; 0 where all are of one."""
    if len(set(kinds)) < 2:
        return np.zeros(len(kinds))
    sums, counts = Counter[Any](), Counter[Any]()
    for place, value in zip(at.tolist(), z.tolist(), strict=True):
        sums[kinds[place]] += value
        counts[kinds[place]] += 1
    return np.array([sums[kind] / (counts[kind] + ALIKE) for kind in kinds])


def regress(
    inputs: np.ndarray, believed: np.ndarray, kinds: Sequence[Any], at: np.ndarray, z: np.ndarray, seed: int
) -> np.ndarray:
    """The expected z (n,) of a pool: a line in `believed`, the mean of the kind, and a Gaussian process in `inputs`.

    inputs (n, d), believed (n,), kinds (n,), at (m,) the positions of the evaluated members, z (m,) of mean about 0.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    x = (believed - believed[at].mean()) / (believed[at].std() or 1.0)
    slope = slope_of(x[at], z)
    line = slope * x + means_of(kinds, at, z - slope * x[at])
    rest = z - line[at]
    kernel = ConstantKernel(0.5, (1e-2, 10.0)) * Matern(5.0, (1.0, 50.0), nu=1.5) + WhiteKernel(0.5, (0.05, 2.0))
    few = np.arange(len(at))
    if len(at) > FITTED:
        few = np.random.default_rng(seed).permutation(len(at))[:FITTED]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a number at the end of its range is a number
        process = GaussianProcessRegressor(kernel, random_state=seed).fit(inputs[at[few]], rest[few])
        if len(few) < len(at):
            process = GaussianProcessRegressor(process.kernel_, optimizer=None).fit(inputs[at], rest)
    return line + process.predict(inputs)
