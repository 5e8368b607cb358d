"""Whether images keep their class when flipped left-right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from archscout.readers.store import release

LEAST_SHARE, LEAST_COUNT, LEAST_RATIO, HARM = 0.1, 20, 0.9, 3.0


@dataclass(frozen=True)
class Mirrors:
    """What the nearest neighbours say about flipping.

    share: the images whose nearest neighbour is a flipped one, of all; 1/2 if left and right make no difference.
    count: how many these are.
    ratio: among these, how often that flipped neighbour has their class, over how often the nearest unflipped one has.
    harm:  the largest (lost - won) / sqrt(lost + won) of any class, where flipped neighbours turn right classes to
           wrong (lost) or wrong to right (won): a standard score (McNemar, Psychometrika 1947).
    """

    share: float
    count: int
    ratio: float
    harm: float

    def __bool__(self) -> bool:
        return (
            self.share >= LEAST_SHARE and self.count >= LEAST_COUNT and self.ratio >= LEAST_RATIO and self.harm <= HARM
        )


def mirrors(images: np.ndarray, labels: np.ndarray, rows: np.ndarray | None = None) -> Mirrors:
    """Evidence whether flipping left-right keeps the class; true if it does. For deciding on flips in the augmentation.

    images uint8 (n, H, W, C), labels int64 (n,); `rows` are the images to use, none twice (default all). Every image,
    as a thumbnail of at most 16 x 16, looks for its nearest neighbour (Euclidean) among all others and their flipped
    copies. True needs both: flipped copies look like images of the data (they are nearest for at least 20 images and
    for 10 % of all); and where they are nearest, they have the right class at least 0.9 times as often as the nearest
    unflipped one, and no class is hurt (harm up to 3).
    So arrows (flipped, they are the other class) and digits (flipped, they look like nothing in the data) are false.
    Data that face one way are false too, or true where enough of them are near symmetry: then flips do no harm.
    Costs O(n^2): a quarter of a second for 2,000 images. Few images give no evidence, and false.
    """
    rows = np.arange(len(images)) if rows is None else rows
    if len(rows) < LEAST_COUNT:
        return Mirrors(0.0, 0, 0.0, 0.0)
    thumbs = _thumbnails(images, rows)
    plain, found = thumbs.flatten(1), torch.from_numpy(labels[rows])
    length = plain.square().sum(1)[None]
    near, distance = [], []
    for others in (plain, thumbs.flip(3).flatten(1)):  # flipped copies are as long; the query's own length is the same
        table = length - 2 * plain @ others.T
        table.fill_diagonal_(float("inf"))
        least = table.min(1)
        near.append(found[least.indices] == found)
        distance.append(least.values)
    used = distance[1] < distance[0]
    count = int(used.sum())
    before, after = int(near[0][used].sum()), int(near[1][used].sum())
    classes = int(found.max()) + 1
    lost = torch.bincount(found[used & near[0] & ~near[1]], minlength=classes)
    won = torch.bincount(found[used & ~near[0] & near[1]], minlength=classes)
    harm = float(((lost - won) / (lost + won).clamp(min=1).double().sqrt()).max())
    return Mirrors(count / len(rows), count, after / before if before else 0.0, harm)


def _thumbnails(images: np.ndarray, rows: np.ndarray) -> torch.Tensor:
    """Float (n, C, at most 16, at most 16), the means of equal areas."""
    side = (min(16, images.shape[1]), min(16, images.shape[2]))
    step = max(1, 2_000_000 // images[0].size)
    small = []
    for start in range(0, len(rows), step):
        block = torch.from_numpy(np.asarray(images[rows[start : start + step]])).permute(0, 3, 1, 2).float()
        small.append(torch.nn.functional.adaptive_avg_pool2d(block, side))
        release(images)
    return torch.cat(small)
