"""Dynamic data selection: each choice against a slow version written from the rules, and what must never happen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archscout.errors import UserError
from archscout.selection import SELECTORS, Selector
from archscout.selection.dds import drawn_candidates, due, hard_scores, hardest, some_of, suspects, way


class Part:
    def __init__(self, labels: np.ndarray) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)


def outcomes(selector: Selector, rng: np.random.Generator, ease: float = 0.5) -> None:
    """Made-up answers to the current round: each image is known with probability `ease`."""
    record = selector.record
    index = record.subset
    classes = int(record.labels.max()) + 1
    logits = torch.from_numpy(rng.normal(size=(len(index), classes))).float()
    known = torch.from_numpy(rng.random(len(index)) < ease)
    logits[torch.arange(len(index)), record.labels[index]] += 4 * known.float()
    losses = torch.nn.functional.cross_entropy(logits, record.labels[index], reduction="none")
    selector.observe(index, losses, logits, record.labels[index])


def slow_update(selector, points: np.ndarray) -> set[int]:
    """The images of the next round, one at a time, from the rules in the docstring of Dds."""
    record = selector.record
    labels = record.labels.numpy()
    doubted = set(suspects(record, selector.patience, selector.doubt).nonzero().squeeze(1).tolist())
    subset = record.subset.tolist()
    inside = set(subset)
    since = int(record.changes[-selector.lately :][0])
    lately = {i for i in range(len(labels)) if int(record.seen[i]) >= since}
    hard = [i for i in subset if float(record.true[i]) < selector.hardness and i not in doubted]
    if selector.keep is not None:
        hard.sort(key=lambda i: float(record.true[i]))
        hard = hard[: round(selector.keep * min(1.0, len(record.changes) / 20) * len(subset))]
    leaving = [i for i in subset if i not in hard]
    taken: set[int] = set()
    result = inside - set(leaving)

    def furthest(i: int, barred: set[int]) -> int | None:
        free = [j for j in range(len(labels)) if labels[j] == labels[i] and j != i and j not in barred | taken]
        return max(free, key=lambda j: (((points[i] - points[j]) ** 2).sum(), -j)) if free else None

    ever = {i for i in range(len(labels)) if int(record.times[i]) > 0}
    waiting = leaving
    for barred in (ever, lately, set()):
        again = []
        for i in waiting:
            found = furthest(i, inside | barred | doubted)
            if found is None:
                again.append(i)
            else:
                taken.add(found)
        waiting = again
    taken |= set(waiting)
    return result | taken


@pytest.mark.parametrize("counts", [(40, 30, 50), (60, 3, 1), (12, 12)])
@pytest.mark.parametrize(("lately", "keep"), [(1, None), (3, None), (3, 0.6)])
def test_every_update_equals_the_slow_version(counts: tuple[int, ...], lately: int, keep: float | None) -> None:
    rng = np.random.default_rng(len(counts) + lately)
    labels = np.repeat(np.arange(len(counts)), counts)
    points = rng.normal(size=(len(labels), 4)).astype(np.float32)
    rules = {"lately": lately, "keep": keep, "staying": "hardest", "among": None, "mastery": 0.2, "top": 0.6}
    selector = SELECTORS["dds"](Part(labels), seed=1, size=15, embedding=points, **rules)
    selector.next_round()
    updates = 0
    for _ in range(25):
        outcomes(selector, rng)
        before = set(selector.record.subset.tolist())
        record = selector.record
        update = due(record, hardness=0.5, mastery=0.2, top=0.6, score="true")
        # `due` is asked when the new round has begun, with the number of changes as it is
        wanted = slow_update(selector, points) if update else before
        histogram = np.bincount(labels[list(before)], minlength=len(counts))
        chosen = selector.next_round().tolist()
        assert len(chosen) == len(set(chosen)) == 15
        assert set(chosen) == wanted
        assert (np.bincount(labels[chosen], minlength=len(counts)) == histogram).all()  # one for one, of the same class
        updates += update and wanted != before
    assert updates > 5


def test_nothing_changes_until_enough_is_mastered() -> None:
    labels = np.repeat([0, 1], 20)
    points = np.random.default_rng(0).normal(size=(40, 3))
    selector = SELECTORS["dds"](Part(labels), size=10, embedding=points, mastery=0.5, top=0.5, keep=None)
    first = set(selector.next_round().tolist())
    outcomes(selector, np.random.default_rng(0), ease=0.0)
    selector.record.true[selector.record.subset[:4]] = 0.9  # four of ten
    selector.record.true[selector.record.subset[4:]] = 0.1
    assert set(selector.next_round().tolist()) == first
    selector.record.true[selector.record.subset] = 0.1
    selector.record.true[selector.record.subset[:5]] = 0.9
    stay = set(selector.record.subset[5:].tolist())
    after = set(selector.next_round().tolist())
    assert len(after & first) == 5
    assert stay <= after
    assert selector.record.changes.tolist() == [1, 3]


def test_mastery_rises_with_progress_or_with_updates() -> None:
    selector = SELECTORS["dds"](Part(np.repeat([0, 1], 20)), size=10, embedding=np.zeros((40, 1)))
    record = selector.record
    selector.next_round()
    record.observed[record.subset] = 1
    record.true[record.subset[:5]] = 1.0
    options = {"hardness": 0.5, "mastery": 0.4, "top": 0.8, "score": "true"}
    assert due(record, **options)
    record.changes = torch.arange(20)  # the curriculum at its end
    assert not due(record, **options)
    selector.expect(1000)
    assert due(record, **options)  # now the progress counts: none yet
    record.before = 500
    assert record.progress == pytest.approx(0.5)
    assert not due(record, **options)  # 0.6 is asked for


def test_the_published_score() -> None:
    selector = SELECTORS["dds"](Part(np.array([0, 0, 1, 1])), size=4, embedding=np.zeros((4, 1)))
    selector.next_round()
    logits = torch.log(torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.1, 0.9]]))
    index = torch.arange(4)
    target = torch.tensor([0, 0, 1, 1])
    selector.record.able = 1
    selector.observe(index, torch.zeros(4), logits, target)
    assert hard_scores(selector.record, "true").tolist() == pytest.approx([0.7, 0.2, 0.4, 0.9])
    assert hard_scores(selector.record, "published").tolist() == pytest.approx([0.7, 0.08, 0.06, 0.9])
    assert selector.record.margin.tolist() == pytest.approx([0.4, -0.6, -0.2, 0.8], abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_suspects_equal_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 30))
    labels = rng.integers(0, 4, n)
    selector = SELECTORS["random"](Part(labels))
    record = selector.record
    record.margin = torch.from_numpy(rng.normal(scale=0.5, size=n).round(3)).float()
    record.observed = record.judged = torch.from_numpy(rng.integers(0, 6, n))
    found = suspects(record, 3, 0.3)
    wanted = set()
    for c in range(4):
        mine = [i for i in range(n) if labels[i] == c]
        doubtful = [i for i in mine if record.observed[i] >= 3 and record.margin[i] < -0.3]
        doubtful.sort(key=lambda i: (float(record.margin[i]), i))
        wanted |= set(doubtful[: sum(int(record.observed[i]) > 0 for i in mine) // 3])
    assert set(found.nonzero().squeeze(1).tolist()) == wanted
    assert not suspects(record, 0, 0.3).any()


@pytest.mark.parametrize("name", ["dds", "hard_random"])
def test_mislabelled_images_are_not_mined_for_ever(name: str) -> None:
    """A network that contradicts a tenth of the labels every time: those images leave and stay away."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 50)
    wrong = rng.random(200) < 0.1
    more = {"embedding": rng.normal(size=(200, 4))} if name == "dds" else {}
    selector = SELECTORS[name](Part(labels), seed=0, size=60, mastery=0.1, top=0.1, **more)
    share = []
    for _ in range(40):
        index = selector.next_round()
        share.append(float(wrong[index.numpy()].mean()))
        answer = np.where(wrong[index], (labels[index] + 1) % 4, labels[index])
        logits = torch.zeros(60, 4)
        logits[torch.arange(60), torch.from_numpy(answer)] = 3.0
        target = selector.record.labels[index]
        selector.observe(index, torch.nn.functional.cross_entropy(logits, target, reduction="none"), logits, target)
    found = suspects(selector.record, 3, 0.3).numpy()
    assert max(share[:8]) > 0.1
    assert np.mean(share[-8:]) < 0.05
    assert not found[~wrong].any()
    assert found.sum() >= 0.8 * (wrong & (selector.record.times.numpy() > 0)).sum()


def test_replacements_are_far_where_random_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(400, dtype=np.int64)
    points = rng.normal(size=(400, 2)).astype(np.float32)

    def distances(name: str, among: int | None = None) -> float:
        more = {"embedding": points, "among": among} if name == "dds" else {}
        selector = SELECTORS[name](Part(labels), seed=0, size=20, mastery=0.0, top=0.0, **more)
        before = selector.next_round().numpy()
        selector.record.true[:] = 1.0
        after = selector.next_round().numpy()
        gap = points[before][:, None] - points[after][None]
        return float(np.sqrt((gap**2).sum(2)).mean())

    by_chance = distances("hard_random")
    assert distances("dds") > 1.3 * by_chance
    assert distances("dds") > distances("dds", among=4) > 1.05 * by_chance
    assert distances("dds", among=1) == pytest.approx(by_chance, rel=0.1)  # all that were drawn are taken


def test_of_the_hard_images_some_stay_and_more_of_them_later() -> None:
    scores = torch.tensor([0.4, 0.1, 0.9, 0.3, 0.2])
    assert hardest(scores, 0.5, None).tolist() == [True, True, False, True, True]
    assert hardest(scores, 0.5, 2).tolist() == [False, True, False, False, True]
    assert hardest(scores, 0.15, 2).tolist() == [False, True, False, False, False]
    assert not hardest(scores, 0.5, 0).any()
    for staying in ("hardest", "random"):
        selector = SELECTORS["dds"](Part(np.zeros(400, dtype=np.int64)), size=100, keep=0.5, staying=staying)
        selector.expect(1000)
        for _ in range(4):
            before = selector.next_round()
        selector.record.true[before] = torch.linspace(0, 0.99, 100)
        selector.record.observed[before] = 1
        stay = set(selector.next_round().tolist()) & set(before.tolist())
        assert way(selector.record) == pytest.approx(0.4)
        assert len(stay) == 20  # half of the round times four tenths of the way
        assert stay <= set(before[:51].tolist())  # those below one half
        assert (stay == set(before[:20].tolist())) == (staying == "hardest")


def test_of_too_many_hard_images_each_is_as_likely_to_stay() -> None:
    hard = torch.arange(50) % 5 != 0
    times = sum(some_of(hard, 10, np.random.default_rng(seed)).double() for seed in range(2000))
    assert not times[~hard].any()
    assert (times[hard] / 2000 - 0.25).abs().max() < 0.04  # four standard deviations
    assert torch.equal(some_of(hard, None, np.random.default_rng(0)), hard)
    assert torch.equal(some_of(hard, 40, np.random.default_rng(0)), hard)


def test_candidates_are_drawn_by_class_for_those_that_leave() -> None:
    labels = torch.tensor([0] * 50 + [1] * 6 + [2] * 10)
    free = torch.ones(66, dtype=torch.bool)
    free[:5] = free[50] = False
    leaving = torch.tensor([0, 1, 2, 50, 51])
    counts = np.zeros(66)
    for seed in range(300):
        drawn = drawn_candidates(labels, leaving, free, 4, np.random.default_rng(seed))
        assert torch.bincount(labels[drawn], minlength=3).tolist() == [12, 5, 0]
        assert not (drawn & ~free).any()
        counts += drawn.numpy()
    assert np.abs(counts[5:50] / 300 - 12 / 45).max() < 0.11  # four standard deviations


def test_a_subset_of_everything_and_growth() -> None:
    labels = np.repeat([0, 1], 10)
    selector = SELECTORS["dds"](Part(labels), share=1.0, embedding=np.zeros((20, 2)), among=2)
    for _ in range(3):
        assert sorted(selector.next_round().tolist()) == list(range(20))
        selector.record.true[:] = 1.0
    selector = SELECTORS["dds"](Part(labels), size=6, embedding=np.random.default_rng(0).normal(size=(20, 2)))
    selector.next_round()
    selector.record.size = 11  # an audit widened it
    chosen = selector.next_round()
    assert len(chosen) == len(set(chosen.tolist())) == 11
    selector.record.size = 20
    assert len(selector.next_round()) == 20


@pytest.mark.parametrize(
    "settings_",
    [
        {"hardness": 1.5},
        {"mastery": -0.1},
        {"score": "other"},
        {"lately": 0},
        {"among": 0},
        {"keep": 1.1},
        {"patience": -1},
        {"size": 21},
        {"size": 1},
    ],
)
def test_refuses_what_cannot_be(settings_: dict) -> None:
    with pytest.raises(UserError):
        SELECTORS["dds"](Part(np.repeat([0, 1], 10)), embedding=np.zeros((20, 1)), **settings_)


@pytest.mark.parametrize("among", [1, 2, None])
@pytest.mark.parametrize(
    ("embedding", "told"),
    [
        (
            np.where(np.arange(40).reshape(20, 2) == 15, np.nan, 0.0),
            "not finite in 1 of 20 rows, the first at position 7",
        ),
        (np.zeros((19, 2)), r"has shape \(19, 2\); \(20, d\) is wanted"),
        (np.zeros(20), r"has shape \(20,\)"),
        (None, r"\(20, d\) is wanted"),
        ("autoencodr", "did you mean 'autoencoder'"),
    ],
)
def test_a_wrong_embedding_is_refused_at_once(embedding, told: str, among: int | None) -> None:
    with pytest.raises(UserError, match=told):
        SELECTORS["dds"](Part(np.repeat([0, 1], 10)), size=4, embedding=embedding, among=among)


def test_images_without_an_outcome_are_not_taken_for_hard() -> None:
    """A loop that was broken off after half of a round, of which 40 % are hard."""
    settings_ = {"size": 100, "seed": 0, "mastery": 0.5, "top": 0.5, "keep": None, "among": 1}
    selector = SELECTORS["dds"](Part(np.zeros(400, dtype=np.int64)), **settings_)
    record = selector.record
    before = selector.next_round().clone()
    assert not selector.due(record)  # nothing is known
    record.observed[before[:50]] = 1
    record.true[before[20:50]] = 0.9
    record.true[before[:20]] = 0.1
    assert selector.due(record)  # 60 % of what is known
    after = set(selector.next_round().tolist())
    assert after & set(before.tolist()) == set(before[:20].tolist())
    everything = SELECTORS["dds"](Part(np.zeros(100, dtype=np.int64)), **settings_)
    assert sorted(everything.next_round().tolist()) == sorted(everything.next_round().tolist()) == list(range(100))


def test_by_default_dds_and_hard_random_choose_alike_and_redrawn_as_random() -> None:
    """Default dds updates in every round, so that a random subset redrawn at its updates is one redrawn each round."""
    part = Part(np.repeat([0, 1, 2], [60, 30, 10]))
    selectors = [SELECTORS[name](part, seed=2, share=0.2) for name in ("dds", "hard_random", "redrawn", "random")]
    for number in range(8):
        dds, hard, redrawn, random = (selector.next_round().tolist() for selector in selectors)
        assert dds == hard
        assert redrawn == random
        for selector in selectors:
            outcomes(selector, np.random.default_rng(number))
    assert [selector.record.changes.tolist() for selector in selectors] == [list(range(1, 9))] * 4
