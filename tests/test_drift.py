"""What a selection leaves out: the groups, the sample, the gap, and that a round widens where it must."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from archscout.selection import SELECTORS
from archscout.selection.drift import audit_selection, by_class_and_cluster, compare, group_of, sample


class Part:
    def __init__(self, *counts: int) -> None:
        self.labels = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.labels)


def some_rounds(*counts: int, size: int, rounds: int = 3):
    selector = SELECTORS["random"](Part(*counts), seed=0, size=size)
    for _ in range(rounds):
        selector.next_round()
    return selector


def test_every_image_is_in_one_group() -> None:
    selector = some_rounds(50, 50, size=20)
    group = group_of(selector.record).numpy()
    now = set(selector.record.subset.tolist())
    for i in range(100):
        wanted = 0 if i in now else 1 if selector.record.times[i] > 0 else 2
        assert group[i] == wanted


def test_a_sample_holds_each_group_and_class_alike_and_is_the_same_again() -> None:
    selector = some_rounds(500, 500, 20, size=100)
    positions = sample(selector.record, 60)
    assert torch.equal(positions, sample(selector.record, 60))
    assert len(positions.unique()) == len(positions)
    group, labels = group_of(selector.record)[positions].numpy(), selector.record.labels[positions].numpy()
    for g in range(3):
        for c in (0, 1):
            assert ((group == g) & (labels == c)).sum() == 20
    assert len(sample(selector.record, None)) == 1020


def test_accuracy_by_group_with_the_class_shares_of_all_images() -> None:
    selector = some_rounds(60, 40, size=20)
    record = selector.record
    right = torch.from_numpy(np.random.default_rng(0).random(100) < 0.6)
    found = compare(record, torch.arange(100), right, tolerance=0.05)
    group, labels = group_of(record).numpy(), record.labels.numpy()
    for g in range(3):
        rates = [right.numpy()[(group == g) & (labels == c)].mean() for c in (0, 1)]
        assert found.accuracy[g] == pytest.approx(0.6 * rates[0] + 0.4 * rates[1])
    assert sum(found.images) == sum(found.n) == 100
    assert found.gap == pytest.approx(found.accuracy[1] - found.accuracy[2])


def test_a_round_widens_where_never_selected_images_fall_behind() -> None:
    selector = some_rounds(300, 300, size=60)
    record = selector.record
    never = group_of(record) == 2

    def fails_there(positions: torch.Tensor) -> torch.Tensor:
        return ~never[positions]

    found = audit_selection(selector, fails_there)
    assert found.drifted
    assert found.gap == pytest.approx(1.0)
    assert record.size == found.size == 90
    assert "90 images" in str(found)
    assert len(selector.next_round()) == 90
    calm = audit_selection(selector, lambda positions: torch.ones(len(positions), dtype=torch.bool))
    assert not calm.drifted
    assert record.size == 90
    assert calm.gap == pytest.approx(0.0)
    record.size = 550
    assert audit_selection(selector, lambda p: group_of(record)[p] != 2).size in (550, 600)


def test_chance_is_no_drift() -> None:
    rng = np.random.default_rng(0)
    warned = 0
    for _ in range(40):
        selector = some_rounds(300, 300, size=60)
        warned += audit_selection(selector, lambda p: torch.from_numpy(rng.random(len(p)) < 0.7), tolerance=0.0).drifted
    assert warned <= 4


def test_groups_that_are_empty() -> None:
    selector = SELECTORS["full"](Part(5, 5))
    selector.next_round()
    found = audit_selection(selector, lambda p: torch.ones(len(p), dtype=torch.bool))
    assert found.accuracy == (1.0, None, None)
    assert found.gap is None
    assert not found.drifted
    assert "-" in str(found)


def test_tables_by_class_and_cluster() -> None:
    selector = some_rounds(30, 10, size=8)
    right = torch.from_numpy(np.random.default_rng(0).random(40) < 0.5)
    clusters = np.arange(40) % 3
    found = by_class_and_cluster(selector.record, right, clusters)
    assert [row["number"] for row in found["class"]] == [0, 1]
    assert len(found["cluster"]) == 3
    assert sum(sum(row["images"]) for row in found["cluster"]) == 40
    group = group_of(selector.record).numpy()
    mask = (clusters == 1) & (group == 2)
    assert found["cluster"][1]["accuracy"][2] == pytest.approx(right.numpy()[mask].mean())
    assert "cluster" not in by_class_and_cluster(selector.record, right)
