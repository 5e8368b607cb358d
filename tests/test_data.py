"""load, Data and Part: honest splits, statistics of the train part only, memory, sharing with workers."""

from __future__ import annotations

import gzip
import importlib.util
import itertools
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from archscout.data import Data, load
from archscout.errors import UserError
from archscout.mirrors import mirrors
from archscout.readers.store import available_memory
from archscout.split import split


def images(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *(shape or (6, 6)))).astype(np.uint8)


def folder(root: Path, each: int = 20, classes: int = 3, size=(8, 8, 3)) -> Path:
    for c, i in itertools.product(range(classes), range(each)):
        (root / f"c{c}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(images(1, *size, seed=c * 1000 + i)[0]).save(root / f"c{c}" / f"p{i // 4}_{i}.png")
    return root


# -- splits -------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=8),
    st.integers(0, 5),
    st.sampled_from([(0.6, 0.2, 0.2), (0.8, 0.1, 0.1), (0.75, 0.25)]),
)
def test_split_of_single_images(counts, seed, shares):
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = np.random.default_rng(seed).permutation(labels)
    place = split(labels, np.arange(len(labels)), shares, seed)
    assert np.array_equal(place, split(labels, np.arange(len(labels)), shares, seed))
    assert set(place) <= set(range(len(shares)))
    for label, n in enumerate(counts):
        found = np.bincount(place[labels == label], minlength=len(shares))
        assert found[0] >= 1
        if n >= len(shares):
            assert (found >= 1).all()
        if n * min(shares) >= 1:
            assert (np.abs(found - n * np.array(shares)) < 1).all()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(10, 40), st.booleans())
def test_split_of_groups(seed, classes, groups, pure):
    rng = np.random.default_rng(seed)
    units = np.repeat(np.arange(groups), rng.integers(1, 7, groups))
    labels = (units % classes) if pure else rng.integers(0, classes, len(units))
    labels = np.unique(labels, return_inverse=True)[1]
    place = split(labels, units, (0.6, 0.2, 0.2), seed)
    for unit in range(groups):
        assert len(set(place[units == unit])) == 1
    for label in range(labels.max() + 1):
        here = labels == label
        assert 0 in place[here]
        if pure and len(set(units[here])) >= 3:
            assert set(place[here]) == {0, 1, 2}


def test_split_of_groups_comes_near_the_shares():
    """Against scikit-learn's StratifiedGroupKFold, of whose five folds three make train: no worse on average."""
    from sklearn.model_selection import StratifiedGroupKFold

    ours, theirs, want = [], [], np.array([0.6, 0.2, 0.2])
    for seed in range(8):
        rng = np.random.default_rng(seed)
        units = np.repeat(np.arange(60), rng.integers(1, 30, 60))
        labels = (rng.random(len(units)) < rng.choice([0.05, 0.3, 0.9], 60)[units]).astype(int)
        fold = np.zeros(len(units), int)
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed).split(labels, labels, units)
        for i, (_, rows) in enumerate(folds):
            fold[rows] = i
        for place, errors in ((split(labels, units, want, seed), ours), (np.maximum(fold - 2, 0), theirs)):
            table = np.stack([np.bincount(place[labels == c], minlength=3) for c in (0, 1)])
            errors.append(np.abs(table / table.sum(1, keepdims=True) - want).max())
    assert np.mean(ours) <= np.mean(theirs)
    assert max(ours) < 0.05


def test_three_groups_of_one_class_go_three_ways():
    labels, units = np.repeat([0, 1], [30, 30]), np.repeat([0, 1, 2, 3, 4, 5], 10)
    place = split(labels, units, (0.6, 0.2, 0.2), 0)
    assert sorted(place[::10][:3]) == sorted(place[::10][3:]) == [0, 1, 2]


def test_seeds_differ_and_parts_cover_everything_once():
    source = (images(300), np.arange(300) % 3)
    one, two = load(source, seed=0), load(source, seed=1)
    assert one == load(source, seed=0)
    assert one != two
    for data in (one, two):
        assert np.array_equal(np.sort(np.concatenate(list(data.parts.values()))), np.arange(300))
        assert all(np.array_equal(rows, np.sort(rows)) for rows in data.parts.values())
    assert {name: len(rows) for name, rows in one.parts.items()} == {"train": 180, "validation": 60, "test": 60}
    thirds = load(source, fractions=(0.5, 0.3, 0.2))
    assert [len(rows) for rows in thirds.parts.values()] == [150, 90, 60]
    for wrong in ((0.5, 0.5), (0.6, 0.2, 0.1), (1, 0, 0), (0.9, 0.3, -0.2)):
        with pytest.raises(UserError, match="fractions"):
            load(source, fractions=wrong)


def test_rare_classes_stay_in_train():
    labels = np.repeat([0, 1, 2], [100, 3, 2])
    data = load((images(105), labels))
    assert data.part("train").counts.tolist() == [60, 1, 1]
    assert data.part("validation").counts[1] == data.part("test").counts[1] == 1
    assert any("no image of class '2' is in test" in note for note in data.notes)


def test_groups_by_name_and_by_array(tmp_path):
    root = folder(tmp_path)
    data = load(root, group=r"/(p\d+)_")
    where = {name: {data.groups[i] for i in rows} for name, rows in data.parts.items()}
    assert not where["train"] & where["validation"]
    assert not where["train"] & where["test"]
    assert not where["validation"] & where["test"]
    assert len(set(data.groups)) == 5
    assert len(set(load(root, group=r"^c\d/p\d+").groups)) == 15
    some = load(root, group=r"c0/(p\d+)_")
    assert len(set(some.groups)) == 5 + 40
    assert any("40 of 60" in note for note in some.notes)
    again = load((images(60), np.arange(60) % 2), group=[f"g{i // 5}" for i in range(60)])
    assert all(len({name for name, rows in again.parts.items() if g in again.groups[rows]}) == 1 for g in range(12))
    for wrong, why in (
        ("(", "regular expression"),
        ("zzz", "matches no image"),
        ([1, 2], "one per image"),
        ("c", "too few"),
    ):
        with pytest.raises(UserError, match=why):
            load(root, group=wrong)


def test_copies_are_found_and_kept_together():
    x, y = images(200), np.arange(200) % 2
    x[1::20] = x[0::20]  # ten pairs, under both classes
    for seed in range(5):
        data = load((x, y), seed=seed)
        place = {i: name for name, rows in data.parts.items() for i in rows.tolist()}
        assert all(place[i] == place[i + 1] for i in range(0, 200, 20))
        assert any(note.startswith("10 images are exact copies") for note in data.notes)
        assert any("10 images stand under more than one class" in note for note in data.notes)
        assert not any("too good" in note for note in data.notes)


def test_copies_join_groups():
    x, y, groups = images(120), np.arange(120) % 2, np.arange(120) // 4
    x[3::8] = x[4::8]  # ties each odd group to the one before
    data = load((x, y), group=groups)
    place = np.empty(120, dtype=object)
    for name, rows in data.parts.items():
        place[rows] = name
    assert all(len(set(place[i : i + 8])) == 1 for i in range(0, 120, 8))


def test_copies_across_a_brought_split_are_reported(tmp_path):
    x, y, more = images(40), np.arange(40) % 2, images(10, seed=1)
    more[3] = x[7]
    np.savez(tmp_path / "a.npz", X=x, y=y, X_test=more, y_test=np.arange(10) % 2)
    data = load(tmp_path / "a.npz")
    assert data.parts["test"].tolist() == list(range(40, 50))
    assert any("1 of 10 test images also stand in" in note and "too good" in note for note in data.notes)


# -- the test part stays closed -----------------------------------------------------------------------------------


def test_nothing_but_hashes_depends_on_test_pixels():
    x, y = images(300, 8, 8, 3), np.arange(300) % 3
    one = load((x, y))
    changed = x.copy()
    for seed, name in enumerate(("test", "validation"), start=9):
        changed[one.parts[name]] = images(len(one.parts[name]), 8, 8, 3, seed=seed) // 5
    two = load((changed, y))
    assert (one.mean, one.std, one.mirrors) == (two.mean, two.std, two.mirrors)
    assert all(np.array_equal(one.parts[name], two.parts[name]) for name in one.parts)
    assert one.fingerprint != two.fingerprint


def test_opening_is_counted():
    data = load("digits")
    assert data.opened == {}
    data.part("train")
    data.merge("train", "validation")
    assert data.opened == {"train": 2, "validation": 1}
    data.part("test")
    assert data.opened["test"] == 1
    with pytest.raises(UserError, match="did you mean 'validation'"):
        data.part("validate")


def test_mean_and_std_are_those_of_the_train_images():
    x = images(300, 5, 7, 3)
    data = load((x, np.arange(300) % 3))
    train = x[data.parts["train"]].astype(float)
    np.testing.assert_allclose(data.mean, train.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, train.std((0, 1, 2)), rtol=1e-12)
    flat = np.zeros((40, 4, 4), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None] // 40
    flat[:, 0, 0] = np.arange(40) % 3
    assert load((flat, np.arange(40) % 2)).std[0] >= 1


# -- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [False, True])
def test_batch_equals_a_loop(tmp_path, mapped):
    x, y = images(60, 5, 7, 3), np.arange(60) % 3
    data = load((x, y), cache=tmp_path, memory_limit=0 if mapped else None)
    assert isinstance(data.images, np.memmap) == mapped
    part = data.part("train")
    for positions in ([5, 0, 5, 35, 2], np.array([3]), torch.tensor([8, 7]), []):
        index, batch, labels = part.batch(positions)
        assert index.dtype == labels.dtype == torch.int64
        assert batch.dtype == torch.uint8
        assert batch.shape == (len(positions), 3, 5, 7)
        assert batch.permute(0, 2, 3, 1).is_contiguous()
        for row, position in enumerate(positions):
            i = part.indices[int(position)]
            assert index[row] == i
            assert labels[row] == y[i]
            assert np.array_equal(batch[row].numpy(), x[i].transpose(2, 0, 1))
    with pytest.raises(IndexError):
        part.batch([len(part)])


def test_a_batch_can_be_written_to_without_changing_the_data():
    data = load("digits")
    _, batch, labels = data.part("train").batch([0, 1])
    batch.zero_()
    labels.zero_()
    assert data.part("train").batch([0])[1].any()
    assert not data.images.flags.writeable


def test_the_given_array_may_change_afterwards():
    x, y = images(40), np.arange(40) % 2
    data = load((x, y))
    before = data.images.copy()
    x[:] = 0
    assert np.array_equal(data.images, before)


def test_class_counts_of_a_part():
    part = load((images(400), np.repeat([0, 1, 2], [300, 80, 20]))).part("train")
    assert part.counts.tolist() == [180, 48, 12]


def test_merge():
    data = load("digits")
    both = data.merge("train", "validation")
    assert np.array_equal(both.indices, np.setdiff1d(np.arange(1797), data.parts["test"]))
    assert np.array_equal(both.labels, data.labels[both.indices])
    with pytest.raises(UserError, match="merge"):
        data.merge()


# -- memory, cache, workers ---------------------------------------------------------------------------------------


def test_mapped_and_in_memory_are_equal_and_the_cache_is_used_again(tmp_path, monkeypatch):
    root, cache = folder(tmp_path / "images"), tmp_path / "cache"
    (root / "c1" / "p0_1.png").write_bytes(b"broken")
    plain, mapped = load(root), load(root, cache=cache, memory_limit=100)
    assert isinstance(mapped.images, np.memmap)
    assert plain == mapped
    assert np.array_equal(plain.images, mapped.images)
    assert plain.notes == mapped.notes
    (entry,) = cache.iterdir()
    stamp = (entry / "images.npy").stat().st_mtime_ns

    with monkeypatch.context() as patch:
        patch.setattr("archscout.readers.image_folder.decode", None, raising=False)
        import sys

        patch.setattr(sys.modules["archscout.readers.image_folder"], "decode", None)
        again = load(root, cache=cache, memory_limit=100)  # reads no image
    assert again == plain
    assert (entry / "images.npy").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match="strict"):
        load(root, cache=cache, memory_limit=100, strict=True)

    Image.fromarray(images(1, 8, 8, 3, seed=77)[0]).save(root / "c1" / "p0_1.png")
    mended = load(root, cache=cache, memory_limit=100)
    assert len(mended) == len(plain) + 1
    assert load(root, size=5, cache=cache, memory_limit=100).shape == (3, 5, 5)
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("damage", ["truncate", "about", "missing"])
def test_a_damaged_cache_entry_is_replaced(tmp_path, damage):
    root, cache = folder(tmp_path / "images"), tmp_path / "cache"
    want = load(root, cache=cache, memory_limit=0)
    (entry,) = cache.iterdir()
    del want
    if damage == "truncate":
        (entry / "images.npy").write_bytes((entry / "images.npy").read_bytes()[:500])
    elif damage == "about":
        (entry / "about.json").write_text('{"kept": [')
    else:
        (entry / "digests.npy").unlink()
    assert load(root, cache=cache, memory_limit=0) == load(root)
    assert [p.name for p in cache.iterdir()] == [entry.name]


def test_an_interrupted_write_leaves_nothing_behind(tmp_path, monkeypatch):
    import sys

    root, cache = folder(tmp_path / "images"), tmp_path / "cache"

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["archscout.readers.store"], "_append", stop)
    with pytest.raises(KeyboardInterrupt):
        load(root, cache=cache, memory_limit=0)
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    source = (images(40), np.arange(40) % 2)
    with pytest.raises(UserError, match="cache"):
        load(source, cache=tmp_path / "file", memory_limit=0)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(UserError, match="GB"):
        load(source, cache=tmp_path, memory_limit=0)


def test_memory_stays_low_while_reading(tmp_path):
    """20 MB of images under a limit of 1 MB: what Python and NumPy allocate stays near a few blocks."""
    import tracemalloc

    class Made(torch.utils.data.Dataset):
        def __len__(self):
            return 1000

        def __getitem__(self, i):
            return images(1, 100, 200, seed=i)[0], i % 2

    tracemalloc.start()
    import sys

    old = sys.modules["archscout.readers.store"].BLOCK_BYTES
    sys.modules["archscout.readers.store"].BLOCK_BYTES = 1_000_000
    try:
        data = load(Made(), cache=tmp_path, memory_limit=1_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        sys.modules["archscout.readers.store"].BLOCK_BYTES = old
        tracemalloc.stop()
    assert data.images.nbytes == 20_000_000
    assert peak < 18_000_000
    assert np.array_equal(data.images[777, ..., 0], images(1, 100, 200, seed=777)[0])


def test_available_memory_is_plausible():
    assert 10_000_000 < available_memory() < 10**14


def _look(data: Data, queue) -> None:
    queue.put((data.fingerprint, int(data.part("train").batch([0, 5])[1].sum()), type(data.images).__name__))


@pytest.mark.parametrize("mapped", [False, True])
def test_share_gives_an_equal_data_with_a_small_pickle(tmp_path, mapped):
    source = (images(500, 16, 16, 3), np.arange(500) % 4)
    data = load(source, cache=tmp_path / "cache", memory_limit=0 if mapped else None, group=np.arange(500) // 3)
    assert len(pickle.dumps(data)) < 100_000 or not mapped
    assert pickle.loads(pickle.dumps(data)) == data
    shared = data.share(tmp_path / "shared")
    assert shared == data
    assert (tmp_path / "shared" / "images.npy").exists() == (not mapped)
    assert len(pickle.dumps(shared)) < 500
    back = pickle.loads(pickle.dumps(shared))
    assert isinstance(back.images, np.memmap)
    assert back.images.mode == "r"
    for name in ("images", "labels", "groups"):
        assert np.array_equal(getattr(back, name), getattr(data, name))
    for name in ("classes", "names", "notes", "fingerprint", "mean", "std", "mirrors", "shape"):
        assert getattr(back, name) == getattr(data, name)
    assert all(
        np.array_equal(back.parts[name], rows) and back.parts[name].dtype == np.int64
        for name, rows in data.parts.items()
    )
    assert pickle.loads(pickle.dumps(shared.part("train"))).batch([3])[0] == data.part("train").batch([3])[0]
    if mapped:
        queue = multiprocessing.get_context("spawn").Queue()
        worker = multiprocessing.get_context("spawn").Process(target=_look, args=(shared, queue))
        worker.start()
        found = queue.get(timeout=60)
        worker.join()
        assert found == (data.fingerprint, int(data.part("train").batch([0, 5])[1].sum()), "memmap")


def test_a_share_that_is_gone(tmp_path):
    text = pickle.dumps(load("digits").share(tmp_path))
    os.remove(tmp_path / "images.npy")
    with pytest.raises(UserError, match="load the data again"):
        pickle.loads(text)


def test_global_random_state_is_left_alone(tmp_path):
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    load(folder(tmp_path)).part("train").batch(np.arange(8))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_fingerprint_does_not_depend_on_where_the_data_lie(tmp_path):
    import shutil

    root = folder(tmp_path / "a")
    one = load(root).fingerprint
    shutil.copytree(root, tmp_path / "b")
    assert load(tmp_path / "b").fingerprint == one
    os.rename(root / "c0" / "p0_1.png", root / "c1" / "p0_1x.png")
    assert load(root).fingerprint != one


# -- mirrors ------------------------------------------------------------------------------------------------------


def slow_mirrors(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Share and ratio by a loop over pairs."""
    used = before = after = 0
    x = x.astype(float)
    for i in range(len(x)):
        near = {False: (np.inf, 0), True: (np.inf, 0)}
        for flipped in near:
            for j in range(len(x)):
                other = x[j][:, ::-1] if flipped else x[j]
                gap = ((x[i] - other) ** 2).sum()
                if i != j and gap < near[flipped][0]:
                    near[flipped] = (gap, j)
        if near[True][0] < near[False][0]:
            used += 1
            before += y[near[False][1]] == y[i]
            after += y[near[True][1]] == y[i]
    return used / len(x), after / before


def arrows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Diagonal strokes on noise; the class is the direction."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 60, (n, 12, 12, 1)).astype(np.uint8), rng.integers(0, 2, n)
    for i, k in itertools.product(range(n), range(8)):
        shift = i % 3
        x[i, k + shift, (k if y[i] else 11 - k)] = 230
    return x, y


def test_mirrors_equals_a_slow_version():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (60, 5, 4, 1)).astype(np.uint8), rng.integers(0, 2, 60)
    found = mirrors(x, y)
    assert (found.share, found.ratio) == pytest.approx(slow_mirrors(x, y))


def test_mirrors_of_arrows_and_of_blobs():
    x, y = arrows(300, 0)
    found = mirrors(x, y)
    assert not found
    assert found.share > 0.3
    assert found.ratio < 0.1
    rows = np.arange(12)
    both = np.where(np.random.default_rng(1).random(300)[:, None, None, None] < 0.5, x, x[:, :, ::-1])
    height = np.where(y[:, None, None, None] == 1, rows[:, None, None] * 15, 165 - rows[:, None, None] * 15)
    assert mirrors((both // 4 + height).astype(np.uint8), y)  # the class is up or down, left-right is at random


def test_one_pair_of_swapping_classes_among_many_is_enough():
    x, y = arrows(120, 0)
    rng = np.random.default_rng(0)
    base = rng.integers(0, 200, (10, 12, 12, 1))
    base = (base + base[:, :, ::-1]) // 2  # ten classes that are symmetric
    many = np.arange(600) % 10
    blobs = (base[many] + rng.integers(0, 50, (600, 12, 12, 1))).astype(np.uint8)
    assert mirrors(blobs, many)
    assert not mirrors(np.concatenate([blobs, x]), np.concatenate([many, y + 10]))


def test_digits_do_not_mirror():
    assert not any(load("digits", seed=seed).mirrors for seed in range(3))


def test_real_images(real_data):
    path = real_data / "images"
    module = importlib.util.spec_from_file_location("load_cifar", path / "load_cifar.py")
    reader = importlib.util.module_from_spec(module)
    module.loader.exec_module(reader)
    x, y, *_ = reader.load(path / "cifar10_lossless.zip", "train")
    data = load((x, y))
    assert data.mirrors
    assert data.shape == (3, 32, 32)
    assert np.array_equal(data.images, x)
    assert data.part("train").counts.tolist() == [3000] * 10
    np.testing.assert_allclose(data.mean, [125.3, 123.0, 113.9], atol=1.5)  # the well-known ones of all 50,000
    np.testing.assert_allclose(data.std, [63.0, 62.1, 66.7], atol=1.5)
    tiles = load(path / "magnetic_tile_64.npz")
    assert tiles.shape == (1, 64, 64)
    assert sum(tiles.part(name).counts for name in tiles.parts).tolist() == [952, 115, 85, 57, 32, 103]
    assert tiles.part("test").counts.min() >= 6


def test_fashion_mirrors():
    path = Path("/usr/share/datasets/fashion-mnist")
    if not path.is_dir():
        pytest.skip("no Fashion-MNIST: install the Debian package dataset-fashion-mnist")
    x = np.frombuffer(gzip.decompress((path / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    y = np.frombuffer(gzip.decompress((path / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    assert all(load((x.reshape(-1, 28, 28), y), seed=seed).mirrors for seed in range(2))
