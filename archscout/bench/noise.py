"""How far noise in the accuracies lets any score go."""

from __future__ import annotations

import numpy as np

from archscout.bench.correlation import kendall, spearman

BINS = 20  # slices of accuracy, each with as many repeats, within which the noise is taken as equal


def residuals(truth: np.ndarray, twins: np.ndarray, seeds: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the noise of a network's accuracy, and the accuracy at which each was drawn; two equal-length arrays.

    With accuracies of k seeds (n, k): the differences from their mean, over sqrt(k - 1), which are as large as the
    noise of a mean of k. Otherwise the differences of twins from their group's mean, times sqrt(g / (g - 1)) for
    groups of g. Twins compute the same: only the randomness of training (initial weights, order of the images) and
    which seeds were averaged set them apart.
    """
    if seeds is not None and seeds.shape[1] > 1:
        k = seeds.shape[1]
        centre = seeds.mean(axis=1, keepdims=True)
        noise = (seeds - centre) / np.sqrt(k - 1)
        return noise.ravel(), np.broadcast_to(centre, seeds.shape).ravel()
    _, group, size = np.unique(twins, return_inverse=True, return_counts=True)
    centre = np.bincount(group, truth) / size
    rows = size[group] > 1
    scale = np.sqrt(size[group][rows] / (size[group][rows] - 1))
    return (truth[rows] - centre[group][rows]) * scale, centre[group][rows]


def ceiling(
    truth: np.ndarray,
    twins: np.ndarray,
    seeds: np.ndarray | None,
    share: float,
    repeats: int = 20,
    seed: int = 0,
) -> dict[str, object] | None:
    """What a score could reach at most within the best `share` of the networks: {"low", "high", "noise"} or None.

    truth: (n,) accuracies.  twins: (n,) numbers; rows of one number compute the same.  seeds: (n, k) or None.
    share: 1 for all networks.  None if there are neither twins nor seeds.

    `high`: what the expected accuracy itself would reach if the accuracies were measured anew. The published
    accuracies, averaged over twins, stand for the expected ones; noise drawn from the residuals at about the same
    accuracy is added; the slice is cut by the sum, as the protocol cuts it by published accuracy; mean of `repeats`
    draws. The averages still hold noise and so are spread too widely: no score can be expected above this.
    `low`: what is reached by a predictor that exists, which trains every network of the slice once more and reads the
    result: the mean accuracy of the other twins, or of the other seeds. Its own noise is in it: a score that knew
    the expected accuracy would lie above.
    `noise`: standard deviation of the accuracies' noise, in points, over the slice.
    Each is a mapping spearman, kendall (noise: a number).
    """
    noise, at = residuals(truth, twins, seeds)
    if len(noise) < 2:
        return None
    order = np.argsort(at, kind="stable")
    noise, at = noise[order], at[order]
    bins = min(BINS, len(noise))
    edges = [at[start] for start in np.linspace(0, len(at), bins + 1).astype(int)[1:-1]]
    pools = [noise[np.searchsorted(edges, at, side="right") == b] for b in range(bins)]
    _, group, size = np.unique(twins, return_inverse=True, return_counts=True)
    expected = (np.bincount(group, truth) / size)[group]
    place = np.searchsorted(edges, expected, side="right")
    rng = np.random.default_rng(seed)
    high = []
    for _ in range(repeats):
        measured = expected.copy()
        for b, pool in enumerate(pools):
            rows = np.flatnonzero(place == b)
            if len(pool):
                measured[rows] += rng.choice(pool, len(rows)) * rng.choice([-1.0, 1.0], len(rows))
        top = best_share(measured, share)
        high.append((spearman(expected[top], measured[top]), kendall(expected[top], measured[top])))
    low = again(truth, twins, seeds, share)
    threshold = truth[best_share(truth, share)].min()
    inside = noise[at >= threshold]
    return {
        "high": dict(zip(("spearman", "kendall"), np.mean(high, axis=0).tolist(), strict=True)),
        "low": low,
        "noise": float(np.sqrt(np.mean(inside**2))) if len(inside) else None,
    }


def again(truth: np.ndarray, twins: np.ndarray, seeds: np.ndarray | None, share: float) -> dict[str, float] | None:
    """Correlations, within the best share, of the accuracies with those of the other twins or of the other seeds."""
    if seeds is not None and seeds.shape[1] > 1:
        pairs = []
        for one in range(seeds.shape[1]):
            top = best_share(seeds[:, one], share)
            others = np.delete(seeds, one, axis=1).mean(axis=1)
            pairs.append((spearman(others[top], seeds[top, one]), kendall(others[top], seeds[top, one])))
        return dict(zip(("spearman", "kendall"), np.mean(pairs, axis=0).tolist(), strict=True))
    _, group, size = np.unique(twins, return_inverse=True, return_counts=True)
    top = best_share(truth, share)
    top = top[size[group[top]] > 1]
    if len(top) < 3:
        return None
    total = np.bincount(group, truth)[group[top]]
    others = (total - truth[top]) / (size[group[top]] - 1)
    return {"spearman": spearman(others, truth[top]), "kendall": kendall(others, truth[top])}


def best_share(truth: np.ndarray, share: float) -> np.ndarray:
    """Rows of the best share of the networks by accuracy, at least one; those that tie with the last are in too."""
    number = max(1, int(share * len(truth) + 1e-9))
    return np.flatnonzero(truth >= np.partition(truth, len(truth) - number)[len(truth) - number])
