"""What chooses the training images of a round: a torch sampler that is told how each image fared."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
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
    loss:        float32, the last training loss; zero and without meaning where `times` is zero.
    confidence:  float32, the last probability of the predicted class; likewise.
    seen:        int64, the round in which the image was last trained on, counted from 1; zero for never.
    times:       int64, in how many rounds the image was chosen.
    subset:      int64, the positions of the current round, in the order in which they are trained on.
    weights:     float32, what an image's loss is multiplied with in the current round; mean one over the subset.
    round:       the number of the current round, from 1; zero before the first.
    generator:   what a choice draws from: a new one for every round, made from (seed, round).
    """

    labels: Tensor
    size: int
    seed: int
    loss: Tensor = field(init=False)
    confidence: Tensor = field(init=False)
    seen: Tensor = field(init=False)
    times: Tensor = field(init=False)
    subset: Tensor = field(init=False)
    weights: Tensor = field(init=False)
    round: int = 0
    generator: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.labels)
        self.loss, self.confidence, self.weights = torch.zeros(n), torch.zeros(n), torch.ones(n)
        self.seen, self.times = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
        self.subset = torch.zeros(0, dtype=torch.int64)
        self.generator = np.random.default_rng([self.seed, self.round])


_STATE = ("loss", "confidence", "seen", "times", "subset", "weights")


class Selector(Sampler[int], ABC):
    """The base of all selectors: keeps the Record, shuffles, saves and restores; a new one writes `choose` only.

    Iterating, or `next_round()`, starts the next round, so it goes into a DataLoader as its `sampler`. In a loop of
    your own, `loss = selector.observe(positions, losses, logits, labels)` is the loss to step on; the positions must
    travel with the batch, since a prefetching loader has drawn more than it has delivered. A subclass keeps no state
    of its own, otherwise a resumed run differs: the Record has what a choice needs.

    part:   anything with a length and `labels` (n,); positions 0..n-1 are what is chosen.
    share:  the wanted part of the images in a round, above 0 and at most 1.
    Costs about 40 bytes an image. Raises UserError for a share out of range or an empty part.
    """

    name: str = ""  # the word it goes by; default: the name of the class

    def __init__(self, part: Labelled, *, seed: int = 0, share: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise UserError(f"a selector's share is above 0 and at most 1, got {share}")
        if len(part) == 0:
            raise UserError("a selector needs at least one image, got an empty part")
        labels = torch.as_tensor(np.array(part.labels, dtype=np.int64))
        self.record = Record(labels, max(1, round(share * len(labels))), seed)

    @abstractmethod
    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        """The positions (k,) int64 of the next round, each at most once, and their weights (k,), or None for equal.

        `record.round` is already the round that is chosen for; draw from `record.generator` only.
        """

    def next_round(self) -> Tensor:
        """Chooses the next round and returns its positions (k,) int64, shuffled."""
        record = self.record
        record.round += 1
        record.generator = np.random.default_rng([record.seed, record.round])
        subset, weights = self.choose(record)
        subset = torch.as_tensor(subset, dtype=torch.int64)
        if len(subset) == 0:
            raise ValueError(f"selector '{word(self)}' chose nothing in round {record.round}")
        record.times += torch.bincount(subset, minlength=len(record.times))
        record.weights = torch.ones(len(record.labels))
        if weights is not None:
            weights = torch.as_tensor(weights, dtype=torch.float32)
            if not (torch.isfinite(weights).all() and (weights >= 0).all() and weights.sum() > 0):
                raise ValueError(f"selector '{word(self)}' gave weights that are negative, not finite or all zero")
            record.weights[subset] = weights / weights.mean()
        record.subset = subset[torch.from_numpy(record.generator.permutation(len(subset)))]
        return record.subset

    def observe(self, index: Tensor, losses: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Records what a batch gave and returns the loss to step on, the mean of weight times loss.

        index (b,) positions in the part, losses (b,) one per image with their graph, logits (b, classes), target (b,).
        """
        record = self.record
        with torch.no_grad():
            record.loss[index] = losses.detach().float().cpu()
            record.confidence[index] = logits.detach().float().softmax(1).amax(1).cpu()
            record.seen[index] = record.round
        return (losses * record.weights[index].to(losses.device)).mean()

    def __iter__(self) -> Iterator[int]:
        yield from self.next_round().tolist()

    def __len__(self) -> int:
        """Images in the current round; before the first, the wanted number."""
        return len(self.record.subset) or self.record.size

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on in the middle of a round, as tensors and whole numbers."""
        state: dict[str, Any] = {name: getattr(self.record, name).clone() for name in _STATE}
        return state | {"round": self.record.round, "seed": self.record.seed, "size": self.record.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts a state back; raises UserError if it is of another number of images."""
        if len(state["loss"]) != len(self.record.loss):
            raise UserError(
                f"this selector's state is of {len(state['loss'])} images, the part has {len(self.record.loss)}"
            )
        for name in _STATE:
            setattr(self.record, name, state[name].clone())
        self.record.round, self.record.seed, self.record.size = state["round"], state["seed"], state["size"]
        self.record.generator = np.random.default_rng([self.record.seed, self.record.round])
