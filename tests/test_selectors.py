"""What each selector chooses, against slow versions and closed forms; and that check_selector sees what is wrong."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from archscout.errors import UserError
from archscout.selection import SELECTORS, Record, Selector
from archscout.selection.disagreement import disagreements
from archscout.selection.entropy import largest_entropy, tail_chances
from archscout.selection.kcentre import farthest_first
from archscout.selection.proportional import chances, draw_systematic
from archscout.testing import check_selector, tiny_part


@dataclass
class Labels:
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


def labels(*counts: int) -> Labels:
    """A part without images: so many of each class, in a fixed random order."""
    return Labels(np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts)))


def make(name: str, part, **settings) -> Selector:
    if name == "kcentre" or getattr(SELECTORS[name], "embeds", False):
        settings.setdefault("embedding", np.random.default_rng(1).normal(size=(len(part), 3)))
    return SELECTORS[name](part, **settings)


def know(selector: Selector, losses, known=None) -> Record:
    """Begins the first round and writes losses into the record, as if they had been observed."""
    selector.next_round()
    record = selector.record
    record.loss = torch.as_tensor(np.asarray(losses), dtype=torch.float32)
    record.observed = torch.as_tensor(np.ones(len(losses)) if known is None else np.asarray(known)).long()
    return record


def near(frequency, chance, rounds: int) -> bool:
    """Whether frequencies of independent rounds are within five standard errors of their chances."""
    return bool((np.abs(frequency - chance) <= 5 * np.sqrt(chance * (1 - chance) / rounds) + 1e-9).all())


# --- all of them


@pytest.mark.parametrize("name", SELECTORS)
def test_check_selector_passes(name):
    check_selector(partial(make, name))


def test_check_selector_takes_names():
    check_selector("random")
    check_selector("archscout.selection.fixed:Fixed")
    with pytest.raises(UserError, match="unknown selector 'randon'"):
        check_selector("randon")


SMALL = ["random", "fixed", "redrawn", "kcentre"]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("counts", [(95, 11, 8, 5, 3, 10), (1, 99), (1, 1, 1, 1), (7,), (0, 3, 0, 9)])
@pytest.mark.parametrize("name", [*SMALL, "entropy", "el2n"])
def test_classes_have_their_quotas(name, counts, balanced):
    part = labels(*counts)
    size = max(6 if len(part) > 6 else 1, sum(count > 0 for count in counts))
    scores = np.random.default_rng(2).random(len(part))
    settings = {} if name in SMALL else {"scores": scores}
    selector = make(name, part, size=size, balanced=balanced, **settings)
    for _ in range(3):
        chosen = selector.next_round()
        found = np.bincount(part.labels[chosen.numpy()], minlength=len(counts))
        assert found.sum() == len(set(chosen.tolist())) == size
        assert (found[np.array(counts) > 0] > 0).all()
        if balanced:
            level = found.max()
            assert all(have in (count, level, level - 1) for have, count in zip(found, counts, strict=True))
        elif min(counts) > 0 and size > 2 * len(counts):
            assert (np.abs(found - np.array(counts) * size / len(part)) < 1.5).all()


@pytest.mark.parametrize("name", ["entropy", "el2n", "infobatch", "proportional"])
def test_blind_to_classes_loses_none(name):
    part = labels(50, 40, 1, 1)
    selector = make(name, part, share=0.3)
    know(selector, np.where(part.labels < 2, 3.0, 1e-3))
    for _ in range(20):
        assert set(part.labels[selector.next_round().numpy()]) == {0, 1, 2, 3}


# --- fixed, redrawn


def test_fixed_is_constant_in_a_new_order():
    selector = make("fixed", labels(50, 50), seed=1, share=0.2)
    first = selector.next_round()
    orders = [selector.next_round() for _ in range(4)]
    assert all(set(order.tolist()) == set(first.tolist()) for order in orders)
    assert any(order.tolist() != first.tolist() for order in orders)
    assert selector.record.changes.tolist() == [1]
    assert set(make("random", labels(50, 50), seed=1, share=0.2).next_round().tolist()) == set(first.tolist())
    assert set(make("fixed", labels(50, 50), seed=2, share=0.2).next_round().tolist()) != set(first.tolist())


def test_redrawn_is_random_at_its_updates():
    part = labels(60, 30, 10)
    settings = {"seed": 5, "share": 0.3, "balanced": True}
    each, every = make("random", part, **settings), make("redrawn", part, every=3, **settings)
    hooked = make("redrawn", part, when=lambda record: record.round in (4, 7), **settings)
    last: set[int] = set()
    for begun in range(1, 9):
        fresh, kept, other = (set(selector.next_round().tolist()) for selector in (each, every, hooked))
        last = fresh if begun in (1, 4, 7) else last
        assert kept == other == last
    assert every.record.changes.tolist() == hooked.record.changes.tolist() == [1, 4, 7]
    with pytest.raises(UserError, match="every=1 round or more, got 0"):
        make("redrawn", part, every=0)


def test_redrawn_asks_with_the_round_before():
    asked = []

    def when(record: Record) -> bool:
        asked.append((record.round, float(record.true[record.subset].mean())))
        return False

    selector = make("redrawn", labels(6, 6), size=4, when=when)
    for value in (0.25, 0.5, 0.75):
        selector.next_round()
        selector.record.true[selector.record.subset] = value
    assert asked == [(2, 0.25), (3, 0.5)]


# --- infobatch


@pytest.mark.parametrize("drop", [0.0, 0.3, 0.5, 0.8])
def test_infobatch_keeps_hard_images_and_weights_the_easy_ones(drop):
    losses = np.random.default_rng(0).exponential(size=101)
    selector = make("infobatch", labels(60, 41), drop=drop)
    assert len(selector) == 101
    know(selector, losses)
    assert len(selector) == 101
    assert (selector.record.weights == 1).all()
    chosen = selector.next_round().numpy()
    easy, hard = np.flatnonzero(losses < losses.mean()), np.flatnonzero(losses >= losses.mean())
    stay = np.intersect1d(chosen, easy)
    assert set(hard) <= set(chosen)
    assert len(stay) == round((1 - drop) * len(easy))
    weights = selector.record.weights.numpy()
    assert weights[stay] / weights[hard[0]] == pytest.approx(len(easy) / len(stay))
    assert weights[hard] == pytest.approx(len(chosen) / 101)  # the published one, times images over n
    assert np.ptp(weights[hard]) == 0


def test_infobatch_estimates_every_sum_without_bias():
    draw = np.random.default_rng(1)
    losses = draw.exponential(size=40)
    values = losses + draw.normal(size=40)
    selector = make("infobatch", labels(40), drop=0.6)
    know(selector, losses)
    estimates, times = [], np.zeros(40)
    for _ in range(2000):
        chosen = selector.next_round().numpy()
        times[chosen] += 1
        estimates.append((selector.record.weights[chosen].numpy() * values[chosen]).mean())
    error = np.std(estimates) / np.sqrt(len(estimates))
    assert 0 < error < 0.01
    assert abs(np.mean(estimates) - values.mean()) < 5 * error
    easy = losses < losses.mean()
    assert near(times / 2000, np.where(easy, round(0.4 * easy.sum()) / easy.sum(), 1.0), 2000)
    unweighted = values[~easy].sum() + values[easy].sum() * round(0.4 * easy.sum()) / easy.sum()
    assert abs(np.mean(estimates) - unweighted / len(chosen)) > 10 * error  # what it would be without weights


def test_infobatch_trains_on_all_images_in_the_end_and_on_new_ones_always():
    losses = np.r_[np.zeros(10), np.full(40, 0.95), np.full(50, 1.05)]  # no mean of all would leave one out
    selector = make("infobatch", labels(100), until=0.5)
    selector.expect(400)
    know(selector, losses, known=np.arange(100) >= 10)
    sizes = [len(selector.next_round()) for _ in range(4)]
    assert sizes == [80, 80, 100, 100]  # rounds that begin when 100, 180, 260 and 360 of 400 images are done
    assert (selector.record.weights == 1).all()
    selector = make("infobatch", labels(100))
    know(selector, losses, known=np.arange(100) >= 10)
    assert all(set(range(10)) <= set(selector.next_round().tolist()) for _ in range(20))
    know(same := make("infobatch", labels(100)), np.ones(100))
    assert len(same.next_round()) == 100
    for wrong in ({"drop": 1.0}, {"drop": -0.1}, {"until": 1.5}):
        with pytest.raises(UserError, match="infobatch wants"):
            make("infobatch", labels(9), **wrong)


# --- proportional


@pytest.mark.parametrize("size", [1, 2, 7, 29, 30])
def test_chances_add_up_and_are_proportional_below_one(size):
    scores = np.random.default_rng(size).pareto(1.0, 30) + 0.01
    found = chances(scores, size)
    capped = np.zeros(30, dtype=bool)  # slowly: cap the largest one by one
    while True:
        scale = (size - capped.sum()) / scores[~capped].sum() if not capped.all() else 0.0
        over = ~capped & (scores * scale > 1)
        if not over.any():
            break
        capped[np.argmax(np.where(over, scores, 0))] = True
    assert found == pytest.approx(np.where(capped, 1.0, scores * scale))
    assert found.sum() == pytest.approx(size)


def test_systematic_draws_have_their_chances_and_their_number():
    chance = chances(np.random.default_rng(0).pareto(1.0, 25) + 0.05, 8)
    draw, times, rounds = np.random.default_rng(1), np.zeros(25), 5000
    values, sums = np.random.default_rng(2).normal(size=25), []
    for _ in range(rounds):
        chosen = draw_systematic(chance, draw)
        assert len(chosen) == len(set(chosen)) == 8
        times[chosen] += 1
        sums.append((values / chance)[chosen].sum())
    assert near(times / rounds, chance.clip(max=1), rounds)
    assert abs(np.mean(sums) - values.sum()) < 5 * np.std(sums) / np.sqrt(rounds)
    assert sorted(draw_systematic(np.ones(4), draw)) == [0, 1, 2, 3]
    pairs = Counter(tuple(sorted(draw_systematic(np.full(4, 0.5), draw).tolist())) for _ in range(600))
    assert len(pairs) == 6  # any two come together, about equally often
    assert min(pairs.values()) > 50
    assert len(draw_systematic(chances(np.ones(50_000), 9_999), draw)) == 9_999


def test_proportional_draws_by_loss_and_weights_by_its_inverse():
    losses = np.r_[np.zeros(10), np.full(10, 1.0), np.full(10, 5.0), np.full(5, np.nan)]
    known = np.r_[np.ones(20), np.ones(10), np.zeros(5)]
    selector = make("proportional", labels(35), size=10, smoothing=0.5)
    record = know(selector, losses, known)
    score = np.r_[np.zeros(10), np.full(10, 0.5), np.full(10, 2.5), np.ones(5)] + 0.5  # mean loss is 2
    times, rounds = np.zeros(35), 1500
    for _ in range(rounds):
        chosen = selector.next_round().numpy()
        times[chosen] += 1
        inverse = 1 / score[chosen]
        assert record.weights[chosen].numpy() == pytest.approx(inverse / inverse.mean(), rel=1e-5)
    assert near(times / rounds, score * 10 / score.sum(), rounds)
    plain = make("proportional", labels(35), size=10, weighted=False)
    know(plain, losses, known)
    assert (plain.record.weights[plain.next_round()] == 1).all()


def test_proportional_estimates_the_mean():
    draw = np.random.default_rng(3)
    losses = draw.exponential(size=300)
    values = losses + draw.normal(size=300) * 0.1
    selector = make("proportional", labels(300), share=0.3)
    know(selector, losses)
    weighted, plain = [], []
    for _ in range(1500):
        chosen = selector.next_round().numpy()
        weighted.append((selector.record.weights[chosen].numpy() * values[chosen]).mean())
        plain.append(values[chosen].mean())
    assert abs(np.mean(weighted) - values.mean()) < 2 / 90 * values.mean()
    assert np.mean(plain) > 1.3 * values.mean()


def test_proportional_keeps_the_classes_as_asked():
    part = labels(120, 60, 20)
    for balanced, wanted in ((True, [20, 20, 20]), (False, [36, 18, 6])):
        selector = make("proportional", part, size=60, balanced=balanced)
        selector.record.loss[:] = torch.linspace(0.1, 3, 200)
        selector.record.observed[:] = 1
        counts = np.bincount(part.labels[selector.next_round().numpy()], minlength=3)
        assert np.abs(counts - wanted).max() <= (0 if balanced else 1)
        assert counts.sum() == 60
        if balanced:  # all of the rare class weigh the same, one over chance 1
            assert selector.record.weights[part.labels == 2].unique().numel() == 1


def test_proportional_with_nothing_to_go_by_is_even():
    for losses, known in ((np.zeros(20), np.zeros(20)), (np.zeros(20), np.ones(20)), (np.full(20, np.nan), None)):
        selector = make("proportional", labels(20), size=5)
        know(selector, losses, known)
        chosen = selector.next_round()
        assert len(chosen) == 5
        assert selector.record.weights[chosen].tolist() == [1.0] * 5
    with pytest.raises(UserError, match="smoothing above 0"):
        make("proportional", labels(20), smoothing=0.0)


# --- kcentre


def slow_farthest_first(points, size):
    distance = [[float(np.sqrt(((a - b) ** 2).sum())) for b in points] for a in points]
    chosen = [min(range(len(points)), key=lambda i: float(((points[i] - points.mean(0)) ** 2).sum()))]
    while len(chosen) < size:
        left = [i for i in range(len(points)) if i not in chosen]
        chosen.append(max(left, key=lambda i: min(distance[i][j] for j in chosen)))
    return chosen


def radius(points, chosen) -> float:
    return float(np.sqrt(((points[:, None] - points[None, list(chosen)]) ** 2).sum(2)).min(1).max())


def test_kcentre_is_greedy_in_each_class():
    part = labels(30, 20, 9, 1)
    embedding = np.random.default_rng(4).normal(size=(60, 3))
    selector = make("kcentre", part, embedding=embedding, size=21)
    chosen = set(selector.next_round().tolist())
    for label in range(4):
        members = np.flatnonzero(part.labels == label)
        number = len(chosen & set(members))
        assert chosen & set(members) == set(members[slow_farthest_first(embedding[members], number)])
    assert len(chosen) == 21
    assert chosen == set(selector.next_round().tolist())
    again = make("kcentre", part, embedding=torch.tensor(embedding), size=21, seed=9)
    assert chosen == set(again.next_round().tolist())


@pytest.mark.parametrize("seed", range(8))
def test_kcentre_is_at_most_twice_the_optimum(seed):
    points = np.random.default_rng(seed).pareto(1.5, size=(11, 2))
    for size in (1, 2, 3, 4):
        best = min(radius(points, chosen) for chosen in itertools.combinations(range(11), size))
        found = radius(points, farthest_first(points, size))
        assert best - 1e-12 <= found <= 2 * best + 1e-12


def test_kcentre_covers_better_than_chance_and_takes_equal_points_once():
    points = np.random.default_rng(0).normal(size=(400, 2))
    draw = np.random.default_rng(1)
    by_chance = [radius(points, draw.choice(400, 40, replace=False)) for _ in range(50)]
    assert radius(points, farthest_first(points, 40)) < min(by_chance)
    assert sorted(farthest_first(np.repeat(np.arange(3.0), 4)[:, None], 12)) == list(range(12))
    assert sorted(farthest_first(np.repeat(np.arange(3.0), 4)[:, None], 3) // 4) == [0, 1, 2]


def test_kcentre_says_what_it_wants():
    part = labels(5, 5)
    for given, words in [
        ("autoencoder", "embedding=array with a row per image"),
        (np.zeros((9, 2)), r"shape \(10, d\), a row per image of the part, got \(9, 2\)"),
        (np.zeros(10), r"got \(10,\)"),
        (np.full((10, 2), np.nan), "finite"),
    ]:
        with pytest.raises(UserError, match=words):
            SELECTORS["kcentre"](part, embedding=given)


# --- entropy


def slow_tail_chances(entropies, width):
    bins = [np.floor(np.log10(max(value, 1e-8)) / width) for value in entropies]
    counts = Counter(bins)
    mass = {place: max(counts.values()) - count + 1 for place, count in counts.items()}
    return [mass[place] / sum(mass.values()) / counts[place] for place in bins]


def test_entropy_draws_by_the_histogram():
    entropies = 10 ** np.random.default_rng(0).normal(-2, 1, 200)
    entropies[:3] = 0.0
    for width in (0.2, 0.5):
        assert tail_chances(entropies, width) == pytest.approx(slow_tail_chances(entropies, width))
    scores = np.array([1e-4, 1e-2, 1.1e-2, 1.2e-2, 1.3e-2, 0.5, 0.6])  # bins of 1, 4 and 2: chances 4 : 1 : 3
    chance, times = np.array([4, 0.25, 0.25, 0.25, 0.25, 1.5, 1.5]) / 8, np.zeros(7)
    for seed in range(1500):
        times[make("entropy", labels(7), scores=scores, size=1, seed=seed).next_round()] += 1
    assert near(times / 1500, chance, 1500)


def test_entropy_favours_tails_and_is_kept():
    entropies = 10 ** np.random.default_rng(1).normal(-2, 1, 2000)
    selector = make("entropy", labels(1500, 500), scores=entropies, share=0.1)
    chosen = selector.next_round().tolist()
    assert len(chosen) == 200
    outer = np.abs(np.log10(entropies) + 2) > 1.5
    assert outer[chosen].mean() > 2.5 * outer.mean()
    for _ in range(3):
        assert set(selector.next_round().tolist()) == set(chosen)
    assert selector.record.changes.tolist() == [1]


def test_entropy_of_the_record_is_exact_or_an_upper_bound():
    draw = torch.Generator().manual_seed(0)
    for classes, exact in ((2, "all"), (3, "wrong"), (10, "none")):
        part = labels(*[200 // classes] * classes)
        selector = make("entropy", part, share=0.5, warmup=2)
        for _ in range(2):
            chosen = selector.next_round()
            assert len(chosen) == len(part)
            logits = 2 * torch.randn(len(part), classes, generator=draw)
            target = torch.tensor(part.labels)[chosen]
            selector.observe(chosen, torch.ones(len(part)), logits, target)
        chance = logits.double().softmax(1)
        true = torch.special.entr(chance).sum(1)
        found = largest_entropy(selector.record)[chosen]
        assert (found >= true - 1e-5).all()
        same = (found - true).abs() < 1e-5
        wrong = chance.argmax(1) != target
        assert {"all": same.all(), "wrong": same[wrong].all() and not same.all(), "none": not same.any()}[exact]
        kept = selector.next_round()
        assert len(kept) == len(part) // 2
        assert set(selector.next_round().tolist()) == set(kept.tolist())


def test_entropy_of_an_image_without_an_outcome_is_the_median():
    selector = make("entropy", labels(4, 4), size=4)
    record = know(selector, np.ones(8), known=np.arange(8) < 5)
    record.confidence = record.true = torch.tensor([0.5, 0.6, 0.8, 0.9, 1.0, 0, 0, 0])
    found = selector._entropies(record)
    assert found[:5] == pytest.approx(
        [-p * np.log(p) - (1 - p) * np.log(1 - p) if p < 1 else 0 for p in (0.5, 0.6, 0.8, 0.9, 1.0)], abs=1e-6
    )
    assert found[5:].tolist() == [found[2]] * 3
    record.observed[:] = 0
    assert len(set(selector._entropies(record).tolist())) == 1


def test_entropy_refuses_what_cannot_be():
    for wrong in ({"width": 0.0}, {"warmup": 0}):
        with pytest.raises(UserError, match="width above 0 and a warmup"):
            make("entropy", labels(5), **wrong)
    for scores in (np.ones(4), np.array([1, 1, 1, 1, -1.0]), np.full(5, np.nan)):
        with pytest.raises(UserError, match="one for each of 5 images"):
            make("entropy", labels(5), scores=scores)


# --- el2n


def test_el2n_takes_the_largest_errors():
    part = labels(30, 30)
    scores = np.random.default_rng(0).random(60)
    given = make("el2n", part, scores=scores, size=12)
    assert set(given.next_round().tolist()) == set(np.argsort(scores)[-12:])
    apart = make("el2n", part, scores=scores, size=12, balanced=False)
    chosen = apart.next_round().numpy()
    for label in (0, 1):
        members = np.flatnonzero(part.labels == label)
        assert set(chosen) & set(members) == set(members[np.argsort(scores[members])[-6:]])

    own = make("el2n", part, size=12)
    assert len(own.next_round()) == 60
    draw = torch.Generator().manual_seed(1)
    logits, target = 2 * torch.randn(60, 2, generator=draw), torch.tensor(part.labels)
    own.observe(torch.arange(60), torch.ones(60), logits, target)
    error = (logits.softmax(1) - torch.nn.functional.one_hot(target, 2)).norm(dim=1)
    assert set(own.next_round().tolist()) == set(error.argsort()[-12:].tolist())  # exact for two classes
    assert own.next_round().sort().values.tolist() == own.record.subset.sort().values.tolist()


def test_el2n_bounds_ties_and_refusals():
    draw = torch.Generator().manual_seed(2)
    chance = (3 * torch.randn(500, 6, generator=draw)).softmax(1).double()
    norm = (chance - torch.eye(6)[0]).norm(dim=1)
    score = 1 - chance[:, 0]
    assert (norm >= np.sqrt(6 / 5) * score - 1e-9).all()
    assert (norm <= np.sqrt(2) * score + 1e-9).all()
    same = [make("el2n", labels(40), scores=np.zeros(40), size=5, seed=seed).next_round().tolist() for seed in (0, 1)]
    assert set(same[0]) != set(same[1])
    half = make("el2n", labels(10), size=4)
    record = know(half, np.ones(10), known=np.arange(10) < 6)
    record.true = torch.tensor([0.9, 0.9, 0.1, 0.1, 0.1, 0.9, 0, 0, 0, 0])
    chosen = set(half.next_round().tolist())
    assert chosen > {2, 3, 4}
    assert chosen - {2, 3, 4} < {6, 7, 8, 9}  # those without an outcome count as mean
    with pytest.raises(UserError, match="warmup of 1 round"):
        make("el2n", labels(5), warmup=0)
    with pytest.raises(UserError, match="score for each of 5 images"):
        make("el2n", labels(5), scores=np.ones(6))


# --- the base, as a choice sees it


class Sees(Selector):
    """Writes down the progress that a choice sees."""

    def choose(self, record):
        vars(self).setdefault("progress", []).append(record.progress)
        return torch.arange(record.size), None


def test_progress_is_of_the_round_that_is_chosen():
    selector = Sees(labels(10), size=5)
    selector.expect(20)
    during = []
    for _ in range(6):
        selector.next_round()
        during.append(selector.record.progress)
    assert selector.progress == during == [0, 0.25, 0.5, 0.75, 1, 1]
    assert selector.record.spent == 30


@pytest.mark.parametrize(
    ("chosen", "weights", "words"),
    [([-1, 0], None, "not there"), ([0, 5], None, "not there"), ([0, 1], [1.0], "1 weights for 2 images")],
)
def test_a_choice_that_cannot_be_is_refused(chosen, weights, words):
    answer = torch.tensor(chosen), None if weights is None else torch.tensor(weights)
    bad = type("Bad", (Selector,), {"choose": lambda self, record: answer})
    with pytest.raises(ValueError, match=words):
        bad(labels(5)).next_round()


# --- check_selector sees what is wrong


class Sound(Selector):
    """A selector in order: some images at random."""

    def choose(self, record):
        return torch.from_numpy(record.generator.permutation(len(record.labels))[: record.size].copy()), None


class Twice(Sound):
    def choose(self, record):
        return torch.zeros(record.size, dtype=torch.int64), None


class NeedsOutcomes(Sound):
    def choose(self, record):
        return super().choose(record)[0], record.loss[: record.size] / record.loss.mean()


class Crashes(Sound):
    def choose(self, record):
        if record.round == 9:
            raise KeyError("hard images")
        return super().choose(record)


class Counting(Sound):
    def __init__(self, part, **settings):
        super().__init__(part, **settings)
        self.begun = 0

    def choose(self, record):
        self.begun += 1
        return super().choose(record) if self.begun % 2 else (torch.arange(record.size), None)


class OwnGenerator(Sound):
    def __init__(self, part, *, seed, **settings):
        super().__init__(part, seed=seed, **settings)
        self.draw = np.random.default_rng(seed)

    def choose(self, record):
        return torch.from_numpy(self.draw.permutation(len(record.labels))[: record.size].copy()), None


class Restless(Sound):
    ever = itertools.count()

    def choose(self, record):
        draw = np.random.default_rng(next(self.ever))
        return torch.from_numpy(draw.permutation(len(record.labels))[: record.size].copy()), None


class Torch(Sound):
    def choose(self, record):
        return torch.randperm(len(record.labels))[: record.size], None


class Numpy(Sound):
    def choose(self, record):
        return torch.from_numpy(np.random.permutation(len(record.labels))[: record.size].copy()), None


class Python(Sound):
    def choose(self, record):
        return torch.tensor(random.sample(range(len(record.labels)), record.size)), None


class Writes(Sound):
    def choose(self, record):
        record.times[0] += 1
        return super().choose(record)


class Spends(Sound):
    def choose(self, record):
        record.total = 7
        return super().choose(record)


class Recolours(Sound):
    def __init__(self, part, **settings):
        super().__init__(part, **settings)
        part.data.images[0] = 0


class Relabels(Sound):
    def __init__(self, part, **settings):
        super().__init__(part, **settings)
        part.labels[:] = part.labels[::-1].copy()


class Seedless(Sound):
    def __init__(self, part, *, seed, **settings):
        super().__init__(part, **settings)


class Long(Sound):
    def __len__(self):
        return super().__len__() + 1


class Nameless(Sound):
    def __len__(self):
        return 0


class Grows(Sound):
    def choose(self, record):
        chosen = super().choose(record)
        record.size = 1000
        return chosen


class Objects(Sound):
    def state_dict(self):
        return super().state_dict() | {"labels": Labels(np.zeros(3))}


class Lambdas(Sound):
    def state_dict(self):
        return super().state_dict() | {"when": lambda: None}


class Forgets(Sound):
    def state_dict(self):
        return {name: value for name, value in super().state_dict().items() if name != "round"}


class Stateless(Sound):
    def load_state_dict(self, state):
        pass


class After(Sound):
    """Does something to the round that the base has begun."""

    def next_round(self):
        subset = super().next_round()
        answer = self.change(subset, self.record)
        return subset if answer is None else answer


class Empty(After):
    def change(self, subset, record):
        return subset[:0]


class Outside(After):
    def change(self, subset, record):
        return subset + 60


class Doubled(After):
    def change(self, subset, record):
        return torch.cat([subset, subset[:1]])


class Loses(After):
    def change(self, subset, record):
        return subset[record.labels[subset] != 4]


class Reversed(After):
    def change(self, subset, record):
        return subset.flip(0)


class Heavy(After):
    def change(self, subset, record):
        record.weights *= 2


class Infinite(After):
    def change(self, subset, record):
        record.weights[subset[0]] = torch.inf


class Negative(After):
    def change(self, subset, record):
        record.weights[subset[0]] = -1.0


BROKEN = [
    (lambda part, **settings: [0, 1], "made list instead of a selector"),
    (Twice, "fails in round 1 with ValueError: .* an image twice"),
    (NeedsOutcomes, "fails in round 1 with ValueError: .* weights that are negative, not finite"),
    (Crashes, "fails in round 9 with KeyError: 'hard images'"),
    (Counting, "goes on differently when it is restored in round 1: keep no state of your own"),
    (OwnGenerator, "goes on differently when it is restored in round 1"),
    (Stateless, "goes on differently"),
    (Restless, "is not determined by the seed"),
    (Torch, "changed a random state"),
    (Numpy, "changed a random state"),
    (Python, "changed a random state"),
    (Writes, r"changed record.times in round 1"),
    (Spends, r"changed record.total in round 1"),
    (Recolours, "changed the part"),
    (Relabels, "changed the part"),
    (Seedless, "does the same under any seed"),
    (Long, r"has length 30 for 29 images"),
    (Nameless, "has 0 of 72 images before a round"),
    (Grows, "wants rounds of 1000 of 72 images"),
    (Objects, "has a state that cannot be loaded"),
    (Lambdas, "has a state that cannot be saved"),
    (Forgets, "has a state that cannot be loaded: .* it lacks round"),
    (Empty, "has an empty round 1"),
    (Outside, r"chose the images \[.*\], which are not there"),
    (Doubled, "has an image twice in round 1"),
    (Loses, r"lost the classes \[4\] in round"),
    (Reversed, "returned another round than is in its record"),
    (Heavy, "has weights of mean 2 in round 1"),
    (Infinite, r"has the weights \[inf\]"),
    (Negative, r"has the weights \[-1.0\]"),
]


@pytest.mark.parametrize(("bad", "words"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_check_selector_finds_what_is_wrong(bad, words):
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    with pytest.raises(AssertionError, match=words):
        check_selector(bad)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def test_check_selector_passes_what_is_right():
    check_selector(Sound)
    check_selector(lambda part, *, seed, share: Sound(part, seed=seed, share=share, unbiased=True))


def test_tiny_part_is_a_part():
    part = tiny_part((5, 2), seed=1)
    rows, images, found = part.batch([0, 3])
    assert images.shape == (2, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert found.tolist() == part.labels[rows].tolist()
    assert part.counts.tolist() == [5, 2]
    assert (tiny_part((5, 2), seed=1).data.images == part.data.images).all()


# --- disagreement


def test_disagreements_by_counting_pairs():
    rng = np.random.default_rng(0)
    for k in (1, 2, 3, 7):
        answers = rng.integers(0, 4, (k, 30))
        pairs = list(itertools.combinations(range(k), 2))
        expected = [np.mean([answers[a, i] != answers[b, i] for a, b in pairs]) if pairs else 0.0 for i in range(30)]
        assert disagreements(answers) == pytest.approx(expected)


def test_disagreement_draws_in_proportion_and_keeps_the_classes():
    """Two of three groups of images are never, sometimes and always disputed; the first draw follows their chances."""
    part = labels(300, 300)
    answers = np.zeros((3, 600), dtype=int)
    answers[0, 200:400] = 1  # one of three networks differs: 2 of 3 pairs
    answers[:, 400:] = np.arange(3)[:, None]  # no two agree
    first = np.zeros(600)
    rounds = 3000
    for seed in range(rounds):
        selector = SELECTORS["disagreement"](part, answers=answers, size=3, focus=0.34, seed=seed)
        focused = selector.choose(selector.record)[0][:1]  # in the order of the draw, before the round is shuffled
        first[focused] += 1
    share = np.array([first[:200].sum(), first[200:400].sum(), first[400:].sum()]) / rounds
    assert near(share, np.array([0.0, 0.4, 0.6]), rounds)

    selector = SELECTORS["disagreement"](part, answers=answers, size=100, focus=0.5, seed=0)
    subset = selector.next_round()
    assert len(subset) == 100
    assert (subset >= 200).sum() >= 50
    assert np.bincount(part.labels[subset.numpy()], minlength=2).min() > 25
    assert not torch.equal(subset, selector.next_round())


def test_disagreement_without_answers_is_a_random_share():
    part = labels(40, 20)
    selector = SELECTORS["disagreement"](part, size=30, seed=1)
    assert np.bincount(part.labels[selector.next_round().numpy()]).tolist() == [20, 10]


def test_disagreement_about_some_positions_only():
    part = labels(50, 50)
    asked = np.arange(90, 100)
    answers = np.stack([np.zeros(10, dtype=int), np.ones(10, dtype=int)])
    chosen = SELECTORS["disagreement"](part, answers=answers, asked=asked, size=20, focus=0.5, seed=0).next_round()
    assert set(asked.tolist()) <= set(chosen.tolist())
    for wrong in (
        {"answers": answers, "asked": asked[:5]}, {"answers": answers[0]}, {"answers": answers, "asked": asked + 1},
        {"focus": 2.0},
    ):  # fmt: skip
        with pytest.raises(UserError, match="disagreement"):
            SELECTORS["disagreement"](part, size=20, **wrong)
