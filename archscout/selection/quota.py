"""How many images of each class a round holds, and a draw of that many."""

from __future__ import annotations

import numpy as np


def quotas(counts: np.ndarray, size: int, *, balanced: bool, draw: np.random.Generator | None = None) -> np.ndarray:
    """The images of each class (classes,) int64 in a subset of `size` images out of `counts` (classes,).

    balanced=True gives every class equally many, and all of a class that has fewer; balanced=False keeps the shares of
    the classes. Either way a class with images has at least one, none is asked for more than it has, and the sum is
    `size`, which is at least the number of classes with images and at most all images. What is no whole number is
    rounded; with `draw` by chance, so that the mean over draws is exact (systematic sampling over classes).
    """
    counts = np.asarray(counts, dtype=np.int64)
    least = (counts > 0).astype(float)
    if not least.sum() <= size <= counts.sum():
        raise ValueError(f"a subset of {size} out of {counts.sum()} images in {least.sum():.0f} classes cannot be")
    want = np.minimum(_level(counts, size), counts) if balanced else size / counts.sum() * counts
    while (short := want < least).any():  # classes below one image get one, the others share what is left
        want[short] = 1.0
        above = want > least
        want[above] = 1.0 + (want[above] - 1.0) * (size - want[~above].sum() - above.sum()) / (want[above] - 1.0).sum()
    order = np.arange(len(counts)) if draw is None else draw.permutation(len(counts))
    start = 0.5 if draw is None else draw.random()
    steps = np.floor(np.concatenate([[0.0], np.round(np.cumsum(want[order]), 9)]) + start)
    result = np.empty(len(counts), dtype=np.int64)
    result[order] = np.diff(steps).astype(np.int64)
    return result


def draw_stratified(labels: np.ndarray, size: int, *, balanced: bool, draw: np.random.Generator) -> np.ndarray:
    """`size` positions (size,) int64, each once, at random within the classes, as many of each as `quotas` says.

    labels: int64 (n,). Costs one sort of n numbers.
    """
    counts = np.bincount(labels)
    wanted = quotas(counts, size, balanced=balanced, draw=draw)
    shuffled = draw.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]  # grouped by class, random within
    within = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... in each class
    return by_class[within < wanted[labels[by_class]]]


def _level(counts: np.ndarray, size: int) -> float:
    """The height at which the classes are cut so that `size` images remain."""
    left, open_ = float(size), len(counts)
    for count in np.sort(counts):
        if count * open_ >= left:
            return left / open_
        left, open_ = left - count, open_ - 1
    return float(counts.max())
