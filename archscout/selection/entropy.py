"""Proxy data: a fixed subset of the images a network is very sure or very unsure of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from archscout.errors import UserError
from archscout.selection.quota import quotas
from archscout.selection.selector import Labelled, Record, Selector


def largest_entropy(record: Record) -> Tensor:
    """The most entropy (n,) that an answer can have, in nats, given the probabilities the Record holds of it.

    Those are of the predicted class and of the image's own; the rest is taken as spread evenly over the other classes.
    Exact for two classes, and for three where the answer was wrong; else too large.
    """
    best, own = record.confidence.double(), record.true.double()
    own = torch.where(own < best, own, 0.0)  # zero where it is the predicted one
    classes = len(record.counts)
    others = torch.where(own > 0, classes - 2, classes - 1).clamp(min=1)
    rest = (1 - best - own).clamp(min=0.0)
    return torch.special.entr(best) + torch.special.entr(own) + torch.special.entr(rest) + rest * others.log()


def tail_chances(entropies: np.ndarray, width: float) -> np.ndarray:
    """The chance (n,) of each image to be drawn first: P1 of the paper, over bins of log10 entropy.

    A bin with b images, of which the fullest has B, is drawn with a chance proportional to B - b + 1, and each of its
    images equally. Entropies below 1e-8 count as 1e-8.
    """
    logs = np.log10(np.maximum(entropies, 1e-8))
    _, place, counts = np.unique(np.floor(logs / width), return_inverse=True, return_counts=True)
    bins = (counts.max() - counts + 1) / counts
    return bins[place] / bins[place].sum()


class Entropy(Selector):
    """A fixed subset that favours both tails of the entropy of a network's answers: typical and ambiguous images.

    Made for architecture search, where it replaces the training data. Images are drawn one by one without replacement;
    the first is image i with chance (B - b_i + 1) / (b_i sum over bins of (B - b + 1)), where b_i images are in its bin
    of the histogram of log10 entropy and B in the fullest. The subset is drawn once and kept.

    scores:    (n,), the entropies in nats of a network trained on this part, as in the paper. None: all images are
               trained on for `warmup` rounds, and an entropy is made of the last outcomes; see largest_entropy. That is
               not the paper's: the network is young, its answers are to augmented images at different moments of a
               round, and the entropy is an upper bound from two probabilities. Images without an outcome count as
               median.
    width:     of a bin, in powers of ten. The authors' code has 0.5 for CIFAR-10, 0.25 for CIFAR-100 and ImageNet, 0.2
               for SVHN.
    warmup:    rounds of all images before the choice, if there are no `scores`.
    balanced:  None draws from all images alike, as the paper does; True takes equally many of each class (all of one
               that has too few), False its share.

    Costs one sort of n numbers, once, and the warm-up counts as training. Fails where the fullest bin holds what is to
    be learned, or where most high entropies are wrong labels.

    Source: Na et al. 2021, arXiv:2106.04784.
    """

    name = "entropy"

    def __init__(
        self,
        part: Labelled,
        *,
        scores: np.ndarray | None = None,
        width: float = 0.5,
        warmup: int = 1,
        balanced: bool | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(part, **settings)
        if not width > 0 or warmup < 1:
            raise UserError(f"entropy wants a width above 0 and a warmup of 1 round or more, got {width} and {warmup}")
        self.scores = None if scores is None else np.asarray(scores, dtype=np.float64)
        if self.scores is not None and (self.scores.shape != (len(part),) or not (self.scores >= 0).all()):
            raise UserError(
                f"entropy wants scores from 0, one for each of {len(part)} images, got shape {self.scores.shape} "
                f"from {self.scores.min(initial=np.inf)}"
            )
        self.width, self.warmup, self.balanced = width, warmup if scores is None else 0, balanced

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        n = len(record.labels)
        if record.round <= self.warmup:
            return torch.arange(n), None
        if record.round > self.warmup + 1:
            return record.subset, None
        chance = tail_chances(self._entropies(record), self.width)
        groups = np.zeros(n, dtype=np.int64) if self.balanced is None else record.labels.numpy()
        numbers = quotas(np.bincount(groups), record.size, balanced=bool(self.balanced), draw=record.generator)
        chosen = []
        for group in np.flatnonzero(numbers):
            members = np.flatnonzero(groups == group)
            of_them = chance[members] / chance[members].sum()
            chosen.append(record.generator.choice(members, numbers[group], replace=False, p=of_them))
        return torch.from_numpy(np.concatenate(chosen)), None

    def _entropies(self, record: Record) -> np.ndarray:
        if self.scores is not None:
            return self.scores
        known = record.observed > 0
        entropies = largest_entropy(record)
        median = entropies[known].median() if known.any() else torch.tensor(1.0, dtype=torch.double)
        return torch.where(known, entropies, median).numpy()
