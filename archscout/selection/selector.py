"""What chooses the training images of a round: a torch sampler that is told how each image fared."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch.utils.data import Sampler

from archscout.errors import UserError
from archscout.naming import word


class Labelled(Protocol):
    """What a selector needs of a part: how many images, and their labels."""

    @property
    def labels(self) -> np.ndarray: ...

    def __len__(self) -> int: ...


@dataclass
class Record:
    """What is known of every image of a part, as flat arrays of n entries; position i is the part's i-th image.

    labels:      int64, the classes.
    size:        how many images a round should have.
    loss:        float32, the last training loss; zero and without meaning where `observed` is zero, as are the next
                 three.
    confidence:  float32, the last probability of the predicted class.
    true:        float32, the last probability of the image's own class; equal to `confidence` where it was right.
    margin:      float32, `true` less the largest probability of another class, the mean over the outcomes that were
                 judged; low for an image whose label the network keeps contradicting (Pleiss et al. 2020,
                 arXiv:2001.10528).
    judged:      int64, how many outcomes `margin` is the mean of: those since the network was able.
    able:        1 from the round after the first in which half of the images were answered right, before that 0.
    observed:    int64, how many outcomes were recorded.
    seen:        int64, the round in which the image was last trained on, counted from 1; zero for never.
    times:       int64, in how many rounds the image was chosen.
    subset:      int64, the positions of the current round, in the order in which they are trained on.
    weights:     float32, what an image's loss is multiplied with in the current round; mean one over the subset.
    changes:     int64 (k,), the rounds that began with another set of images than the one before.
    round:       the number of the current round, from 1; zero before the first.
    spent:       images in all rounds so far, the current one counted whole.
    before:      images in the rounds before the current one; in `choose`, before the one that is chosen.
    total:       images that the whole training will see, zero if nobody said.
    generator:   what a choice draws from: a new one for every round, made from (seed, round).
    """

    labels: Tensor
    size: int
    seed: int
    loss: Tensor = field(init=False)
    confidence: Tensor = field(init=False)
    true: Tensor = field(init=False)
    margin: Tensor = field(init=False)
    judged: Tensor = field(init=False)
    observed: Tensor = field(init=False)
    seen: Tensor = field(init=False)
    times: Tensor = field(init=False)
    subset: Tensor = field(init=False)
    weights: Tensor = field(init=False)
    changes: Tensor = field(init=False)
    able: int = 0
    round: int = 0
    spent: int = 0
    before: int = 0
    total: int = 0
    generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.labels)
        for name in _FLOATS:
            setattr(self, name, torch.zeros(n))
        for name in ("observed", "judged", "seen", "times"):
            setattr(self, name, torch.zeros(n, dtype=torch.int64))
        self.weights = torch.ones(n)
        self.subset = torch.zeros(0, dtype=torch.int64)
        self.changes = torch.zeros(0, dtype=torch.int64)
        self.generator = np.random.default_rng([self.seed, self.round])

    @property
    def progress(self) -> float:
        """The share of the training that is done when the current round begins; zero if nobody said how long it is."""
        return min(1.0, self.before / self.total) if self.total else 0.0

    @property
    def counts(self) -> np.ndarray:
        """Images of each class (classes,)."""
        return np.bincount(self.labels.numpy())

    def left(self) -> Tensor:
        """Bool (n,): whether an image was in an earlier round and is not in the current one."""
        mask = self.times > 0
        mask[self.subset] = False
        return mask


def batches_of_round(record: Record, per_image: float, made: int) -> int:
    """Into how many batches the current round is cut, when `made` were made of all rounds before it.

    As many as all rounds so far are worth at `per_image` batches an image, so that no budget of batches drifts where
    rounds hold a few batches only; at least one, and none without an image.
    """
    return min(max(1, round(record.spent * per_image) - made), len(record.subset))


_FLOATS = ("loss", "confidence", "true", "margin")
_STATE = (*_FLOATS, "observed", "judged", "seen", "times", "subset", "weights", "changes")
_NUMBERS = ("able", "round", "seed", "size", "spent", "before", "total")


class Selector(Sampler[int], ABC):
    """The base of all selectors: keeps the Record, shuffles, saves and restores; a new one writes `choose` only.

    Iterating, or `next_round()`, starts the next round, so it goes into a DataLoader as its `sampler`. In a loop of
    your own, `loss = selector.observe(positions, losses, logits, labels)` is the loss to step on; the positions must
    travel with the batch, since a prefetching loader has drawn more than it has delivered: `archscout.select(loader,
    ...)` does that. A subclass keeps no state of its own, otherwise a resumed run differs: the Record has what a choice
    needs. In several processes (torch.distributed) every process draws its share of the round; at its end the outcomes
    are gathered, the first process chooses, and all get the choice.

    part:      anything with a length and `labels` (n,); positions 0..n-1 are what is chosen.
    share:     the wanted part of the images in a round, above 0 and at most 1.
    size:      or the wanted number of images.
    unbiased:  whether losses are weighted so that each class counts as much as its share of all images, however many of
               it were chosen. The estimate of the mean loss is then unbiased where a class's images are chosen at
               random.
    A class is never lost: one of which nothing was chosen is given back its image that was not trained on for longest.
    Costs about 70 bytes an image. Raises UserError for a share or size out of range, fewer images than classes, or an
    empty part.
    """

    name: str = ""  # the word it goes by; default: the name of the class
    embeds: bool = False  # whether it compares images, and takes `embedding` and `cache`

    def __init__(
        self,
        part: Labelled,
        *,
        seed: int = 0,
        share: float = 1.0,
        size: int | None = None,
        unbiased: bool = False,
    ) -> None:
        n = len(part)
        if not 0 < share <= 1:
            raise UserError(f"a selector's share is above 0 and at most 1, got {share}")
        if n == 0:
            raise UserError("a selector needs at least one image, got an empty part")
        if size is not None and not 0 < size <= n:
            raise UserError(f"a selector's size is from 1 to the {n} images there are, got {size}")
        if seed < 0:
            raise UserError(f"a selector's seed is a whole number from 0, got {seed}")
        labels = torch.as_tensor(np.array(part.labels, dtype=np.int64))
        if len(labels) != n or (n and int(labels.min()) < 0):
            raise UserError(f"a selector wants a label from 0 for each of {n} images, got {len(labels)} labels")
        wanted = max(1, round(share * n)) if size is None else size
        classes = int((torch.bincount(labels) > 0).sum())
        if wanted < classes:
            raise UserError(
                f"a round of {wanted} of {n} images cannot hold {classes} classes; "
                f"raise share to {math.ceil(1000 * classes / n) / 1000:g}"
            )
        self.record = Record(labels, wanted, seed)
        self.unbiased = unbiased
        self._drawn = torch.zeros(n, dtype=torch.bool)  # whether an image is in the current round

    @abstractmethod
    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        """The positions (k,) int64 of the next round, each at most once, and their weights (k,), or None for equal.

        `record.round` is already the round that is chosen for, `record.subset` still the one before; draw from
        `record.generator` only.
        """

    def signature(self) -> list[Any]:
        """What makes it another selector than one of the same class: its word, and its settings that are plain values.

        Of a selector that was just made: audits can widen its rounds.
        """
        plain = {name: value for name, value in vars(self).items() if isinstance(value, str | int | float)}
        return [word(self), self.record.size, self.record.seed, dict(sorted(plain.items()))]

    def expect(self, images: int) -> None:
        """Says how many images the whole training will see; some selectors end otherwise than they begin."""
        self.record.total = images

    def next_round(self) -> Tensor:
        """Chooses the next round and returns its positions (k,) int64, shuffled; in every process the same."""
        record, together = self.record, _processes() > 1
        if together and record.round:
            self._gather()
        last = record.subset[record.seen[record.subset] == record.round] if record.round else record.subset
        if len(last) and not record.able:
            record.able = int((record.true[last] >= record.confidence[last]).double().mean() >= 0.5)
        record.round, record.before = record.round + 1, record.spent
        record.generator = np.random.default_rng([record.seed, record.round])
        chosen = self._chosen() if not together or dist.get_rank() == 0 else None
        if together:
            box = [chosen]
            dist.broadcast_object_list(box, src=0)
            chosen = box[0]
        assert chosen is not None
        subset, weights, record.size = chosen
        drawn = torch.zeros(len(record.labels), dtype=torch.bool)
        drawn[subset] = True
        if not torch.equal(drawn, self._drawn):
            record.changes = torch.cat([record.changes, torch.tensor([record.round])])
        self._drawn = drawn
        record.times[subset] += 1
        record.weights = torch.ones(len(record.labels))
        record.weights[subset] = weights
        record.subset = subset
        record.spent += len(subset)
        return subset

    def _chosen(self) -> tuple[Tensor, Tensor, int]:
        """What `choose` says, checked, with no class lost, in a random order; with weights of mean one."""
        record = self.record
        subset, weights = self.choose(record)
        subset = torch.as_tensor(subset, dtype=torch.int64)
        if len(subset) == 0:
            raise ValueError(f"selector '{word(self)}' chose nothing in round {record.round}")
        inside = int(subset.min()) >= 0 and int(subset.max()) < len(record.labels)
        if not inside or len(subset.unique()) < len(subset):
            raise ValueError(f"selector '{word(self)}' chose an image twice or one that is not there")
        weights = torch.ones(len(subset)) if weights is None else torch.as_tensor(weights, dtype=torch.float32)
        if len(weights) != len(subset):
            raise ValueError(f"selector '{word(self)}' gave {len(weights)} weights for {len(subset)} images")
        if not (torch.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
            raise ValueError(f"selector '{word(self)}' gave weights that are negative, not finite or all zero")
        lost = _lost(record, subset)
        subset, weights = torch.cat([subset, lost]), torch.cat([weights, weights.mean().expand(len(lost))])
        if self.unbiased:
            labels = record.labels[subset]
            have = torch.bincount(labels, weights=weights.double(), minlength=int(record.labels.max()) + 1)
            want = torch.bincount(record.labels).double()
            weights = (weights * (want / have.clamp(min=1e-12))[labels]).float()
        order = torch.from_numpy(record.generator.permutation(len(subset)))
        return subset[order], (weights / weights.mean())[order], record.size

    def observe(self, index: Tensor, losses: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Records what a batch gave and returns the loss to step on, the mean of weight times loss.

        index (b,) positions in the part, losses (b,) one per image with their graph, logits (b, classes), target (b,).
        An image observed twice in a round has its last outcome, and both count in its mean margin. Raises ValueError
        for a position that the current round does not hold.
        """
        self.note(index, losses, logits, target)
        return self.weigh(index, losses)

    def weigh(self, index: Tensor, losses: Tensor) -> Tensor:
        """The mean of weight times loss over a batch; index and losses (b,)."""
        return (losses * self.record.weights[index.cpu()].to(losses.device)).mean()

    @torch.no_grad()
    def note(self, index: Tensor, losses: Tensor, logits: Tensor, target: Tensor) -> None:
        """Records the outcomes of a batch; see observe. Costs a softmax of the logits."""
        record, index = self.record, index.cpu()
        inside = (index >= 0) & (index < len(self._drawn))
        if not inside.all() or not self._drawn[index].all():
            strange = index[~inside] if not inside.all() else index[~self._drawn[index]]
            raise ValueError(
                f"image {int(strange[0])} was observed, but round {record.round} holds {len(record.subset)} others: "
                "observe the positions that came with the batch"
            )
        if len(losses) != len(index) or losses.ndim != 1:
            raise ValueError(
                f"{len(index)} images were observed with losses of shape {tuple(losses.shape)}: "
                "give one loss per image (reduction='none')"
            )
        chance = logits.detach().float().softmax(1)
        own = target.detach().long().view(-1, 1)
        true = chance.gather(1, own).squeeze(1)
        other = chance.scatter(1, own, -1.0).amax(1).clamp_(min=0.0)
        record.loss[index] = losses.detach().float().cpu()
        record.true[index] = true.cpu()
        record.confidence[index] = torch.maximum(true, other).cpu()
        record.observed[index] += 1
        if record.able:
            number = record.judged[index] + 1
            record.margin[index] += ((true - other).cpu() - record.margin[index]) / number
            record.judged[index] = number
        record.seen[index] = record.round

    def _gather(self) -> None:
        """Gives every process the outcomes of all: the images of a round are shared out, so each has some of them.

        One sum of seven numbers per image of the round, over the processes.
        """
        record = self.record
        subset = record.subset.sort().values
        mine = (record.seen[subset] == record.round).double()
        columns = [getattr(record, name)[subset].double() * mine for name in _FLOATS]
        counts = [getattr(record, name)[subset].double() * mine for name in ("observed", "judged")]
        table = torch.stack([*columns, *counts, mine])
        place = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else "cpu"
        table = table.to(place)
        dist.all_reduce(table)
        table = table.cpu()
        known = table[-1] > 0
        at, table = subset[known], table[:, known] / table[-1, known]
        for name, column in zip(_FLOATS, table, strict=False):
            getattr(record, name)[at] = column.float()
        for name, column in zip(("observed", "judged"), table[-3:-1], strict=True):
            getattr(record, name)[at] = column.round().long()
        record.seen[at] = record.round

    def __iter__(self) -> Iterator[int]:
        subset, processes = self.next_round(), _processes()
        if processes > 1:  # equally many for each; what is left over comes another time
            subset = subset[: len(subset) - len(subset) % processes][dist.get_rank() :: processes]
        yield from subset.tolist()

    def __len__(self) -> int:
        """Images in the current round, of this process; before the first, the wanted number."""
        return (len(self.record.subset) or self.record.size) // _processes()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on in the middle of a round, as tensors and whole numbers."""
        state: dict[str, Any] = {name: getattr(self.record, name).clone() for name in _STATE}
        return state | {name: getattr(self.record, name) for name in _NUMBERS}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts a state back; raises UserError if it is of another number of images or not of a selector."""
        if missing := [name for name in (*_STATE, *_NUMBERS) if name not in state]:
            raise UserError(f"this is no state of a selector: it lacks {', '.join(missing)}")
        if len(state["loss"]) != len(self.record.loss):
            raise UserError(
                f"this selector's state is of {len(state['loss'])} images, the part has {len(self.record.loss)}"
            )
        for name in _STATE:
            setattr(self.record, name, state[name].clone())
        for name in _NUMBERS:
            setattr(self.record, name, int(state[name]))
        self.record.generator = np.random.default_rng([self.record.seed, self.record.round])
        self._drawn = torch.zeros(len(self.record.labels), dtype=torch.bool)
        self._drawn[self.record.subset] = True


def _processes() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _lost(record: Record, subset: Tensor) -> Tensor:
    """For each class that has images and none in the subset, its image that was not trained on for longest."""
    classes = int(record.labels.max()) + 1
    have = torch.bincount(record.labels[subset], minlength=classes) > 0
    missing = (~have & (torch.bincount(record.labels, minlength=classes) > 0)).nonzero().squeeze(1)
    if not len(missing):
        return missing
    of_missing = torch.isin(record.labels, missing).nonzero().squeeze(1)
    order = of_missing[record.seen[of_missing].argsort(stable=True)]
    labels = record.labels[order]
    first = np.unique(labels.numpy(), return_index=True)[1]
    return order[torch.from_numpy(first)]
