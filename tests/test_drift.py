"""What a selection leaves out: the groups, the sample, the gap, and that a round widens where it must."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from archscout.fit import Recipe, fit
from archscout.selection import SELECTORS
from archscout.selection.drift import audit_selection, behind, by_class_and_cluster, compare, group_of, sample


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

    gap = 0.0
    for c, share in ((0, 0.6), (1, 0.4)):
        ever = right.numpy()[(group < 2) & (labels == c)].mean()
        gap += share * (ever - right.numpy()[(group == 2) & (labels == c)].mean())
    assert found.gap == pytest.approx(gap)


def test_a_sample_stands_for_the_images_of_its_group() -> None:
    """Of the ever selected images some 20 % are in the round, though as many of them are looked at as of the others."""
    selector = some_rounds(1000, 1000, size=200, rounds=6)
    group = group_of(selector.record)
    now, before = (group == 0).sum().item(), (group == 1).sum().item()
    found = audit_selection(selector, lambda positions: group[positions] == 1, most=100)
    assert found.n == (100, 100, 100)
    assert found.accuracy == (0.0, 1.0, 0.0)
    assert found.gap == pytest.approx(before / (now + before), abs=0.01)


THRESHOLDS = {"keep": None, "mastery": 0.3, "top": 0.6}


def audited(seed: int, behind: float, fixed: bool, **settings):
    """Audits of dds where an image is right with chance .7, or less by `behind` until it was selected; `fixed`: always
    or never right, else by chance each time."""
    rng = np.random.default_rng(seed)
    selector = SELECTORS["dds"](Part(*[400] * 5), seed=seed, share=0.1, **settings)
    record, luck = selector.record, rng.random(2000)
    selector.expect(4000)

    def right(positions: torch.Tensor) -> torch.Tensor:
        draw = luck[positions] if fixed else rng.random(len(positions))
        return torch.from_numpy(draw < 0.7 - behind * (record.times[positions] == 0).numpy())

    found = []
    for _ in range(12):
        subset = selector.next_round()
        target = record.labels[subset]
        logits = 3.0 * torch.nn.functional.one_hot(torch.where(right(subset), target, (target + 1) % 5), 5)
        selector.note(subset, torch.ones(len(subset)), logits, target)
        found.append(audit_selection(selector, right, widen=1.0))
    return found


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("settings", [{}, THRESHOLDS], ids=["defaults", "thresholds"])
def test_no_drift_where_mastered_images_leave(settings: dict, fixed: bool) -> None:
    for seed in range(4):
        found = audited(seed, 0.0, fixed, patience=0, **settings)
        assert not any(drift.drifted for drift in found)
        if fixed and settings:  # those that left are all right, and say nothing of those that were never selected
            assert found[-1].accuracy[1] == 1.0
            assert 0.6 < found[-1].accuracy[2] < 0.8


@pytest.mark.parametrize("fixed", [True, False])
@pytest.mark.parametrize("settings", [{}, THRESHOLDS], ids=["defaults", "thresholds"])
def test_drift_where_never_selected_images_are_worse(settings: dict, fixed: bool) -> None:
    for seed in range(4):
        found = [drift for drift in audited(seed, 0.3, fixed, patience=0, **settings)[2:] if drift.images[2] > 500]
        assert len(found) >= 2
        assert all(drift.drifted for drift in found)


def test_a_subset_that_stays_has_no_gap() -> None:
    selector = SELECTORS["fixed"](Part(50, 50), size=20)
    for _ in range(3):
        selector.next_round()
    found = audit_selection(selector, lambda positions: group_of(selector.record)[positions] == 0)
    assert found.accuracy == (1.0, None, 0.0)
    assert found.gap is None
    assert not found.drifted


def test_fit_warns_of_drift(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Pictures(Part):
        def batch(self, positions):
            return positions, torch.zeros(len(positions), 1, 4, 4).byte(), torch.from_numpy(self.labels[positions])

    part = Pictures(150, 150)
    chosen = SELECTORS["random"](part, size=60)
    monkeypatch.setattr("archscout.fit._right", lambda *args: chosen.record.times[args[-1]] > 0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    with caplog.at_level(logging.WARNING, "archscout"):
        fitted = fit(
            model, part, recipe=Recipe(batch_size=20), epochs=0.6, seed=0, mean=(0.0,), std=(1.0,), selector=chosen,
            audit_every=0.3,
        )  # fmt: skip
    assert [audit["drifted"] for audit in fitted.audits] == [True]
    assert [record.getMessage() for record in caplog.records] == [
        "audit of round 2: selected 100.0 %, once selected 100.0 %, never selected 0.0 %; "
        "never selected images fall behind, a round now has 90 images"
    ]
    assert len(chosen.record.subset) == 90


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


def test_rows_that_fall_behind_where_nothing_was_selected() -> None:
    def row(number: int, images: list[int], accuracy: list[float | None]) -> dict[str, Any]:
        return {"number": number, "images": images, "accuracy": accuracy}

    rows = [
        row(0, [100, 300, 400], [0.9, 0.9, 0.6]),  # .3 below, error .028
        row(1, [100, 300, 400], [0.9, 0.9, 0.86]),  # tolerated
        row(2, [2, 3, 4], [1.0, 1.0, 0.5]),  # .5 below, but of too few images
        row(3, [400, 0, 400], [0.9, None, 0.6]),
        row(4, [0, 0, 400], [None, None, 0.1]),  # nothing to compare with
        row(5, [400, 0, 0], [0.9, None, None]),
    ]
    assert [one["number"] for one in behind(rows)] == [0, 3]
    assert not behind(rows, tolerance=0.3)
