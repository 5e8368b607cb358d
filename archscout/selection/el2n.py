"""The images on which a young network errs most."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from archscout.errors import UserError
from archscout.selection.quota import quotas
from archscout.selection.selector import Labelled, Record, Selector


class El2n(Selector):
    """A fixed subset of the images with the largest error early in training.

    The score of the paper is the mean, over networks of different seeds, of |p - y|, the Euclidean length of the
    answer's probabilities p less the true one-hot y. The subset is chosen once and kept.

    scores:    (n,), larger for harder. None: all images are trained on for `warmup` rounds, then the score is
               1 - p_own, from the last outcome of this one network. It bounds the paper's from both sides,
               sqrt(C / (C - 1)) (1 - p_own) <= |p - y| <= sqrt(2) (1 - p_own) with C classes, but one network instead
               of ten makes it noisier. Images without an outcome count as mean.
    warmup:    rounds of all images before the choice, if there are no `scores`; the paper's scores are of about a tenth
               of the training.
    balanced:  None takes the largest of all images, as the paper does; True takes equally many of each class (all of
               one that has too few), False its share.

    Costs one sort of n numbers, once, and the warm-up counts as training. Use it for shares of half and more: small
    shares of hard images only are worse than random ones (Sorscher et al. 2022, arXiv:2206.14486), and wrong labels
    come first.

    Source: Paul et al. 2021, arXiv:2107.07075.
    """

    name = "el2n"

    def __init__(
        self,
        part: Labelled,
        *,
        scores: np.ndarray | None = None,
        warmup: int = 1,
        balanced: bool | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(part, **settings)
        if warmup < 1:
            raise UserError(f"el2n wants a warmup of 1 round or more, got {warmup}")
        self.scores = None if scores is None else np.asarray(scores, dtype=np.float64)
        if self.scores is not None and (self.scores.shape != (len(part),) or np.isnan(self.scores).any()):
            raise UserError(
                f"el2n wants a score for each of {len(part)} images, none of them NaN, got shape {self.scores.shape}"
            )
        self.warmup, self.balanced = warmup if scores is None else 0, balanced

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        n = len(record.labels)
        if record.round <= self.warmup:
            return torch.arange(n), None
        if record.round > self.warmup + 1:
            return record.subset, None
        order = np.lexsort((record.generator.random(n), -self._errors(record)))  # largest first, ties by chance
        groups = np.zeros(n, dtype=np.int64) if self.balanced is None else record.labels.numpy()
        numbers = quotas(np.bincount(groups), record.size, balanced=bool(self.balanced), draw=record.generator)
        chosen = [order[groups[order] == group][:number] for group, number in enumerate(numbers)]
        return torch.from_numpy(np.concatenate(chosen)), None

    def _errors(self, record: Record) -> np.ndarray:
        if self.scores is not None:
            return self.scores
        known = (record.observed > 0).numpy()
        errors = 1 - record.true.double().numpy()
        return np.where(known, errors, errors[known].mean() if known.any() else 1.0)
