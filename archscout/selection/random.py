"""A random share of the images, redrawn each round."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from archscout.selection.selector import Labelled, Record, Selector


class Random(Selector):
    """A new random share each round; the control that every cleverer selector has to beat.

    balanced=False keeps the proportions of the classes (stratified, off by less than one image a class);
    balanced=True takes equally many of every class, and all of a class that has too few. No image comes twice.
    Costs one sort of n numbers a round.
    """

    name = "random"

    def __init__(self, part: Labelled, *, seed: int = 0, share: float = 1.0, balanced: bool = False) -> None:
        super().__init__(part, seed=seed, share=share)
        self.balanced = balanced

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        labels, draw = record.labels.numpy(), record.generator
        shuffled = draw.permutation(len(labels))
        by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]  # grouped by class, random within
        counts = np.bincount(labels)
        within = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # 0, 1, ... in each class
        offset = draw.random(len(counts))[labels[by_class]]  # which class gets the odd image is by chance
        key = within + offset if self.balanced else (within + offset) / counts[labels[by_class]]
        return torch.from_numpy(by_class[np.argsort(key, kind="stable")[: record.size]]), None
