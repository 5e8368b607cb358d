"""The embedding: the same from the same seed, kept by content, better than what was not trained, and clear refusals."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from archscout.data import load
from archscout.errors import UserError
from archscout.selection import embedding
from archscout.selection.embedding import clusters, embed, grouped_order, learn, shrink, triplet_loss


class Some:
    """The least that is embedded: labels, a length and batches; counts the images that were read."""

    def __init__(self, images: np.ndarray | torch.Tensor, labels: np.ndarray | list[int]) -> None:
        self.images, self.labels, self.read = torch.as_tensor(images), np.asarray(labels), 0

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, positions):
        rows = torch.as_tensor(np.asarray(positions, dtype=np.int64))
        self.read += len(rows)
        return rows, self.images[rows], torch.as_tensor(self.labels)[rows]


def noise(n: int, *shape: int, classes: int = 3, seed: int = 0) -> Some:
    draw = np.random.default_rng(seed)
    return Some(draw.integers(0, 256, (n, *shape), dtype=np.uint8), draw.integers(0, classes, n))


def stripes(n: int, seed: int) -> Some:
    """Class 0 has horizontal stripes, class 1 vertical ones, at any phase and brightness, under noise."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 2, n)
    wave = np.sin(np.arange(16)[None] * np.pi / 2 + draw.uniform(0, 2 * np.pi, (n, 1)))
    images = np.where(labels[:, None, None] == 0, wave[:, :, None], wave[:, None, :])
    images = 120 + 30 * images + draw.normal(0, 25, (n, 16, 16)) + draw.normal(0, 30, (n, 1, 1))
    return Some(images.clip(0, 255).astype(np.uint8)[:, None], labels)


def neighbours_accuracy(known: np.ndarray, labels: np.ndarray, asked: np.ndarray, truth: np.ndarray) -> float:
    apart = ((asked[:, None] - known[None]) ** 2).sum(2)
    votes = labels[np.argsort(apart, axis=1)[:, :5]]
    answer = [np.bincount(row).argmax() for row in votes]
    return float(np.mean(answer == truth))


def slow_triplet_loss(points: torch.Tensor, labels: torch.Tensor, margin: float) -> torch.Tensor:
    means = []
    for a in range(len(points)):
        terms = []
        for p in range(len(points)):
            for q in range(len(points)):
                if p != a and labels[p] == labels[a] and labels[q] != labels[a]:
                    near, far = (points[a] - points[p]).norm(), (points[a] - points[q]).norm()
                    terms.append(torch.relu(near - far + margin))
        if terms:
            means.append(torch.stack(terms).mean())
    return torch.stack(means).mean()


@pytest.mark.parametrize("margin", [0.3, 1.0, 100.0])
def test_triplets_agree_with_loops(margin):
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 0, 3, 3, 1])  # 2 is alone
    fast = torch.randn(10, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    slow = fast.detach().clone().requires_grad_()
    one, other = triplet_loss(fast, labels, margin), slow_triplet_loss(slow, labels, margin)
    assert one.item() == pytest.approx(other.item(), rel=1e-9)
    one.backward()
    other.backward()
    assert torch.allclose(fast.grad, slow.grad, atol=1e-9)


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [5]])
def test_without_triplets_there_is_no_term(labels):
    points = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = triplet_loss(points, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0
    assert (points.grad == 0).all()


def test_triplets_of_equal_points_are_the_margin_with_a_finite_gradient():
    points = torch.zeros(6, 3, requires_grad=True)
    loss = triplet_loss(points, torch.tensor([0, 0, 0, 1, 1, 1]), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(1.0)
    assert points.grad.isfinite().all()


def test_a_pass_has_every_image_once_in_groups_of_a_class():
    labels = np.random.default_rng(0).integers(0, 7, 203)
    order = grouped_order(labels, 4, np.random.default_rng(1))
    assert sorted(order.tolist()) == list(range(203))
    runs = np.flatnonzero(np.diff(labels[order])) + 1
    lengths = np.diff([0, *runs, 203])
    counts = np.bincount(labels)
    assert ((lengths % 4 != 0).sum()) <= (counts % 4 != 0).sum() * 2
    assert order.tolist() != grouped_order(labels, 4, np.random.default_rng(2)).tolist()


@pytest.mark.parametrize("kind", ["autoencoder", "untrained", "pixels"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (1, 28, 28), (3, 20, 50), (3, 5, 9), (1, 100, 3), (3, 1, 1)])
def test_any_shape(kind, shape):
    points = embed(noise(20, *shape), kind, dims=6, seen=60)
    assert points.shape == (20, 6)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    assert (points**2).sum(1).mean() == pytest.approx(1, rel=1e-3)
    assert np.abs(points.mean(0)).max() < 1e-3


@pytest.mark.parametrize("kind", ["autoencoder", "untrained", "pixels"])
def test_the_seed_decides_and_the_global_state_is_left(kind):
    torch.manual_seed(3)
    np.random.seed(3)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    part, threads = noise(150, 3, 12, 12), torch.get_num_threads()
    one = embed(part, kind, dims=5, seed=1, seen=600)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()
    assert torch.get_num_threads() == threads
    torch.manual_seed(4)
    assert np.array_equal(one, embed(part, kind, dims=5, seed=1, seen=600))
    if kind != "pixels":
        assert not np.allclose(one, embed(part, kind, dims=5, seed=2, seen=600))


def test_training_brings_classes_together_on_images_that_it_did_not_see():
    train, later = stripes(600, 0), stripes(300, 1)
    found = {}
    for kind in ("autoencoder", "untrained", "pixels"):
        encoder = learn(train, kind, dims=8, seen=6000)
        found[kind] = neighbours_accuracy(encoder(train), train.labels, encoder(later), later.labels)
    assert found["autoencoder"] > max(0.9, found["untrained"] + 0.05)


def test_digits():
    data = load("digits", seed=0)
    train, later = data.part("train"), data.part("validation")
    found = {}
    for kind in ("autoencoder", "untrained"):
        encoder = learn(train, kind, dims=16, seen=12_000)
        found[kind] = neighbours_accuracy(encoder(train), train.labels, encoder(later), later.labels)
    assert found["autoencoder"] > max(0.95, found["untrained"])


def test_pixels_are_principal_components():
    draw = np.random.default_rng(0)
    images = 128 + draw.normal(0, [25, 20, 15, 10, 0.1], (60, 5)) @ draw.normal(0, 1, (5, 36))
    part = Some(images.reshape(60, 1, 6, 6), [0] * 60)
    pixels = part.images.flatten(1).double().numpy()
    centred = pixels - pixels.mean(0)
    exact = centred @ np.linalg.svd(centred, full_matrices=False)[2][:4].T
    exact /= np.sqrt((exact**2).sum(1).mean())
    found = embed(part, "pixels", dims=4)
    apart, wanted = (((p[:, None] - p[None]) ** 2).sum(2) for p in (found, exact))
    assert np.allclose(apart, wanted, atol=1e-3)
    wide = embed(noise(5, 1, 2, 2), "pixels", dims=9)
    assert (wide[:, 4:] == 0).all()


@pytest.mark.parametrize("kind", ["autoencoder", "untrained", "pixels"])
def test_images_that_are_all_the_same_and_a_single_image_are_at_zero(kind):
    same = Some(np.full((12, 3, 8, 8), 77, np.uint8), [0, 1] * 6)
    assert (embed(same, kind, dims=4, seen=24) == 0).all()
    assert embed(noise(1, 3, 8, 8), kind, dims=4).tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("labels", [[0] * 30, list(range(30)), [0] * 29 + [1]])
def test_labels_without_triplets_still_embed(labels):
    part = Some(noise(30, 1, 8, 8).images, labels)
    assert np.isfinite(embed(part, dims=4, seen=90)).all()


def test_floats_on_any_scale_are_like_whole_numbers():
    part = noise(40, 3, 8, 8)
    scaled = Some(part.images.float() / 255 - 0.5, part.labels)
    assert np.allclose(embed(part, "untrained"), embed(scaled, "untrained"), atol=1e-4)


def test_mean_and_std_are_used():
    part = noise(40, 3, 8, 8)
    one = embed(part, "untrained", mean=(100, 100, 100), std=(50, 50, 50))
    assert np.allclose(one, embed(part, "untrained", mean=100, std=50), atol=1e-5)
    assert not np.allclose(one, embed(part, "untrained", mean=0, std=255), atol=1e-3)


def test_shrinking_keeps_proportions_types_and_what_is_small():
    assert shrink(noise(5, 3, 40, 80), 32).images.shape == (5, 3, 16, 32)
    small = noise(5, 1, 8, 6)
    assert torch.equal(shrink(small, 32).images, small.images)
    flat = Some(np.full((4, 3, 64, 64), 9, np.uint8), [0] * 4)
    assert (shrink(flat, 8).images == 9).all()
    assert shrink(Some(torch.rand(3, 1, 9, 9), [0] * 3), 4).images.dtype == torch.float32


def test_the_same_from_memory_and_from_blocks(monkeypatch):
    part = noise(50, 3, 40, 24)
    whole = embed(part, "pixels", dims=4)
    monkeypatch.setattr(embedding, "BLOCK_BYTES", 12 * 40 * 24 * 7)
    assert np.allclose(whole, embed(part, "pixels", dims=4), atol=1e-4)


@pytest.mark.parametrize("kind", ["autoencoder", "untrained", "pixels"])
def test_a_kept_one_is_found_by_content(kind, tmp_path, monkeypatch):
    part = noise(40, 3, 8, 8)
    first = embed(part, kind, dims=4, seen=120, cache=tmp_path / "new")
    assert len(list((tmp_path / "new").iterdir())) == 1
    made = []
    real = embedding.learn
    monkeypatch.setattr(embedding, "learn", lambda *a, **k: made.append(1) or real(*a, **k))
    copy = Some(part.images.clone(memory_format=torch.channels_last), part.labels.copy())
    assert np.array_equal(first, embed(copy, kind, dims=4, seen=120, cache=tmp_path / "new", threads=2))
    assert not made
    changed = Some(part.images.clone(), part.labels)
    changed.images[39, 2, 7, 7] ^= 1
    relabelled = Some(part.images, np.roll(part.labels, 1))
    settings = ({"dims": 3}, {"seed": 1}, {"mean": 1}, {"std": 2}, {"side": 5}, {"seen": 121})
    for number, (some, more) in enumerate([(changed, {}), (relabelled, {}), *((part, one) for one in settings)]):
        embed(some, kind, **{"dims": 4, "seen": 120, **more}, cache=tmp_path / "new")
        assert len(made) == number + 1
    monkeypatch.setattr(embedding, "VERSION", 10**6)
    embed(part, kind, dims=4, seen=120, cache=tmp_path / "new")
    assert len(made) == 9


def test_a_kept_one_of_loaded_data_is_found_without_reading(tmp_path, monkeypatch):
    part = load("digits", seed=0).part("validation")
    first = embed(part, "pixels", dims=4, cache=tmp_path)
    again = load("digits", seed=0)
    monkeypatch.setattr(type(part), "batch", lambda *_: pytest.fail("an image was read"))
    assert np.array_equal(first, embed(again.part("validation"), "pixels", dims=4, cache=tmp_path))
    with pytest.raises(pytest.fail.Exception):
        embed(again.part("train"), "pixels", dims=4, cache=tmp_path)


@pytest.mark.parametrize("harm", ["empty", "text", "cut", "shape", "type", "nan", "pickle"])
def test_a_damaged_file_is_made_again(harm, tmp_path):
    part = noise(20, 1, 8, 8)
    first = embed(part, "pixels", dims=3, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    good = file.read_bytes()
    if harm in ("empty", "text", "cut"):
        file.write_bytes({"empty": b"", "text": b"no array", "cut": good[:-20]}[harm])
    else:
        bad = {"shape": first[:, :2], "type": first.astype(float), "nan": first * np.nan, "pickle": np.array([{}])}
        np.save(file, bad[harm], allow_pickle=True)
    assert np.array_equal(first, embed(part, "pixels", dims=3, cache=tmp_path))
    assert file.read_bytes() == good
    assert len(list(tmp_path.iterdir())) == 1


def test_a_limit_of_seconds_ends_the_training(monkeypatch):
    steps = []
    real = embedding.triplet_loss
    monkeypatch.setattr(embedding, "triplet_loss", lambda *a: steps.append(1) or real(*a))
    assert np.isfinite(embed(noise(300, 3, 8, 8), dims=4, seconds=1e-9)).all()
    assert not steps
    embed(noise(300, 3, 8, 8), dims=4, seen=900, seconds=1e9)
    assert len(steps) == 27  # three passes in batches of 32


def test_your_own_points_are_standardised():
    part = noise(9, 1, 4, 4)
    own = np.random.default_rng(0).normal(7, 3, (9, 5))
    wanted = own - own.mean(0)
    wanted /= np.sqrt((wanted**2).sum(1).mean())
    for given in (own, torch.tensor(own), lambda some: own if some is part else None, own.tolist()):
        assert np.allclose(embed(part, given), wanted, atol=1e-5)
    large = np.zeros((9, 2)) + 1e6
    assert (embed(part, large) == 0).all()


def own_points(part: Some) -> np.ndarray:
    return np.arange(2 * len(part)).reshape(len(part), 2)


def test_your_own_function_by_name():
    part = noise(9, 1, 4, 4)
    assert np.array_equal(embed(part, f"{__name__}:own_points"), embed(part, own_points))


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_a_pretrained_network_from_a_file(ending, tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.squeezenet1_1(num_classes=7)
    file = tmp_path / f"weights.{ending}"
    save_file(network.state_dict(), file) if ending == "safetensors" else torch.save(network.state_dict(), file)
    part = noise(12, 3, 20, 24)
    points = embed(part, "torchvision:squeezenet1_1", weights=file, dims=5, side=64, cache=tmp_path / "kept")
    assert points.shape == (12, 5)
    assert (points**2).sum(1).mean() == pytest.approx(1, rel=1e-3)
    square = noise(12, 3, 64, 64)
    scaled = Some(square.images.float() / 255, square.labels)
    one, other = (embed(some, "torchvision:squeezenet1_1", weights=file, side=64) for some in (square, scaled))
    assert np.allclose(one, other, atol=1e-3)
    grey = Some(part.images[:, :1], part.labels)
    assert np.isfinite(embed(grey, "torchvision:squeezenet1_1", weights=file, side=64)).all()
    with torch.no_grad():
        network.features[0].weight.mul_(-1)
    save_file(network.state_dict(), file) if ending == "safetensors" else torch.save(network.state_dict(), file)
    other = embed(part, "torchvision:squeezenet1_1", weights=file, dims=5, side=64, cache=tmp_path / "kept")
    assert not np.allclose(points, other, atol=1e-3)


def test_pretrained_features_are_what_the_classifier_takes(tmp_path):
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=3).eval()
    torch.save(network.state_dict(), tmp_path / "resnet18.pt")
    bare = embedding.pretrained_network("resnet18", tmp_path / "resnet18.pt")
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(network.fc(bare(images)), network(images), atol=1e-5)


def test_weights_are_refused_with_what_to_do(tmp_path):
    part = noise(4, 3, 8, 8)

    def refused(kind: str, weights=None, **more) -> str:
        with pytest.raises(UserError) as caught:
            embed(part, kind, weights=weights, **more)
        return str(caught.value)

    assert "weights='DEFAULT'" in refused("torchvision:resnet18")
    assert "did you mean 'resnet18'" in refused("torchvision:resnet81")
    assert "there are no weights" in refused("torchvision:resnet18", tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name in ("text.pt", "text.safetensors"):
        assert "can be read safely" in refused("torchvision:resnet18", tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds no weights" in refused("torchvision:resnet18", tmp_path / "list.pt")
    torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "squeeze.pt")
    assert "no weights of torchvision's resnet18" in refused("torchvision:resnet18", tmp_path / "squeeze.pt")
    assert "side=224" in refused("torchvision:squeezenet1_1", tmp_path / "squeeze.pt", side=8)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"kind": "autoencodr"}, "did you mean 'autoencoder'"),
        ({"kind": "nowhere_at_all:points"}, "cannot import"),
        ({"kind": None}, "shape ()"),
        ({"kind": object()}, "an array (9, d) is wanted"),
        ({"kind": np.zeros((8, 2))}, "shape (8, 2); (9, d)"),
        ({"kind": np.zeros(9)}, "shape (9,)"),
        ({"kind": np.zeros((9, 0))}, "shape (9, 0)"),
        ({"kind": lambda _: np.where(np.eye(9, 2) > 0, np.nan, 1)}, "in 2 of 9 rows, the first at position 0"),
        ({"kind": np.full((9, 2), np.inf)}, "in 9 of 9 rows, the first at position 0"),
        ({"dims": 0}, "dims is a whole number"),
        ({"dims": 2.5}, "dims is a whole number"),
        ({"side": 0}, "side is a whole number"),
        ({"seen": -1}, "seen is a whole number"),
        ({"seconds": 0}, "seconds is above 0"),
        ({"mean": (1, 2), "std": (1, 2)}, "one value per channel, 1"),
        ({"mean": 0, "std": 0}, "std is above 0"),
        ({"cache": __file__}, "cannot make the cache folder"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(UserError, match=re.escape(told)):
        embed(noise(9, 1, 4, 4), **settings)


def test_bad_images_are_refused():
    with pytest.raises(UserError, match="empty"):
        embed(noise(0, 1, 4, 4))
    with pytest.raises(UserError, match=re.escape("shape (1, 4, 4)")):
        embed(noise(9, 4, 4))
    with pytest.raises(UserError, match="1 or 3 channels"):
        embed(noise(9, 2, 4, 4))
    broken = Some(torch.ones(9, 1, 4, 4), [0, 1, 2] * 3)
    broken.images[[4, 6], 0, 0, 0] = torch.nan
    for kind in ("autoencoder", "pixels"):
        with pytest.raises(UserError, match="2 images have values that are not finite, the first at position 4"):
            embed(broken, kind)


def test_clusters():
    draw = np.random.default_rng(0)
    centres = np.repeat(np.arange(4), 25)
    points = np.stack([10.0 * centres, draw.normal(0, 1, 100)], 1)
    found = clusters(points, None, 4)
    assert found.dtype == np.int64
    assert len({(a, b) for a, b in zip(found, centres, strict=True)}) == len(set(found)) == 4
    assert np.array_equal(found, clusters(points, None, 4, seed=0))
    labels = centres % 2
    within = clusters(points, labels, 2)
    assert sorted(set(within)) == [0, 1, 2, 3]
    assert all(set(within[labels == c]) == {2 * c, 2 * c + 1} for c in (0, 1))
    assert clusters(np.zeros((5, 2)), None, 3).tolist() == [0] * 5
    assert clusters(np.zeros((4, 2)), [7, 3, 7, 3], 3).tolist() == [1, 0, 1, 0]
    with pytest.raises(UserError, match="at least 1"):
        clusters(points, None, 0)
    with pytest.raises(UserError, match="one label per point"):
        clusters(points, [0, 1], 2)
