"""What one gets by trusting scores: the accuracy of the best-scored networks, with and without a limit."""

from __future__ import annotations

import numpy as np

from archscout.bench.bootstrap import figure


def means_of_top(
    values: np.ndarray, truth: np.ndarray, ks: tuple[int, ...], counts: np.ndarray
) -> dict[str, dict[str, float]]:
    """Mean accuracy of the k best-scored networks for each k, as `top1`, `top10`, ...; with intervals.

    values: (n,) larger is better.  truth: (n,).  counts: (resamples, n).  Networks that tie over the last places count
    with their mean: what a draw among them would give on average. Of fewer than k networks, all are taken.
    """
    order = np.argsort(-values, kind="stable")
    level = np.cumsum(np.concatenate(([False], values[order][1:] != values[order][:-1])))

    def mean_of_top(count: np.ndarray) -> list[float]:
        weight = count[order]
        mass, total = np.bincount(level, weight), np.bincount(level, weight * truth[order])
        before = np.cumsum(mass) - mass
        per_network = total / np.maximum(mass, 1)
        taken = [np.clip(k - before, 0, mass) for k in ks]
        return [float(share @ per_network / share.sum()) for share in taken]

    whole, samples = mean_of_top(np.ones(len(values))), np.array([mean_of_top(count) for count in counts])
    return {f"top{k}": figure(whole[i], samples[:, i].tolist() if len(samples) else []) for i, k in enumerate(ks)}


def budgets_of(cost: np.ndarray, number: int = 20) -> np.ndarray:
    """The limits that a protocol tries: percentiles 5 to 100 of a cost, evenly spaced; missing costs are left out."""
    return np.nanpercentile(cost, np.linspace(5, 100, number))


def regrets(
    values: list[np.ndarray], truth: np.ndarray, feasible: list[np.ndarray], counts: np.ndarray
) -> dict[str, object]:
    """Accuracy points that the best-scored feasible network lies below the best feasible one: `mean` and `worst`.

    feasible: per budget, the rows within it.  values: per budget, the scores of those rows, larger is better, so that a
    ranking relative to a pool can be made anew in each.  truth: (n,) accuracies.  counts: (resamples, n).
    Tied best networks count with their mean accuracy. `each` lists the regret by budget. In bootstrap samples the
    rankings of the whole pools are kept, and the best of the sample is what regret is measured from.
    """
    per_budget, per_sample = [], np.full((len(counts), len(feasible)), np.nan)
    for place, (rows, scores) in enumerate(zip(feasible, values, strict=True)):
        order = np.argsort(-scores, kind="stable")
        by_score, sorted_scores = rows[order], scores[order]
        ends = np.searchsorted(-sorted_scores, -sorted_scores, side="right")
        by_truth = rows[np.argsort(-truth[rows], kind="stable")]
        everyone = np.ones(len(truth), dtype=np.int16)
        per_budget.append(one_regret(by_score, ends, by_truth, truth, everyone))
        for sample, count in enumerate(counts):
            per_sample[sample, place] = one_regret(by_score, ends, by_truth, truth, count)
    kept = per_sample[~np.isnan(per_sample).all(axis=1)]
    return {
        "mean": figure(float(np.mean(per_budget)), np.nanmean(kept, axis=1) if len(kept) else []),
        "worst": figure(float(np.max(per_budget)), np.nanmax(kept, axis=1) if len(kept) else []),
        "each": per_budget,
    }


def one_regret(
    by_score: np.ndarray, ends: np.ndarray, by_truth: np.ndarray, truth: np.ndarray, count: np.ndarray
) -> float:
    """The regret in one sample; NaN if it holds no feasible network. `ends`: where the tie of each place ends."""
    present = count[by_score] > 0
    first = int(present.argmax())
    if not present[first]:
        return float("nan")
    tied = by_score[first : ends[first]]
    best = by_truth[int((count[by_truth] > 0).argmax())]
    return float(truth[best] - np.average(truth[tied], weights=count[tied]))
