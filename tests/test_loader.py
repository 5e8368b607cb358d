"""archscout.select around a stranger's loader: the right images, the right outcomes, resumed, and in two processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import archscout
from archscout.errors import UserError
from archscout.selection import Record, Selector
from archscout.selection.loader import Pictures, labels_of

N = 60


class Numbered(Dataset):
    """Images whose only pixel is their number, so that a batch shows which images it holds."""

    def __init__(self, n: int = N, classes: int = 3) -> None:
        self.targets = [i % classes for i in range(n)]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int):
        return torch.full((1, 2, 2), float(i)), self.targets[i]


class Hardest(Selector):
    """A selector as a stranger would write it."""

    def choose(self, record: Record):
        return record.loss.argsort(descending=True, stable=True)[: record.size], None


def a_round(loader, scale: float = 1.0) -> list[int]:
    """One pass: the loss of an image is its number; what was seen."""
    seen = []
    for x, y in loader:
        numbers = x[:, 0, 0, 0]
        logits = torch.stack([numbers / 100, -numbers / 100, torch.zeros(len(x))], 1).requires_grad_()
        loss = loader.observe(scale * numbers + 0 * logits.sum(1), logits, y)
        loss.backward()
        seen += numbers.int().tolist()
    return seen


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_outcomes_belong_to_the_images_that_were_trained_on(workers: int, persistent: bool) -> None:
    if persistent and not workers:
        pytest.skip("needs workers")
    plain = DataLoader(Numbered(), batch_size=7, shuffle=True, num_workers=workers, persistent_workers=persistent)
    loader = archscout.select(plain, Hardest, share=0.5)
    for number in range(3):
        seen = a_round(loader, scale=1.0 + number)
        assert len(seen) == len(set(seen)) == 30
        assert len(loader) == 5
        record = loader.selector.record
        assert sorted(record.subset.tolist()) == sorted(seen)
        for i in seen:
            assert record.loss[i] == pytest.approx((1.0 + number) * i)
            assert record.seen[i] == number + 1
        assert (record.times[seen] >= 1).all()
        assert record.times.sum() == 30 * (number + 1)


def test_two_lines_change_a_plain_loop() -> None:
    """The loss is the plain mean where weights are equal, and training goes on as usual."""
    x = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 2
    loader = archscout.select(DataLoader(TensorDataset(x, y), batch_size=8), "random", share=0.5, seed=1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        for images, labels in loader:
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(images)
                losses = nn.functional.cross_entropy(logits, labels, reduction="none")
            loss = loader.observe(losses, logits, labels)
            assert loss.item() == pytest.approx(losses.mean().item(), rel=1e-2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert loader.selector.record.round == 3
    assert torch.isfinite(loader.selector.record.loss).all()


def test_resumes_bit_exactly(tmp_path: Path) -> None:
    def fresh():
        return archscout.select(DataLoader(Numbered(), batch_size=7), Hardest, share=0.5, seed=3)

    one = fresh()
    a_round(one)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    rest = [a_round(one) for _ in range(3)]
    other = fresh()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [a_round(other) for _ in range(3)] == rest
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]) if isinstance(value, torch.Tensor) else True


@pytest.mark.parametrize("name", ["dds", "kcentre"])
def test_selectors_that_compare_images_read_them_from_the_dataset(name: str, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.randint(256, (80, 3, 8, 8), generator=draw, dtype=torch.uint8), torch.arange(80) % 2
    data = TensorDataset(images, labels)
    loader = archscout.select(DataLoader(data, batch_size=10), name, embedding="pixels", cache=tmp_path, share=0.25)
    for _ in range(3):
        for x, y in loader:
            logits = torch.zeros(len(x), 2)
            logits[torch.arange(len(x)), y] = 3.0
            loader.observe(nn.functional.cross_entropy(logits, y, reduction="none"), logits, y)
    assert len(loader.selector.record.changes) == (3 if name == "dds" else 1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("given", [None, Numbered().targets])
def test_only_the_indices_of_a_subset_sampler_are_chosen(workers: int, given: list[int] | None) -> None:
    kept = torch.arange(50, 9, -1)
    plain = DataLoader(Numbered(), batch_size=7, sampler=SubsetRandomSampler(kept), num_workers=workers)
    loader = archscout.select(plain, Hardest, share=0.5, labels=given)
    record = loader.selector.record
    assert record.labels.tolist() == [i % 3 for i in kept.tolist()]
    seen = set()
    for number in range(3):
        now = a_round(loader, scale=1.0 + number)
        assert set(now) == set(kept[record.subset].tolist())
        assert len(set(now)) == len(now) == 20
        seen |= set(now)
    assert seen <= set(kept.tolist())
    places = record.observed.nonzero().squeeze(1)
    assert all(record.loss[place] % kept[place] == 0 for place in places)  # the number of an image times its round
    with pytest.raises(UserError, match="of 60 images, the loader's SubsetRandomSampler has 41"):
        archscout.select(plain, Hardest(Pictures(Numbered(), np.array(Numbered().targets))))


def test_samplers_that_go_over_all_images_are_replaced() -> None:
    data = Numbered()
    for sampler in (RandomSampler(data), SequentialSampler(data), DistributedSampler(data, num_replicas=2, rank=0)):
        loader = archscout.select(DataLoader(data, batch_size=10, sampler=sampler), "random", share=0.5)
        assert len(a_round(loader)) == 30


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        (WeightedRandomSampler([1.0] * N, 10), "a WeightedRandomSampler"),
        (RandomSampler(Numbered(), replacement=True), "a RandomSampler"),
        (SequentialSampler(range(10)), "a SequentialSampler"),
        ([3, 2, 1], "a list"),
    ],
)
def test_samplers_that_weight_repeat_or_leave_out_are_refused(sampler, told: str) -> None:
    with pytest.raises(UserError, match=rf"{told} like this one .*torch\.utils.data.Subset"):
        archscout.select(DataLoader(Numbered(), sampler=sampler), "random")


def test_a_round_that_is_dropped_as_a_whole_is_refused() -> None:
    plain = DataLoader(Numbered(), batch_size=13, drop_last=True)
    with pytest.raises(UserError, match=r"12 images in a process, in batches of 13; .*drop_last=False"):
        archscout.select(plain, "random", share=0.2)
    assert len(archscout.select(DataLoader(Numbered(), batch_size=12, drop_last=True), "random", share=0.2)) == 1
    assert len(archscout.select(DataLoader(Numbered(), batch_size=13), "random", share=0.2)) == 1


def test_the_share_is_no_matter_where_a_round_has_all_images() -> None:
    data = DataLoader(Numbered(20, classes=5), batch_size=20, drop_last=True)
    for name in ("full", "infobatch"):
        assert len(archscout.select(data, name)) == 1
        assert len(archscout.select(data, name).selector.next_round()) == 20
    with pytest.raises(UserError, match="a round of 4 of 20 images cannot hold 5 classes"):
        archscout.select(data, "random")


def test_what_a_loader_has_the_selected_one_has() -> None:
    plain = DataLoader(Numbered(), batch_size=6, shuffle=True)
    loader = archscout.select(plain, "random", share=0.5)
    assert loader.dataset is plain.dataset
    assert len(loader.dataset) == N
    assert loader.batch_size == 6
    assert not loader.drop_last
    assert len(loader) == 5
    assert pickle.loads(pickle.dumps(loader)).batch_size == 6
    with pytest.raises(AttributeError, match="nothing"):
        loader.nothing  # noqa: B018


def test_labels_are_found() -> None:
    data = Numbered(10)
    assert labels_of(data).tolist() == data.targets
    assert labels_of(Subset(data, [9, 1])).tolist() == [0, 1]
    assert labels_of(TensorDataset(torch.zeros(4, 1), torch.tensor([3, 2, 1, 0]))).tolist() == [3, 2, 1, 0]
    assert labels_of([(torch.zeros(1), 2), (torch.zeros(1), 0)]).tolist() == [2, 0]


def test_pictures_of_any_kind() -> None:
    from PIL import Image

    class Jittered:
        def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
            return torch.rand(1, 2, 2), i

    torch.manual_seed(7)
    before = torch.get_rng_state()
    jittered = Pictures(Jittered(), np.arange(4))
    first, again = jittered.batch([2, 3])[1], jittered.batch([2, 3])[1]
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)

    grey = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    for image, shape in ((grey, (1, 3, 4)), (grey.convert("RGB"), (3, 3, 4)), (torch.zeros(2, 5, 6), (2, 5, 6))):
        where, pixels, labels = Pictures([(image, 1), (image, 0)], np.array([1, 0])).batch([1, 0])
        assert pixels.shape == (2, *shape)
        assert labels.tolist() == [0, 1]
        assert where.tolist() == [1, 0]


def test_refuses_what_cannot_be() -> None:
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(1), 0

    with pytest.raises(UserError, match="DataLoader"):
        archscout.select([1, 2], "random")
    with pytest.raises(UserError, match="stream"):
        archscout.select(DataLoader(Stream()), "random")
    with pytest.raises(UserError, match="batch_size"):
        archscout.select(DataLoader(Numbered(), batch_sampler=[[0, 1]]), "random")
    with pytest.raises(UserError, match="did you mean 'random'"):
        archscout.select(DataLoader(Numbered()), "randon")
    with pytest.raises(UserError, match="3 labels for 60"):
        archscout.select(DataLoader(Numbered()), "random", labels=[0, 1, 2])
    other = Hardest(Pictures(Numbered(10), np.zeros(10, dtype=np.int64)))
    with pytest.raises(UserError, match="of 10 images, the loader's dataset has 60"):
        archscout.select(DataLoader(Numbered()), other)
    loader = archscout.select(DataLoader(Numbered(), batch_size=6), "random")
    with pytest.raises(UserError, match="before any batch"):
        loader.observe(torch.zeros(6), torch.zeros(6, 3), torch.zeros(6))
    next(iter(loader))
    with pytest.raises(UserError, match="one per image"):
        loader.observe(torch.zeros(5), torch.zeros(5, 3), torch.zeros(5))
    with pytest.raises(UserError, match=r"one mean loss for the batch; wanted one per image: .*reduction='none'"):
        loader.observe(torch.zeros(()), torch.zeros(6, 3), torch.zeros(6))
    with pytest.raises(UserError, match=r"unknown setting .* dds 'epoch'; did you mean 'epochs'. \(known: .*unbiased"):
        archscout.select(DataLoader(Numbered()), "dds", epoch=3)
    with pytest.raises(UserError, match="'unbiased' is a setting, and this selector is ready"):
        archscout.select(DataLoader(Numbered(10)), other, unbiased=True)
    with pytest.raises(UserError, match="selector 'test_loader:Numbered' is none; wanted a subclass"):
        archscout.select(DataLoader(Numbered()), Numbered)
    with pytest.raises(ValueError, match="observed"):
        loader.selector.observe(torch.tensor([N]), torch.zeros(1), torch.zeros(1, 3), torch.zeros(1))


def two(rank: int, folder: str) -> None:
    """One of two processes: three rounds of a selector, its record saved."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    loader = archscout.select(DataLoader(Numbered(), batch_size=5), Hardest, share=0.5)
    seen = [a_round(loader, scale=1.0 + number) for number in range(3)]
    loader.selector.next_round()  # gathers the outcomes of the last round
    torch.save({"went": seen, **loader.state_dict()}, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_share_a_round_and_choose_alike(tmp_path: Path) -> None:
    torch.multiprocessing.start_processes(two, (str(tmp_path),), nprocs=2, start_method="spawn")
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for number in range(3):
        assert not set(one["went"][number]) & set(other["went"][number])
        assert len(one["went"][number]) == len(other["went"][number]) == 15
    for name, value in one.items():
        if name != "went":
            assert torch.equal(value, other[name]) if isinstance(value, torch.Tensor) else value == other[name], name
    single = archscout.select(DataLoader(Numbered(), batch_size=5), Hardest, share=0.5)
    for number in range(3):
        together = set(one["went"][number]) | set(other["went"][number])
        assert together == set(a_round(single, scale=1.0 + number))
    single.selector.next_round()
    for name in ("loss", "seen", "times", "observed", "subset", "true", "margin"):
        assert torch.allclose(one[name].double(), single.state_dict()[name].double(), atol=1e-6), name
