"""Intervals by resampling networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw_counts(groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each network is in each bootstrap sample: (resamples, n) int16.

    Whole groups are drawn with replacement, as many as there are: networks that compute the same share their score
    exactly and their accuracy nearly, so they are no independent draws, and drawing them singly would make intervals
    too narrow. groups: (n,) number of the group of each network.
    """
    _, group = np.unique(groups, return_inverse=True)
    number = int(group.max(initial=-1)) + 1
    rng = np.random.default_rng(seed)
    counts = np.empty((resamples, len(groups)), dtype=np.int16)
    for sample in range(resamples):
        counts[sample] = np.bincount(rng.integers(number, size=number), minlength=number)[group]
    return counts


def figure(value: float, samples: Sequence[float]) -> dict[str, float]:
    """A value with the 2.5th and 97.5th percentile of its bootstrap samples; without samples, the value itself.

    Statistics of the best of a pool (a pick, a regret) are biased under resampling, since the best network is missing
    from a third of the samples: their interval need not hold the value. It says what other networks of the space would
    have given.
    """
    low, high = np.percentile(samples, [2.5, 97.5]) if len(samples) else (value, value)
    return {"value": float(value), "low": float(low), "high": float(high)}
