"""A split into parts that keeps class shares and keeps groups together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def split(labels: np.ndarray, units: np.ndarray, fractions: Sequence[float], seed: int) -> np.ndarray:
    """The part number (0 is train) of each image: stratified, no unit in two parts, the same for the same seed.

    labels, units: int64 (n,); images of one unit (a group, or copies of one image) stay together.
    fractions:     share of each part, summing to 1.
    Every class has an image in part 0, and where it has at least as many units as there are parts, in each part,
    unless units that hold several classes make that impossible. Without units of several images, the count of each
    class in each part is within one of its share, except where the rule before this one decides. Large units are placed
    greedily, those that hold most of a class first, where they bring the counts nearest to the shares.
    Costs O(n log n) and one small step per unit of several images.
    """
    share = np.asarray(fractions, dtype=float)
    rng = np.random.default_rng(seed)
    parts, classes = len(share), int(labels.max()) + 1
    totals = np.bincount(labels, minlength=classes)
    _, first, units = np.unique(units, return_index=True, return_inverse=True)
    units = np.argsort(np.argsort(first))[units]  # numbered as they appear, so that their names make no difference
    sizes = np.bincount(units)
    pairs = np.unique(np.stack([units, labels]), axis=1)
    waiting = np.bincount(pairs[1], minlength=classes)  # units of each class that have no part yet
    spread = waiting >= parts
    want = np.stack([_apportion(n, share * n, parts if s else 1) for n, s in zip(totals, spread, strict=True)], axis=1)
    have = np.zeros((parts, classes), dtype=np.int64)
    result = np.full(len(labels), -1, dtype=np.int64)

    order = np.argsort(units, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    large = []
    for unit in rng.permutation(np.flatnonzero(sizes > 1)).tolist():
        rows = order[starts[unit] : starts[unit + 1]]
        found, counts = np.unique(labels[rows], return_counts=True)
        large.append((float((counts / totals[found]).max()), rows, found, counts))
    large.sort(key=lambda item: -item[0])
    for _, rows, found, counts in large:
        there = have[:, found]
        cost = (counts * (2 * (there - want[:, found]) + counts) / totals[found]).sum(axis=1)
        lacking = there == 0
        urgent = lacking & spread[found] & (waiting[found] <= lacking.sum(axis=0))
        cost -= 1e6 * urgent.sum(axis=1)
        cost[0] -= 1e12 * bool((lacking[0] & (waiting[found] == 1)).any())
        best = int(np.argmin(cost))
        result[rows] = best
        have[best, found] += counts
        waiting[found] -= 1

    single = np.flatnonzero(result < 0)
    single = single[rng.permutation(len(single))]
    single = single[np.argsort(labels[single], kind="stable")]
    for label, rows in zip(*_runs(labels[single], single), strict=True):
        missing = have[:, label] == 0 if spread[label] else (have[:, label] == 0) & (np.arange(parts) == 0)
        ask = np.maximum(want[:, label] - have[:, label], 0).astype(float)
        ask = ask if ask.any() else share
        ask = ask * (len(rows) / ask.sum())
        counts = _apportion(len(rows), ask, 0, first=np.flatnonzero(missing))
        result[rows] = np.repeat(np.arange(parts), counts)
    return result


def _runs(labels: np.ndarray, rows: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    """Rows cut where their (sorted) labels change: the labels, and the rows of each."""
    found, starts = np.unique(labels, return_index=True)
    return found.tolist(), np.split(rows, starts[1:]) if len(found) else []


def _apportion(total: int, ask: np.ndarray, at_least_one: int, first: np.ndarray | None = None) -> np.ndarray:
    """Whole numbers near `ask` that sum to `total`: one each where one is a must, then by largest remainder."""
    counts = np.zeros(len(ask), dtype=np.int64)
    must = np.arange(at_least_one) if first is None else first
    counts[must[:total]] = 1
    counts = np.maximum(counts, np.floor(ask + 1e-9).astype(np.int64))
    while counts.sum() > total:  # the ones given first made it too many: take from where there is most above the share
        excess = np.where(counts > 1, counts - ask, -np.inf)
        counts[int(np.argmax(excess))] -= 1
    while counts.sum() < total:
        counts[int(np.argmax(ask - counts))] += 1
    return counts
