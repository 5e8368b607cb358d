"""A subset that covers the images: no image is far from one of its class that was chosen."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from archscout.errors import UserError
from archscout.selection.quota import quotas
from archscout.selection.selector import Labelled, Record, Selector


def farthest_first(points: np.ndarray, size: int) -> np.ndarray:
    """`size` rows of points (n, d), each once: the one nearest to the mean, then always the farthest from the chosen.

    The largest distance of a point to its nearest chosen one is at most twice the least that `size` points can have
    (Gonzalez 1985). Costs O(n size d).
    """
    points = np.asarray(points, dtype=np.float64)
    following = int(((points - points.mean(0)) ** 2).sum(1).argmin())
    chosen, nearest = np.empty(size, dtype=np.int64), np.full(len(points), np.inf)
    difference = np.empty_like(points)
    for step in range(size):
        chosen[step] = following
        np.subtract(points, points[following], out=difference)
        np.minimum(nearest, np.einsum("ij,ij->i", difference, difference), out=nearest)
        nearest[following] = -1.0  # not again, even among equal points
        following = int(nearest.argmax())
    return chosen


class KCentre(Selector):
    """A fixed core-set: in each class the images that leave no other image of the class far from all of them.

    Greedy k-centre in an embedding, class by class, with the numbers of Random: min over subsets S of
    max_i min_{s in S} |x_i - x_s|, up to a factor of two. It is chosen before training and kept; the seed only shuffles
    it.

    embedding:  (n, d), finite: a row per image of the part, close where images are alike; or a kind of
                `embedding.embed`, which is computed from the part and kept in `cache`.
    balanced:   whether every class has equally many (all of a class that has too few), or its share.

    Use it where a small part has to stand for all images, without a network that is trained on them. Costs
    O(size (n / classes) d) once, a few seconds for 10,000 of 50,000 images in 32 dimensions, and nothing later. Fails
    where outliers are of no use: they are far from everything and come first. Is as good as its embedding.

    Source: Sener and Savarese 2018, arXiv:1708.00489. They start from labelled images, use all classes together and the
    features of the network being trained, and follow the greedy solution with an integer program against outliers.
    """

    name = "kcentre"
    embeds = True

    def __init__(
        self,
        part: Labelled,
        *,
        embedding: Any = "autoencoder",
        balanced: bool = False,
        cache: Any = None,
        **settings: Any,
    ) -> None:
        super().__init__(part, **settings)
        if isinstance(embedding, str):
            from archscout.selection.embedding import embed

            source: Any = part
            embedding = embed(source, embedding, cache=cache)
        self.embedding, self.balanced = np.asarray(embedding), balanced
        if self.embedding.ndim != 2 or len(self.embedding) != len(part):
            raise UserError(
                f"kcentre wants an embedding of shape ({len(part)}, d), a row per image of the part, "
                f"got {self.embedding.shape}"
            )
        if not np.isfinite(self.embedding).all():
            raise UserError("kcentre wants an embedding of finite numbers, got NaN or infinity: embed the images anew")

    def choose(self, record: Record) -> tuple[Tensor, Tensor | None]:
        if record.round > 1:
            return record.subset, None
        labels, chosen = record.labels.numpy(), []
        for label, number in enumerate(quotas(record.counts, record.size, balanced=self.balanced)):
            members = np.flatnonzero(labels == label)
            if len(members):
                chosen.append(members[farthest_first(self.embedding[members], int(number))])
        return torch.from_numpy(np.concatenate(chosen)), None
