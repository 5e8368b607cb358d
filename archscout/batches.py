"""Which images the proxies see: batches drawn from the training images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from archscout.data import Data
from archscout.errors import unknown
from archscout.fit import Part
from archscout.probe import Batch
from archscout.scoring import as_images


def draw(data: Data, n: int, kind: str, seed: int) -> Batch:
    """Up to `n` normalised training images (float32, (n, C, H, W)) and their labels; all that there are if fewer.

    kind: a word of KINDS. Every kind but random holds equally many (within one) of each class. Costs a pass over the
    pixels of the candidates for diverse and hard, nothing else. The same seed gives the same images in every process.
    Raises UserError for an unknown kind.
    """
    if kind not in KINDS:
        raise unknown("kind of images", kind, KINDS)
    part = data.part("train")
    positions = KINDS[kind](part, min(n, len(part)), np.random.default_rng(seed))
    _, images, labels = part.batch(positions)
    return as_images(images, data.mean, data.std), labels


def random(part: Part, n: int, rng: np.random.Generator) -> np.ndarray:
    """Every image equally likely, so rare classes may be missing."""
    return rng.choice(len(part), n, replace=False)


def balanced(part: Part, n: int, rng: np.random.Generator) -> np.ndarray:
    """Equally many of each class, random within the class; a class repeats images only if it must."""
    return in_turns(part, n, rng, lambda members: rng.permutation(members))


def diverse(part: Part, n: int, rng: np.random.Generator) -> np.ndarray:
    """Of each class images far from each other: each next one is the furthest, in pixels, from those taken before.

    The first is random. Candidates are 64 random images of the class (more would favour outliers alone).
    """

    def order(members: np.ndarray) -> np.ndarray:
        some, x = sketch(part, members, rng)
        near, taken = np.full(len(some), np.inf), [0]
        for _ in range(min(n, len(some)) - 1):
            near = np.minimum(near, ((x - x[taken[-1]]) ** 2).sum(1))
            near[taken] = -1.0
            taken.append(int(near.argmax()))
        return some[taken]

    return in_turns(part, n, rng, order)


def hard(part: Part, n: int, rng: np.random.Generator) -> np.ndarray:
    """Of each class the images that lie, in pixels, nearest to the mean of another class, less the way to their own.

    What is hard for a network is known only after training; this is the cheap stand-in that needs none. Candidates are
    64 random images of each class.
    """
    classes = np.unique(part.labels).tolist()
    sketches = {c: sketch(part, np.flatnonzero(part.labels == c), rng) for c in classes}
    means = np.stack([x.mean(0) for _, x in sketches.values()])

    def order(members: np.ndarray) -> np.ndarray:
        label = int(part.labels[members[0]])
        some, x = sketches[label]
        own = classes.index(label)
        distances = ((x[:, None] - means[None]) ** 2).sum(2)
        others = np.delete(distances, own, axis=1)
        margin = others.min(1) - distances[:, own] if others.size else distances[:, own]
        return some[np.argsort(margin, kind="stable")]

    return in_turns(part, n, rng, order)


KINDS: dict[str, Callable[[Part, int, np.random.Generator], np.ndarray]] = {
    "random": random,
    "balanced": balanced,
    "diverse": diverse,
    "hard": hard,
}


def in_turns(part: Part, n: int, rng: np.random.Generator, order: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`n` positions, one of each class in turn, each class in the order that `order(members)` gives."""
    by_class = [order(np.flatnonzero(part.labels == c)) for c in np.unique(part.labels)]
    turns = rng.permutation(len(by_class))
    picks = [by_class[c][i % len(by_class[c])] for i in range(-(-n // len(turns))) for c in turns]
    return rng.permutation(np.array(picks[:n], dtype=np.int64))


def sketch(part: Part, members: np.ndarray, rng: np.random.Generator, most: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Up to `most` random members, and their pixels as float rows, each centred and of length one."""
    some = rng.permutation(members)[:most]
    x = part.batch(some)[1].numpy().reshape(len(some), -1).astype(np.float32)
    x -= x.mean(1, keepdims=True)
    return some, x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)
