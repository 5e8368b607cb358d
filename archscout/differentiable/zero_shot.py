"""The last word of a differentiable search left to proxies: which of the architectures that it settled among."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from archscout.aggregate import INPUTS, aggregate
from archscout.batches import balanced
from archscout.differentiable.bilevel import Story
from archscout.fit import Part, normaliser
from archscout.scoring import Scorer, as_labels
from archscout.space import Arch, SearchSpace

MOST = 16  # architectures that are scored
IMAGES = 64


def settled_among(space: SearchSpace, story: Story, arch: Arch) -> list[Arch]:
    """The architectures that a search derived in its second half, each canonical one once, the last one first.

    arch: what it derives at its end, which comes first. They are as they were derived, not in canonical form. At most
    MOST.
    """
    late = [tuple(row["arch"]) for row in story.history[len(story.history) // 2 :]]
    found: dict[Arch, Arch] = {}
    for one in (arch, *reversed(late)):
        found.setdefault(space.canonical(one), one)
    return list(found.values())[:MOST]


def by_zero_shot(
    space: SearchSpace,
    archs: Sequence[Arch],
    part: Part,
    *,
    mean: Any,
    std: Any,
    seed: int = 0,
    device: str = "cpu",
    ends: Callable[[], bool] = lambda: False,
) -> tuple[Arch, list[int]]:
    """Of some architectures the one that the aggregate of the proxies ranks first, and the ranks of those scored.

    Use it where the weights of a short search still waver between architectures: it has the last word among these, and
    knows of the images one batch. They are scored in their order; one that ties with another loses to those before it.
    ends: asked before the third and each further one; true leaves the others out.

    Costs scoring each one, a second or two for a network of nasbench201. See archscout.aggregate for the ranking.
    """
    rows = balanced(part, min(IMAGES, len(part)), np.random.default_rng([seed, 5]))
    _, pixels, labels = part.batch(rows)
    batch = (normaliser(mean, std)(pixels), as_labels(labels))
    scorer = Scorer(space, [batch], INPUTS, seed=seed, device=device)
    found: list[dict[str, float]] = []
    for arch in archs:
        if len(found) > 1 and ends():
            break
        found.append(scorer(arch)["scores"])
    ranks = aggregate(found).tolist()
    return archs[ranks.index(min(ranks))], ranks
