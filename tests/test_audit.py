"""The audit against hand counts, slow versions, scikit-learn and simulation."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics
from torch import nn

from archscout.audit import WORST, audit, calibration_error, group_interval, mean_interval, wilson
from archscout.data import load
from archscout.fit import Evaluation


class Brightness(nn.Module):
    """Says class floor(mean / 50) of images whose grey value is their class, with a confidence that depends on it."""

    def forward(self, x):
        level = x.mean((1, 2, 3))
        return -((level[:, None] - torch.tensor([0.0, 1.0, 2.0])) ** 2)


@pytest.fixture(scope="module")
def grey():
    """Three classes of flat grey images; every seventh label is wrong."""
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=240)
    images = (truth[:, None, None] * 50 + rng.integers(-20, 20, size=(240, 8, 8)) + 30).astype(np.uint8)
    labels = truth.copy()
    labels[::7] = (labels[::7] + 1) % 3
    return load((images, labels), seed=0, size=None)


def run(data, **extra):
    return audit(Brightness(), data, mean=(30.0,), std=(50.0,), **extra)


def test_against_scikit_learn_and_slow_counts(grey):
    found = run(grey)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    said = {}
    for name in ("train", "validation", "test"):
        rows = grey.parts[name]
        level = (grey.images[rows].astype(float).mean((1, 2, 3)) - 30) / 50
        logits = -((level[:, None] - np.arange(3)) ** 2)
        chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        said[name] = rows, chance.argmax(1), chance.max(1)
        truth = grey.labels[rows]
        summary = found["parts"][name]
        assert summary["n"] == len(rows)
        assert summary["accuracy"] == pytest.approx(metrics.accuracy_score(truth, chance.argmax(1)))
        assert summary["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, chance.argmax(1)))
        assert summary["loss"] == pytest.approx(metrics.log_loss(truth, chance, labels=range(3)), rel=1e-4)
        for what in ("accuracy", "balanced_accuracy"):
            low, high = summary[f"{what}_interval"]
            assert 0 <= low < summary[what] < high <= 1
    rows, answer, _ = said["test"]
    truth = grey.labels[rows]
    assert found["confusion"] == metrics.confusion_matrix(truth, answer, labels=range(3)).tolist()
    precision, recall, _, count = metrics.precision_recall_fscore_support(truth, answer, labels=range(3))
    for c, row in enumerate(found["classes"]):
        assert row["name"] == grey.classes[c]
        assert (row["recall"], row["precision"], row["n"]) == pytest.approx((recall[c], precision[c], count[c]))
    for key, parts in (("worst_test", ("test",)), ("suspects", ("train", "validation"))):
        wrong = sorted(
            (-chance, i, part, answer)
            for part in parts
            for i, answer, chance in zip(*said[part], strict=True)
            if answer != grey.labels[i]
        )[:WORST]
        assert 0 < len(wrong) == len(found[key])
        for row, expected in zip(found[key], wrong, strict=True):
            assert row["confidence"] == pytest.approx(-expected[0], abs=1e-5)
        assert {row["name"] for row in found[key]} == {grey.names[i] for _, i, _, _ in wrong}
        assert all(row["true"] != row["predicted"] and row["part"] in parts for row in found[key])
    assert found["interval"] == "images"


def test_confident_mistakes_are_the_wrong_labels(grey):
    suspects = {row["name"] for row in run(grey)["suspects"]}
    assert suspects <= {grey.names[i] for i in range(0, 240, 7)}
    assert len(suspects) == min(WORST, len([i for i in range(0, 240, 7) if i not in set(grey.parts["test"])]))


def test_opens_the_test_part_once(grey):
    before = grey.opened.get("test", 0)
    run(grey)
    assert grey.opened["test"] == before + 1


def test_groups_widen_the_intervals(grey):
    from dataclasses import replace

    groups = np.zeros(240, dtype=np.int64)
    wrong = np.zeros(240, dtype=bool)
    wrong[::7] = True
    groups[wrong], groups[~wrong] = np.arange(wrong.sum()) // 5, 100 + np.arange((~wrong).sum()) // 5
    plain, grouped = run(grey), run(replace(grey, groups=groups))
    assert grouped["interval"] == "groups"
    for what in ("accuracy_interval", "balanced_accuracy_interval"):
        widths = [np.ptp(found["parts"]["train"][what]) for found in (plain, grouped)]
        assert widths[1] > 1.4 * widths[0]


def test_wilson_is_that_of_scipy():
    for right, n in ((0, 10), (3, 10), (10, 10), (951, 1000)):
        expected = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        assert wilson(right, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_interval_of_one_share_is_wilsons():
    assert mean_interval(np.array([17]), np.array([20])) == pytest.approx(wilson(17, 20))


def test_interval_of_perfect_answers_is_no_point():
    low, high = mean_interval(np.array([5, 10]), np.array([5, 10]))
    assert high == 1.0
    assert 0.6 < low < 0.9


@pytest.mark.parametrize(
    ("counts", "shares"),
    [((35,) * 10, (0.8,) * 10), ((190, 23, 17, 11, 6, 20), (0.95, 0.9, 0.8, 0.7, 0.6, 0.9)), ((200, 10), (0.99, 0.9))],
)
def test_interval_of_the_mean_share_covers(counts, shares):
    rng, counts, truth = np.random.default_rng(0), np.array(counts), np.mean(shares)
    found = [mean_interval(rng.binomial(counts, shares), counts) for _ in range(1000)]
    assert 0.91 < np.mean([low <= truth <= high for low, high in found]) < 0.98


@pytest.mark.parametrize(("number", "size", "a", "b"), [(20, 15, 4, 1), (10, 40, 19, 1), (100, 1, 9, 1)])
def test_group_interval_covers_where_images_of_a_group_go_together(number, size, a, b):
    rng, truth = np.random.default_rng(0), a / (a + b)
    groups, covered, plain = np.repeat(np.arange(number), size), [], []
    for _ in range(400):
        hits = (rng.random((number, size)) < rng.beta(a, b, (number, 1))).ravel()
        low, high = group_interval(hits, np.zeros(len(hits), dtype=int), groups)
        assert low <= hits.mean() <= high
        covered.append(low <= truth <= high)
        low, high = wilson(hits.sum(), len(hits))
        plain.append(low <= truth <= high)
    assert 0.92 < np.mean(covered) < 0.98
    if size > 1:
        assert np.mean(plain) < 0.85


def test_group_interval_counts_groups_where_all_is_right():
    hits, groups = np.ones(60, dtype=bool), np.repeat(np.arange(6), 10)
    low, high = group_interval(hits, np.zeros(60, dtype=int), groups)
    assert high == 1.0
    assert low == pytest.approx(wilson(6, 6, stats.t.ppf(0.975, 5))[0])


def test_calibration_error_against_a_loop():
    rng = np.random.default_rng(2)
    confidence = rng.uniform(0.2, 1, 500).astype(np.float32)
    confidence[:3] = 1.0, 0.2, np.float32(1 / 3)
    right = rng.random(500) < confidence**2
    found = calibration_error(Evaluation(np.zeros(500, int), (~right).astype(int), confidence, confidence, 2))
    expected, edges = 0.0, np.linspace(0, 1, 16)
    for low, high in pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert found == pytest.approx(expected, abs=1e-3)


def test_calibration_error_by_hand():
    sure = np.array([0.9, 0.9, 0.9, 0.9], dtype=np.float32)
    one = Evaluation(np.zeros(4, int), np.array([0, 0, 0, 1]), sure, sure, 2)
    assert calibration_error(one) == pytest.approx(0.15)
