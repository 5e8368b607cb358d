"""Which images the proxies see: every kind keeps its promise, on imbalanced classes too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from archscout.batches import KINDS, draw
from archscout.data import Data, load
from archscout.errors import UserError


@pytest.fixture(scope="module")
def data() -> Data:
    """400 images of 8 x 8 in classes of 300, 80 and 20; those of a class are noise around a pattern of it."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [300, 80, 20])
    patterns = rng.integers(60, 190, (3, 8, 8))
    return load(((patterns[labels] + rng.integers(-60, 61, (400, 8, 8))).astype(np.uint8), labels))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_has_its_size_its_seed_and_normalised_images(data: Data, kind: str) -> None:
    images, labels = draw(data, 30, kind, 3)
    assert images.shape == (30, 1, 8, 8)
    assert images.dtype == torch.float32
    assert abs(float(images.mean())) < 0.5
    again, other = draw(data, 30, kind, 3), draw(data, 30, kind, 4)
    assert torch.equal(images, again[0])
    assert torch.equal(labels, again[1])
    assert not torch.equal(images, other[0])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "random"])
@pytest.mark.parametrize("n", [1, 2, 10, 30, 100])
def test_classes_are_balanced(data: Data, kind: str, n: int) -> None:
    counts = np.bincount(draw(data, n, kind, 0)[1], minlength=3)
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1


def test_random_keeps_the_natural_mix(data: Data) -> None:
    counts = np.mean([np.bincount(draw(data, 48, "random", seed)[1], minlength=3) for seed in range(30)], axis=0)
    assert counts == pytest.approx([36, 9.6, 2.4], abs=1.5)


def test_images_repeat_only_where_a_class_has_too_few(data: Data) -> None:
    part = data.part("train")
    assert [len(set(KINDS["balanced"](part, n, np.random.default_rng(0)))) for n in (30, 36, 60)] == [30, 36, 52]


def rows(data: Data, positions: np.ndarray) -> np.ndarray:
    return data.part("train").batch(positions)[1].numpy().reshape(len(positions), -1).astype(float)


def test_diverse_images_lie_further_apart_than_random_ones(data: Data) -> None:
    def nearest(kind: str, seed: int) -> float:
        x = rows(data, KINDS[kind](data.part("train"), 12, np.random.default_rng(seed)))
        distances = ((x[:, None] - x[None]) ** 2).sum(2) + 1e12 * np.eye(12)
        return float(distances.min(1).mean())

    assert np.mean([nearest("diverse", s) for s in range(5)]) > 1.05 * np.mean(
        [nearest("balanced", s) for s in range(5)]
    )


def test_hard_images_lie_nearer_to_the_other_classes(data: Data) -> None:
    part = data.part("train")
    means = np.stack([rows(data, np.flatnonzero(part.labels == c)).mean(0) for c in range(3)])

    def margin(kind: str, seed: int) -> float:
        positions = KINDS[kind](part, 12, np.random.default_rng(seed))
        distances = ((rows(data, positions)[:, None] - means[None]) ** 2).sum(2)
        own = distances[np.arange(12), part.labels[positions]]
        distances[np.arange(12), part.labels[positions]] = np.inf
        return float((distances.min(1) - own).mean())

    assert np.mean([margin("hard", s) for s in range(5)]) < 0.9 * np.mean([margin("balanced", s) for s in range(5)])


def test_an_unknown_kind_is_named(data: Data) -> None:
    with pytest.raises(UserError, match="did you mean 'hard'"):
        draw(data, 8, "hrad", 0)


def test_no_more_images_than_there_are(data: Data) -> None:
    assert len(draw(data, 10_000, "random", 0)[0]) == len(data.part("train"))
