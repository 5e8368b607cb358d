"""Dynamic data selection: keep images that are still hard, replace the others by such as were not seen yet."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from archscout.errors import UserError
from archscout.selection.quota import draw_stratified
from archscout.selection.selector import Labelled, Record, Selector

HARDNESS, MASTERY, TOP = 0.5, 0.0, 0.0  # defaults of Dds
KEEP, AMONG = 0.6, 1
PATIENCE, DOUBT = 3, 0.3
UPDATES = 20  # after which the curriculum is at its end where nobody said how long the training will be


def hard_scores(record: Record, score: Literal["true", "published"]) -> Tensor:
    """How well each image is known, float32 (n,) from 0, hard, to 1; without meaning where `observed` is zero.

    "true" is the probability of the image's own class. "published" is the score of DDS-NAS's public code, the
    probability of the predicted class, times 0.1 where that is wrong; among errors it takes the surest for the easiest.
    """
    if score == "true":
        return record.true
    return torch.where(record.true >= record.confidence, record.confidence, 0.1 * record.confidence)


def suspects(record: Record, patience: int = PATIENCE, doubt: float = DOUBT) -> Tensor:
    """Bool (n,): images whose label is probably wrong, as the network contradicted it all along.

    An image is suspected once it was judged `patience` times (see Record) with a mean margin below -doubt. Rare classes
    look like wrong labels to a young network, so of each class at most a third of the observed images is suspected, the
    worst.
    Source of the margin: Pleiss et al. 2020, arXiv:2001.10528; the rule here is simpler, without threshold samples.
    """
    doubtful = (record.judged >= max(patience, 1)) & (record.margin < -doubt)
    if not patience or not doubtful.any():
        return doubtful & bool(patience)
    order = torch.argsort(record.margin, stable=True)
    order = order[torch.argsort(record.labels[order], stable=True)]  # by class, the worst first
    labels = record.labels[order]
    known = (record.observed[order] > 0).double()
    count = torch.bincount(labels, weights=known)
    first = torch.searchsorted(labels, torch.arange(len(count)))
    running = torch.cumsum(doubtful[order].double(), 0)
    before = torch.cat([torch.zeros(1, dtype=torch.double), running])[first]
    place = running - before[labels]  # 1, 2, ... among the doubtful of a class
    found = torch.zeros_like(doubtful)
    found[order] = doubtful[order] & (place <= count[labels] / 3)
    return found


def way(record: Record) -> float:
    """How far along the curriculum a training is, from 0 to 1: its progress where known, else over 20 updates."""
    return record.progress if record.total else min(1.0, len(record.changes) / UPDATES)


def due(record: Record, *, hardness: float, mastery: float, top: float, score: Literal["true", "published"]) -> bool:
    """Whether enough of the current subset is mastered for an update.

    The share of mastered images (score at least `hardness`) that is asked for rises along the curriculum from `mastery`
    to `top`; see `way`. Images without an outcome do not count; with none at all nothing is mastered.
    """
    known = record.subset[record.observed[record.subset] > 0]
    mastered = float((hard_scores(record, score)[known] >= hardness).float().mean()) if len(known) else 0.0
    return mastered >= mastery + (top - mastery) * way(record)


def hardest(scores: Tensor, hardness: float, most: int | None) -> Tensor:
    """Bool (k,): the images whose score (k,) is below `hardness`, of these the `most` hardest; None for all."""
    hard = scores < hardness
    if most is not None and int(hard.sum()) > most:
        order = torch.argsort(scores, stable=True)
        hard = torch.zeros_like(hard)
        hard[order[:most]] = True
    return hard


def some_of(hard: Tensor, most: int | None, draw: np.random.Generator) -> Tensor:
    """Bool (k,): of the hard images (k,) bool, `most` drawn at random where they are more; None for all."""
    at = hard.nonzero().squeeze(1)
    if most is None or len(at) <= most:
        return hard
    some = torch.zeros_like(hard)
    some[at[torch.from_numpy(draw.choice(len(at), most, replace=False))]] = True
    return some


def due_by_default(record: Record) -> bool:
    """The update rule of Dds with its default thresholds."""
    return due(record, hardness=HARDNESS, mastery=MASTERY, top=TOP, score="true")


class Dds(Selector):
    """A small subset that moves on: hard images stay, the others give way to images of their class not yet seen.

    A round is one pass over the subset. By default each begins with an update; with thresholds of mastery one does once
    the share of images whose score is at least `hardness` has reached them. Hard images stay and every other is
    replaced by an image of its class that is not in the subset: one of those that never were in it, where there are
    none of those that were not during the last `lately` updates, else of all. No image is taken twice. An update costs
    no forward pass. Where a class has no other image left, the old one stays. Images that are probably mislabelled (see
    suspects) leave the subset and do not come back. An image without an outcome, as after a loop that was broken off,
    is not taken for hard.

    embedding:  read only where `among` is not 1: (n, d) floats, or a kind of `embedding.embed` ("autoencoder",
                "pixels", "untrained"), which is computed from the part at the first update that needs it and kept in
                `cache`.
    hardness:   score from which an image counts as mastered.
    mastery, top:  share of mastered images that triggers an update, at the beginning and at the end of the curriculum;
                0, the default, updates in every round.
    keep:       largest share of a round that stays as hard, at the end of the curriculum; it grows linearly from 0, and
                of more hard images than that, those stay that `staying` says. None: all hard images stay, always.
    staying:    "random" draws them, "hardest" takes those of the lowest score. To a young network nearly all images are
                hard and the hardest are like nothing else: a supernet that trained on them ended at skips and pools.
    among:      candidates that are drawn at random per image to be replaced; the furthest of them in the embedding take
                the places. 1: the draw itself, without an embedding. None: the furthest of all images, as published.
    lately:     updates for which an image that left stays away; 1 excludes only the current subset.
    score:      "true" or "published", see hard_scores.
    patience, doubt:  when a label is suspected; patience=0 for never.
    balanced:   whether the subset holds equally many of each class (all of a class that has fewer) or the natural mix.

    The published method is keep=None, among=None, lately=1, patience=0 with thresholds of mastery that rise, say from
    0.3 to 0.6. The defaults of `keep` and `among` are from a measured grid: docs/decisions/008-what-dds-keeps.md has
    what each rule costs; the others were not compared.

    Costs one permutation of the images per update, and a scan of the index where `among` is not 1; no Python loop over
    images. Fails where hard images are hard because they are wrong, beyond what `suspects` sees, and where a random
    subset redrawn each round is already as good: measure.
    Source: Poyser and Breckon 2025, arXiv:2506.14667; the rules on repeats, labels, `keep` and `among` are ours.
    """

    name = "dds"
    embeds = AMONG != 1
    replacement: Literal["furthest", "random"] = "furthest"

    def __init__(
        self,
        part: Labelled,
        *,
        embedding: Any = "autoencoder",
        hardness: float = HARDNESS,
        mastery: float = MASTERY,
        top: float = TOP,
        keep: float | None = KEEP,
        staying: Literal["random", "hardest"] = "random",
        among: int | None = AMONG,
        lately: int = 3,
        score: Literal["true", "published"] = "true",
        patience: int = PATIENCE,
        doubt: float = DOUBT,
        balanced: bool = True,
        cache: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__(part, **settings)
        shares = {
            "hardness": hardness,
            "mastery": mastery,
            "top": top,
            "doubt": doubt,
            "keep": 1 if keep is None else keep,
        }
        for name, value in shares.items():
            if not 0 <= value <= 1:
                raise UserError(f"{self.name}'s {name} is from 0 to 1, got {value}")
        if staying not in ("random", "hardest"):
            raise UserError(f"{self.name}'s staying is 'random' or 'hardest', got '{staying}'")
        if score not in ("true", "published"):
            raise UserError(f"{self.name}'s score is 'true' or 'published', got '{score}'")
        if lately < 1 or patience < 0 or (among is not None and among < 1):
            raise UserError(
                f"{self.name} wants lately and among of at least 1 and patience of at least 0, got {lately}, {among} "
                f"and {patience}"
            )
        self.embeds = self.replacement == "furthest" and among != 1
        if self.replacement == "furthest":
            from archscout.selection.embedding import given

            given(embedding, len(part))  # a wrong one is refused now, though it may never be read
        self.part: Any = part
        self.cache, self.balanced = cache, balanced
        self.hardness, self.mastery, self.top, self.score = hardness, mastery, top, score
        self.lately, self.patience, self.doubt = lately, patience, doubt
        self.keep, self.staying, self.among = keep, staying, among
        self._embedding = embedding
        self._index: Any = None

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        subset, draw = record.subset, record.generator
        if record.round == 1:
            first = draw_stratified(record.labels.numpy(), record.size, balanced=self.balanced, draw=draw)
            return torch.from_numpy(first), None
        wider = record.size - len(subset)
        if wider <= 0 and not self.due(record):
            return subset, None
        doubtful = suspects(record, self.patience, self.doubt)
        going = doubtful | (record.observed == 0)
        most = None if self.keep is None else round(self.keep * way(record) * len(subset))
        scores = torch.where(going, 2.0, hard_scores(record, self.score))[subset]
        if self.staying == "hardest":
            easy = ~hardest(scores, self.hardness, most)
        else:
            easy = ~some_of(scores < self.hardness, most, draw)
        leaving = subset[easy]
        coming = torch.full_like(leaving, -1)
        since = record.changes[-self.lately :][0]
        for barred in (record.times > 0, record.seen >= since, record.seen < 0):  # never seen, not lately, any
            left = coming < 0
            excluded = barred | doubtful
            excluded[subset] = True
            excluded[coming[~left]] = True
            coming[left] = self._successors(leaving[left], excluded, draw)
        next_subset = torch.cat([subset[~easy], torch.where(coming >= 0, coming, leaving)])
        if wider > 0:
            free = torch.ones(len(record.labels), dtype=torch.bool)
            free[next_subset] = False
            next_subset = torch.cat([next_subset, self._more(record, free & ~doubtful, wider, draw)])
        return next_subset, None

    def due(self, record: Record) -> bool:
        """Whether the next round begins with an update; see the function `due`."""
        return due(record, hardness=self.hardness, mastery=self.mastery, top=self.top, score=self.score)

    def _successors(self, leaving: Tensor, excluded: Tensor, draw: np.random.Generator) -> Tensor:
        """For each image that leaves, the one that comes (k,) int64, or -1 where its class has none left."""
        labels = self.record.labels
        if self.replacement == "random" or self.among == 1:  # of one candidate each, all are taken
            return random_successors(labels, leaving, excluded, draw)
        if self.among is not None:
            excluded = ~drawn_candidates(labels, leaving, ~excluded, self.among, draw)
        return torch.from_numpy(self.index.replace(leaving.numpy(), excluded.numpy()))

    def _more(self, record: Record, free: Tensor, count: int, draw: np.random.Generator) -> Tensor:
        """`count` more images of those that are free, or all of them, as many of each class as the mix wants."""
        positions = free.nonzero().squeeze(1)
        labels = record.labels[positions].numpy()
        classes = len(np.unique(labels))
        if count >= len(positions) or count < classes:
            return positions[torch.from_numpy(draw.permutation(len(positions))[:count])]
        return positions[torch.from_numpy(draw_stratified(labels, count, balanced=self.balanced, draw=draw))]

    @property
    def index(self) -> Any:
        """The furthest-neighbour index over the embedding, made when it is first needed."""
        if self._index is None:
            from archscout.selection.embedding import embed
            from archscout.selection.furthest import Furthest

            points = embed(self.part, self._embedding, cache=self.cache)
            self._index = Furthest(points, self.record.labels.numpy())
        return self._index


def drawn_candidates(labels: Tensor, leaving: Tensor, free: Tensor, each: int, draw: np.random.Generator) -> Tensor:
    """Bool (n,): of the free images (n,) bool of each class, `each` at random per image of it that leaves, or all."""
    names, at = labels.numpy(), free.nonzero().squeeze(1).numpy()
    at = at[draw.permutation(len(at))]
    at = at[np.argsort(names[at], kind="stable")]  # by class, random within
    classes = int(names.max()) + 1
    have = np.bincount(names[at], minlength=classes)
    within = np.arange(len(at)) - np.repeat(np.cumsum(have) - have, have)
    wanted = each * np.bincount(names[leaving.numpy()], minlength=classes)
    drawn = torch.zeros(len(labels), dtype=torch.bool)
    drawn[torch.from_numpy(at[within < wanted[names[at]]])] = True
    return drawn


def random_successors(labels: Tensor, leaving: Tensor, excluded: Tensor, draw: np.random.Generator) -> Tensor:
    """A random image of the same class for each one that leaves, none twice, none excluded; -1 where none is left."""
    free = (~excluded).nonzero().squeeze(1).numpy()
    free = free[draw.permutation(len(free))]
    free = free[np.argsort(labels.numpy()[free], kind="stable")]
    classes = int(labels.max()) + 1
    have = np.bincount(labels.numpy()[free], minlength=classes)
    first = np.cumsum(have) - have
    kind = labels[leaving].numpy()
    order = np.argsort(kind, kind="stable")
    wanted = np.bincount(kind, minlength=classes)
    place = np.empty(len(kind), dtype=np.int64)
    place[order] = np.arange(len(kind)) - np.repeat(np.cumsum(wanted) - wanted, wanted)
    result = np.full(len(kind), -1, dtype=np.int64)
    there = place < have[kind]
    result[there] = free[first[kind[there]] + place[there]]
    return torch.from_numpy(result)
