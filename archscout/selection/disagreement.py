"""The images on which several networks disagree: what separates candidates, rather than what one finds hard."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from archscout.errors import UserError
from archscout.selection.quota import draw_stratified
from archscout.selection.selector import Labelled, Record, Selector

FOCUS = 0.5


def disagreements(answers: np.ndarray) -> np.ndarray:
    """The share (m,) of the pairs of networks that answer an image differently: 0 where all agree, 1 where no two do.

    answers: (networks, m), the predicted classes. Zero for a single network. Costs O(networks m log networks).
    """
    answers = np.asarray(answers)
    k, m = answers.shape
    if k < 2:
        return np.zeros(m)
    ordered = np.sort(answers, axis=0)
    same, run = np.zeros(m), np.zeros(m)  # `run`: networks before this one in a stretch of equal answers
    for row in range(1, k):
        run = np.where(ordered[row] == ordered[row - 1], run + 1, 0)
        same += run
    return 1 - same / (k * (k - 1) / 2)


class Disagreement(Selector):
    """A share of the images that favours those on which the candidates of a search disagree, redrawn each round.

    For the short trainings of a verification, where what counts is not how good one network becomes but in which order
    several end: an image that all answer alike tells nothing about the order. A part `focus` of the round is drawn from
    the images that were answered, each with a chance in proportion to its disagreement (see `disagreements`); the rest
    is a fair sample of all others, which keeps the training sound.

    answers:   (networks, m), predicted classes of several networks; None: there are none yet, and the round is a random
               share. The main job gives those of the round before, of which there are then two at least, and in the
               short trainings those of the best so far (`archscout search --select disagreement`); in the first round,
               in the first four short trainings and in `archscout train` there are none.
    asked:     (m,) positions in the part that were answered; default: 0..m-1.
    focus:     0 to 1; less where fewer images disagree.
    balanced:  as in Random, for the fair sample.

    Costs a forward pass of the answered images per network, a third of as many training images, and a sort of n numbers
    a round. Fails where labels are wrong: networks disagree there too. Whether it separates candidates better than
    random images is measured in benchmarks/joint_choice.py.
    The score is the vote disagreement of query by committee (Seung, Opper and Sompolinsky 1992, COLT); its use for
    ordering candidates is ours.
    """

    name = "disagreement"
    compares = True  # takes `answers` and `asked`

    def __init__(
        self,
        part: Labelled,
        *,
        answers: Any = None,
        asked: Any = None,
        focus: float = FOCUS,
        balanced: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(part, **settings)
        if not 0 <= focus <= 1:
            raise UserError(f"disagreement's focus is from 0 to 1, got {focus}")
        self.focus, self.balanced = focus, balanced
        self.chances = np.zeros(len(part))
        if answers is None:
            return
        answers = np.asarray(answers)
        places = np.arange(answers.shape[-1]) if asked is None else np.asarray(asked, dtype=np.int64)
        fits = answers.ndim == 2 and len(places) == answers.shape[1] and len(np.unique(places)) == len(places)
        if not fits or (len(places) and not 0 <= places.min() <= places.max() < len(part)):
            raise UserError(
                f"disagreement wants answers (networks, images) for {len(places)} different positions below "
                f"{len(part)}, got shape {answers.shape}"
            )
        self.chances[places] = disagreements(answers)

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        draw, n = record.generator, len(record.labels)
        able = np.flatnonzero(self.chances > 0)
        count = min(round(self.focus * record.size), len(able))
        # Weighted sampling without replacement: the smallest of exponentials with these rates (Efraimidis and
        # Spirakis 2006, Information Processing Letters 97).
        keys = draw.exponential(size=len(able)) / self.chances[able]
        focused = able[np.argsort(keys, kind="stable")[:count]]
        rest = np.setdiff1d(np.arange(n), focused)
        labels = record.labels.numpy()[rest]
        wanted = record.size - count
        classes = len(np.unique(labels))
        fair = (
            draw_stratified(labels, wanted, balanced=self.balanced, draw=draw)
            if wanted >= classes
            else draw.permutation(len(rest))[:wanted]
        )
        return torch.from_numpy(np.concatenate([focused, rest[fair]])), None
