"""Images drawn with a chance that grows with their last loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from archscout.errors import UserError
from archscout.selection.quota import quotas
from archscout.selection.selector import Labelled, Record, Selector


def chances(scores: np.ndarray, size: int) -> np.ndarray:
    """The chance (n,) of each image to be among `size`: min(1, c score), with c such that they add up to `size`.

    scores: float64 (n,), above 0. Costs one sort.
    """
    falling = np.sort(scores)[::-1]
    rest = np.cumsum(falling[::-1])[::-1]  # what is left from each place on
    places = np.arange(size)
    certain = int(np.argmax((size - places) * falling[:size] <= rest[:size]))  # so many are above chance one
    return np.minimum(1.0, scores * ((size - certain) / rest[certain]))


def draw_systematic(chance: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Positions, each at most once and with exactly its chance (n,); as many as the chances add up to, a whole number.

    The chances lie on a line in random order, and a comb with teeth one apart is laid on it (Madow 1949).
    """
    order, size = draw.permutation(len(chance)), round(chance.sum())
    ends = np.cumsum(chance[order])
    teeth = (draw.random() + np.arange(size)) * (ends[-1] / size)
    return order[np.unique(np.searchsorted(ends, teeth, side="right").clip(max=len(chance) - 1))]


class Proportional(Selector):
    """Importance sampling: an image is drawn with a chance proportional to its last loss.

    Image i is in the round with chance p_i = min(1, c (loss_i / mean loss + smoothing)), where c makes `size` images of
    it, each at most once; an image without a loss yet counts as one of mean loss. The loss of i is weighted with 1/p_i,
    so that the weighted sum over the round is an unbiased estimate of the sum over all images. The base class scales
    weights to mean one, which makes a ratio of it: biased by about 1/size, and less noisy.

    smoothing:  keeps easy images in play. No weight is above (1 + smoothing) / smoothing times the one of an image of
                mean loss, so nothing has to be clipped.
    weighted:   False leaves out the 1/p_i: training then emphasises hard images, and is not unbiased.
    balanced:   None draws from all images alike: in the round a class has its share of the loss, hard ones have more.
                True takes equally many of each class (all of one that has fewer), False its share of the images.

    Costs one sort of n numbers a round. Fails with wrong labels, whose losses stay high; an image that is not drawn
    keeps its old loss.

    Source: Katharopoulos and Fleuret 2018, arXiv:1803.00942, who draw with replacement from a large batch of fresh
    scores and replace the loss by a bound of the gradient's norm; here it is the last loss of a training step, which
    costs no extra forward pass.
    """

    name = "proportional"

    def __init__(
        self,
        part: Labelled,
        *,
        smoothing: float = 0.1,
        weighted: bool = True,
        balanced: bool | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(part, **settings)
        if not smoothing > 0:
            raise UserError(f"proportional wants a smoothing above 0, such as 0.1, got {smoothing}")
        self.smoothing, self.weighted, self.balanced = smoothing, weighted, balanced

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        loss = record.loss.double().numpy().clip(min=0)
        known = (record.observed > 0).numpy() & np.isfinite(loss)
        mean = loss[known].mean() if known.any() else 0.0
        relative = np.where(known, loss, mean) / mean if mean > 0 else np.ones(len(loss))
        scores = relative + self.smoothing
        groups, numbers = np.zeros(len(loss), dtype=np.int64), np.array([record.size])
        if self.balanced is not None:
            groups = record.labels.numpy()
            numbers = quotas(np.bincount(groups), record.size, balanced=self.balanced, draw=record.generator)
        chance, drawn = np.ones(len(loss)), []
        for group in np.flatnonzero(numbers):
            members = np.flatnonzero(groups == group)
            chance[members] = chances(scores[members], int(numbers[group]))
            drawn.append(members[draw_systematic(chance[members], record.generator)])
        chosen = np.concatenate(drawn)
        return torch.from_numpy(chosen), torch.from_numpy(1 / chance[chosen]) if self.weighted else None
