"""Selectors: what a round holds, what is recorded, and that a restored one goes on alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import archscout.selection
from archscout.errors import UserError
from archscout.selection import SELECTORS, Record, Selector

NO_METHODS = {"selector", "quota", "loader", "embedding", "furthest", "drift", "story", "page"}


class Labels:
    def __init__(self, *counts: int) -> None:
        self.labels = np.repeat(np.arange(len(counts)), counts)

    def __len__(self) -> int:
        return len(self.labels)


def new(make, part, **settings) -> Selector:
    """A selector of labels alone; those that compare images get points."""
    more = {"embedding": np.random.default_rng(0).normal(size=(len(part), 3))} if make.embeds else {}
    return make(part, **settings, **more)


class Hardest(Selector):
    """A selector as a stranger would write it: the images with the largest last loss, weighted by it."""

    name = "hardest"

    def choose(self, record: Record):
        if record.round == 1:
            return torch.arange(len(record.labels)), None
        positions = record.loss.argsort(descending=True)[: record.size]
        return positions, record.loss[positions]


def test_folder_and_dictionary_agree():
    folder = Path(archscout.selection.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", *NO_METHODS}
    assert files == set(SELECTORS)
    for name, make in SELECTORS.items():
        selector = new(make, Labels(3, 4), seed=0, share=0.5)
        assert isinstance(selector, Selector)
        assert selector.name == name
        assert type(selector).__module__ == f"archscout.selection.{name}"


def test_full_takes_every_image_in_a_new_order_each_round():
    selector = SELECTORS["full"](Labels(30, 20), seed=1)
    assert len(selector) == 50
    first, second = selector.next_round().clone(), selector.next_round()
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(50))
    assert first.tolist() != second.tolist()
    assert first.tolist() != list(range(50))
    again = SELECTORS["full"](Labels(30, 20), seed=1)
    assert again.next_round().tolist() == first.tolist()
    assert SELECTORS["full"](Labels(30, 20), seed=2).next_round().tolist() != first.tolist()


@pytest.mark.parametrize("share", [0.1, 0.37, 0.5, 1.0])
@pytest.mark.parametrize("counts", [(952, 115, 85, 57, 32, 103), (10, 10), (1, 99), (7,)])
def test_random_keeps_proportions(share, counts):
    part = Labels(*counts)
    selector = SELECTORS["random"](part, seed=0, share=share)
    for _ in range(5):
        chosen = selector.next_round().numpy()
        assert len(chosen) == len(np.unique(chosen)) == max(1, round(share * len(part))) == len(selector)
        found = np.bincount(part.labels[chosen], minlength=len(counts))
        assert (np.abs(found - np.array(counts) * len(chosen) / len(part)) <= 1.5).all()


def test_random_share_is_redrawn_and_every_image_is_as_likely():
    selector = SELECTORS["random"](Labels(80, 20), seed=3, share=0.25)
    rounds = 400
    for _ in range(rounds):
        selector.next_round()
    times = selector.record.times.numpy() / rounds
    assert times.sum() == pytest.approx(25)
    assert np.abs(times - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / rounds)


def test_random_balanced_takes_equally_many_and_all_of_a_small_class():
    part = Labels(952, 115, 85, 57, 32, 103)
    selector = SELECTORS["random"](part, seed=0, share=300 / len(part), balanced=True)
    chosen = selector.next_round().numpy()
    found = np.bincount(part.labels[chosen])
    assert found[4] == 32
    assert len(np.unique(chosen)) == found.sum() == 300
    others = np.delete(found, 4)
    assert others.max() - others.min() <= 1


def test_observe_records_and_returns_the_weighted_mean():
    selector = Hardest(Labels(4, 4), seed=0, share=0.5)
    selector.next_round()
    logits = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    order, target = torch.tensor([7, 6, 5, 4, 3, 2, 1, 0]), torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
    losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    loss = selector.observe(order, losses, logits, target)
    assert loss.item() == pytest.approx(losses.mean().item())
    loss.backward()
    assert logits.grad is not None
    record = selector.record
    for row, position in enumerate(order.tolist()):
        assert record.loss[position] == pytest.approx(losses[row].item())
        assert record.confidence[position] == pytest.approx(logits[row].softmax(0).max().item())
    assert not record.loss.requires_grad
    assert record.seen.tolist() == record.times.tolist() == [1] * 8

    chosen = selector.next_round()
    hardest = sorted(range(8), key=lambda i: -record.loss[i])[:4]
    assert set(chosen.tolist()) == set(hardest)
    some = chosen[:3]
    plain = torch.tensor([1.0, 2.0, 3.0])
    weights = record.loss[some] / record.loss[hardest].mean()
    expected = (weights * plain).mean().item()
    assert selector.observe(some, plain, torch.zeros(3, 2), torch.zeros(3)).item() == pytest.approx(expected)
    assert record.seen[some].tolist() == [2, 2, 2]
    assert record.times.sum() == 12


def test_an_image_observed_twice_has_its_last_outcome_and_both_margins():
    selector = SELECTORS["random"](Labels(10, 10), seed=0, size=8)
    position = selector.next_round()[:1]
    record = selector.record
    record.able = 1
    target = record.labels[position]
    for own, loss in ((0.9, 0.1), (0.3, 1.2)):
        logits = torch.log(torch.tensor([[own, 1 - own]]))[:, [0, 1] if target == 0 else [1, 0]]
        selector.observe(position, torch.tensor([loss]), logits, target)
    assert record.loss[position].item() == pytest.approx(1.2)
    assert record.true[position].item() == pytest.approx(0.3)
    assert record.confidence[position].item() == pytest.approx(0.7)
    assert record.margin[position].item() == pytest.approx((0.8 - 0.4) / 2)
    assert record.observed[position].tolist() == record.judged[position].tolist() == [2]
    assert record.seen[position].tolist() == record.times[position].tolist() == [1]


def test_an_image_that_was_not_drawn_is_not_observed():
    selector = SELECTORS["random"](Labels(10, 10), seed=0, size=8)
    chosen = selector.next_round()
    other = next(i for i in range(20) if i not in chosen.tolist())
    with pytest.raises(ValueError, match=f"image {other} was observed, but round 1 holds 8 others"):
        selector.observe(torch.tensor([int(chosen[0]), other]), torch.zeros(2), torch.zeros(2, 2), torch.zeros(2))
    assert not selector.record.observed.any()


def test_unbiased_weights_give_each_class_its_share_of_all_images():
    selector = SELECTORS["random"](Labels(60, 20), seed=0, size=20, balanced=True, unbiased=True)
    chosen = selector.next_round()
    labels = selector.record.labels[chosen]
    assert torch.bincount(labels).tolist() == [10, 10]
    assert selector.record.weights[chosen].tolist() == pytest.approx(torch.where(labels == 0, 1.5, 0.5).tolist())
    losses = torch.rand(20, generator=torch.Generator().manual_seed(0))
    wanted = 0.75 * losses[labels == 0].mean() + 0.25 * losses[labels == 1].mean()
    assert selector.observe(chosen, losses, torch.zeros(20, 2), labels).item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("make", [SELECTORS["full"], SELECTORS["random"], Hardest])
def test_a_restored_selector_goes_on_alike(make, tmp_path):
    def outcome(selector: Selector) -> None:
        some = selector.record.subset[:5]
        losses = some.float() * selector.record.round + 1
        selector.observe(some, losses, torch.stack([losses, -losses], 1), torch.zeros(5))

    one = make(Labels(9, 9), seed=4, share=0.6)
    one.next_round()
    outcome(one)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    other = make(Labels(9, 9), seed=0, share=1.0)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for selector in (one, other):
        for _ in range(3):
            outcome(selector)
            selector.next_round()
    left, right = one.state_dict(), other.state_dict()
    for name, value in left.items():
        assert torch.equal(value, right[name]) if isinstance(value, torch.Tensor) else value == right[name]


def test_a_state_is_a_copy():
    selector = SELECTORS["full"](Labels(4), seed=0)
    state = selector.state_dict()
    selector.next_round()
    assert state["times"].tolist() == [0] * 4


def test_goes_into_a_loader_and_iterating_starts_a_round():
    part = Labels(6, 6)
    selector = SELECTORS["random"](part, seed=0, share=0.5)
    images = [(i, int(label)) for i, label in enumerate(part.labels)]
    loader = DataLoader(images, batch_size=2, sampler=selector)
    assert len(loader) == 3
    rounds = [[i for index, _ in loader for i in index.tolist()] for _ in range(2)]
    assert selector.record.round == 2
    assert all(len(set(chosen)) == 6 for chosen in rounds)
    assert rounds[0] != rounds[1]


def test_refuses_what_cannot_be():
    with pytest.raises(UserError, match="share"):
        SELECTORS["random"](Labels(4), share=0.0)
    with pytest.raises(UserError, match="empty"):
        SELECTORS["full"](Labels(), seed=0)
    with pytest.raises(UserError, match="of 4 images, the part has 5"):
        SELECTORS["full"](Labels(5)).load_state_dict(SELECTORS["full"](Labels(4)).state_dict())
    for given in (torch.tensor([-1.0, 2.0]), torch.tensor([np.nan, 1.0]), torch.zeros(2)):
        bad = type("Bad", (Selector,), {"name": "bad", "choose": lambda self, record, w=given: (torch.arange(2), w)})
        with pytest.raises(ValueError, match="weights"):
            bad(Labels(2)).next_round()
    nothing = type("Nothing", (Selector,), {"name": "none", "choose": lambda self, r: (torch.zeros(0).long(), None)})
    with pytest.raises(ValueError, match="chose nothing"):
        nothing(Labels(2)).next_round()


def test_leaves_the_global_random_state():
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    for make in SELECTORS.values():
        list(new(make, Labels(5), seed=0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
