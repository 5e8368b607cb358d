"""Every reader: what it accepts, and the one clear line it answers bad input with."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from archscout.data import load
from archscout.errors import UserError
from archscout.readers import open_source
from archscout.readers.picture import decode, short_side, whole_array
from archscout.readers.source import Unreadable, class_labels

RNG = np.random.default_rng(0)


def noise(*shape: int, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, 256, shape).astype(dtype)


def write(root: Path, classes=("cat", "dog"), each: int = 6, size: tuple[int, ...] = (8, 8, 3), suffix=".png") -> Path:
    """A folder of random images."""
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            Image.fromarray(noise(*size)).save(root / name / f"{i}{suffix}")
    return root


def message(source, **options) -> str:
    """The UserError that loading ends in: one line."""
    with pytest.raises(UserError) as caught:
        load(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


# -- one image ----------------------------------------------------------------------------------------------------


def saved(image: Image.Image, path: Path, **options) -> np.ndarray:
    image.save(path, **options)
    return decode(path)


def test_plain_grey_and_colour_are_byte_exact(tmp_path):
    grey, colour = noise(5, 7), noise(5, 7, 3)
    assert np.array_equal(saved(Image.fromarray(grey), tmp_path / "a.png"), grey[..., None])
    assert np.array_equal(saved(Image.fromarray(colour), tmp_path / "b.png"), colour)


def test_sixteen_bits_are_divided_by_257_however_dark(tmp_path):
    deep = np.array([[0, 257, 65535], [128, 129, 200]], dtype=np.uint16)
    want = [[0, 1, 255], [0, 1, 1]]
    for name in ("a.png", "b.tif"):
        assert saved(Image.fromarray(deep), tmp_path / name)[..., 0].tolist() == want


def test_transparency_lies_over_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = [0, 255, 51]  # nothing, black, a fifth of black
    assert saved(Image.fromarray(rgba, "RGBA"), tmp_path / "a.png")[0, :, 0].tolist() == [255, 0, 204]
    la = Image.fromarray(rgba[..., [0, 3]], "LA")
    assert saved(la, tmp_path / "b.png")[0, :, 0].tolist() == [255, 0, 204]


def test_palette_cmyk_bilevel_and_float(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    assert saved(palette, tmp_path / "a.png").tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert saved(palette, tmp_path / "b.png", transparency=0).tolist() == [[[255, 255, 255], [0, 0, 255]]]
    assert saved(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), tmp_path / "c.tif").tolist() == [[[255, 0, 0]]]
    assert saved(Image.new("1", (1, 1), 1), tmp_path / "d.png").tolist() == [[[255]]]
    assert saved(Image.fromarray(np.array([[0, 0.5, 1]], np.float32)), tmp_path / "e.tif")[..., 0].tolist() == [
        [0, 128, 255]
    ]


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "a.gif")[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_exif_orientation_is_applied(tmp_path, name):
    image = np.zeros((8, 16), np.uint8)
    image[:, :8] = 255  # left half white
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise: the left goes to the top
    found = saved(Image.fromarray(image), tmp_path / name, exif=exif)
    assert found.shape[:2] == (16, 8)
    assert found[:8].mean() > 240
    assert found[8:].mean() < 15


def test_broken_files_and_bombs_are_unreadable(tmp_path, monkeypatch):
    Image.fromarray(noise(64, 64, 3)).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    for content in (b"", b"no image at all", whole[: len(whole) // 2], whole[:40]):
        (tmp_path / "b.png").write_bytes(content)
        with pytest.raises(Unreadable):
            decode(tmp_path / "b.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(Unreadable, match="limit"), pytest.warns(Image.DecompressionBombWarning):
        decode(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    with pytest.raises(Unreadable, match="Bomb"):
        decode(tmp_path / "a.png")


def test_short_side_keeps_the_centre():
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 10:20] = 200
    assert np.array_equal(short_side(image, 10), image[:, 10:20])
    assert short_side(noise(7, 5, 1), 16).shape == (16, 16, 1)
    constant = np.full((33, 57, 1), 77, np.uint8)
    assert (short_side(constant, 8) == 77).all()


def test_reduced_jpeg_decoding_is_close_to_the_full_one(tmp_path):
    smooth = np.asarray(Image.fromarray(noise(12, 12, 3)).resize((800, 640), Image.Resampling.BICUBIC))
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    full, reduced = decode(tmp_path / "a.jpg"), decode(tmp_path / "a.jpg", 64)
    assert full.shape[:2] == (640, 800)
    assert 128 <= min(reduced.shape[:2]) < 640
    gap = np.abs(short_side(full, 64).astype(int) - short_side(reduced, 64))
    assert gap.mean() < 2


def test_value_rules_of_arrays():
    assert whole_array(np.array([0.0, 0.5, 1.0]), "x").tolist() == [0, 128, 255]
    assert whole_array(np.array([0.0, 2.4, 255.0]), "x").tolist() == [0, 2, 255]
    assert whole_array(np.array([0, 255], np.int64), "x").tolist() == [0, 255]
    assert whole_array(np.array([0, 65535], np.uint16), "x").tolist() == [0, 255]
    assert whole_array(np.array([False, True]), "x").tolist() == [0, 255]
    for wrong, why in (
        ([-1.0, 1.0], "normalisation"),
        ([np.nan, 1.0], "NaN"),
        ([0.0, 300.0], "wanted"),
        ([0, 10**6], "65535"),
    ):
        with pytest.raises(UserError, match=why):
            whole_array(np.array(wrong), "x")
    with pytest.raises(UserError, match="numbers"):
        whole_array(np.array(["a"]), "x")


def test_labels_of_every_kind():
    for values in ([3, 5, 3], [3.0, 5.0, 3.0], np.array([[3], [5], [3]])):
        codes, names = class_labels(values, "x")
        assert codes.tolist() == [0, 1, 0]
        assert names == ("3", "5")
    assert class_labels(["b", "a"], "x")[1] == ("a", "b")
    assert class_labels(np.array([b"b", b"a"]), "x")[0].tolist() == [1, 0]
    assert class_labels([1, 0], "x", ["no", "yes"])[1] == ("no", "yes")
    assert class_labels([2, 0], "x", ["a", "b", "c"], all_used=False)[1] == ("a", "c")
    for wrong, classes, why in (
        ([0.5, 1], None, "whole number"), ([np.nan, 1], None, "whole number"), ([-1, 0], None, "negative"),
        ([[0, 1], [1, 0]], None, "argmax"), ([0, 2], ["a", "b"], "no name"), ([0, 1], ["a", "a"], "repeat"),
        ([0, 2], ["a", "b", "c"], "no image"), ([1j, 0], None, "complex"), (["a", 1, None], None, "mixed|whole"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=why):
            class_labels(np.array(wrong, dtype=object) if None in wrong else wrong, "x", classes)


# -- folders ------------------------------------------------------------------------------------------------------


def test_folder_of_classes(tmp_path):
    write(tmp_path, ("cat", "dog", "übel"), each=5)
    data = load(tmp_path)
    assert data.classes == ("cat", "dog", "übel")
    assert len(data) == 15
    assert data.shape == (3, 8, 8)
    i = data.names.index("dog/3.png")
    assert data.labels[i] == 1
    assert np.array_equal(data.images[i], np.asarray(Image.open(tmp_path / "dog/3.png")))


def test_grey_content_gives_one_channel_and_one_coloured_image_three(tmp_path):
    write(tmp_path, each=40, size=(6, 6))
    same = np.repeat(noise(6, 6, 1), 3, axis=2)
    Image.fromarray(same).save(tmp_path / "cat" / "grey-as-colour.png")
    assert load(tmp_path).shape == (1, 6, 6)
    same[0, 0, 0] ^= 1
    Image.fromarray(same).save(tmp_path / "cat" / "1.png")  # not one of those that are looked at first
    data = load(tmp_path)
    assert data.shape == (3, 6, 6)
    assert np.array_equal(data.images[data.names.index("cat/1.png")], same)


def test_mixed_sizes(tmp_path):
    write(tmp_path, ("cat",), each=5, size=(10, 12, 3))
    write(tmp_path, ("dog",), each=5, size=(20, 30, 3))
    write(tmp_path, ("eel",), each=2, size=(40, 30, 3))
    assert load(tmp_path).shape == (3, 20, 20)  # short sides 10 x 5, 20 x 5, 30 x 2
    assert load(tmp_path, size=9).shape == (3, 9, 9)
    write(tmp_path, ("cat", "dog", "eel"), each=4, size=(300, 400, 3))
    assert load(tmp_path).shape == (3, 224, 224)


def test_one_size_is_kept_even_if_not_square(tmp_path):
    write(tmp_path, size=(9, 5))
    assert load(tmp_path).shape == (1, 9, 5)
    write(tmp_path / "large", size=(8, 300))
    assert any("large" in note for note in load(tmp_path / "large").notes)


def test_a_hidden_orientation_does_not_break_one_size(tmp_path):
    write(tmp_path, each=40, size=(6, 9))
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise(6, 9)).save(tmp_path / "cat" / "1.png", exif=exif)  # the header pass cannot see this one
    assert load(tmp_path).shape == (1, 6, 6)


@pytest.mark.parametrize("word", ["val", "valid", "validation"])
def test_a_split_that_the_folder_brings_is_kept(tmp_path, word):
    for part, each in (("train", 6), (word, 3), ("test", 4)):
        write(tmp_path / part, each=each)
    data = load(tmp_path)
    assert {name: len(rows) for name, rows in data.parts.items()} == {"train": 12, "validation": 6, "test": 8}
    for name, folder in (("train", "train"), ("validation", word), ("test", "test")):
        assert all(data.names[i].startswith(f"{folder}/") for i in data.parts[name])


def test_missing_parts_are_cut_from_train(tmp_path):
    write(tmp_path / "train", each=20)
    write(tmp_path / "test", each=4)
    data = load(tmp_path)
    assert {name: len(rows) for name, rows in data.parts.items()} == {"train": 30, "validation": 10, "test": 8}
    assert data.part("validation").counts.tolist() == [5, 5]
    assert any("cut from train" in note for note in data.notes)
    write(tmp_path / "val", each=4)
    write(tmp_path / "validation", each=4)
    assert "more than one validation" in message(tmp_path)


def test_train_can_be_a_class(tmp_path):
    assert load(write(tmp_path, ("car", "train"))).classes == ("car", "train")


def test_other_files_hidden_files_links_and_depth(tmp_path):
    write(tmp_path / "data", each=6)
    root = tmp_path / "data"
    (root / "cat" / "notes.txt").write_text("x")
    (root / "cat" / ".unseen.png").write_text("x")
    (root / ".git").mkdir()
    (root / "cat" / "deep" / "er").mkdir(parents=True)
    Image.fromarray(noise(8, 8, 3)).save(root / "cat" / "deep" / "er" / "a.png")
    Image.fromarray(noise(8, 8, 3)).save(tmp_path / "far.png")
    (root / "dog" / "link.png").symlink_to(tmp_path / "far.png")
    (root / "dog" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "cat" / "loop").symlink_to(root / "cat")
    data = load(root)
    assert len(data) == 14
    assert {"cat/deep/er/a.png", "dog/link.png"} <= set(data.names)
    assert data.classes == ("cat", "dog")
    note = next(note for note in data.notes if "ignored" in note)
    assert "notes.txt" in note
    assert "gone.png" in note
    assert "unseen" not in note


def test_hostile_names_are_only_data(tmp_path):
    names = ["<script>alert(1)<", "a\nb", "$(rm -rf x)", "-rf", "日本語", "{{7*7}}", "a;b'\"c", "%s%n"]
    write(tmp_path, names)
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))).mkdir()
    data_folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    for i in range(4):
        Image.fromarray(noise(8, 8, 3)).save(data_folder / f"{i}.png")
    data = load(tmp_path)
    assert set(data.classes) == {*names, "\\xff\\xfe"}
    for name in (*data.names, *data.classes):
        name.encode("utf-8")
    (tmp_path / "a\nb" / "broken\n.png").write_bytes(b"")
    assert all("\n" not in note for note in load(tmp_path).notes)
    (tmp_path / "empty\nclass").mkdir()
    assert "empty" in message(tmp_path)


def test_a_few_broken_images_are_skipped_by_name(tmp_path):
    write(tmp_path, each=30)
    (tmp_path / "cat" / "3.png").write_bytes(b"broken")
    data = load(tmp_path)
    assert len(data) == 59
    assert "cat/3.png" not in data.names
    assert data.classes[data.labels[data.names.index("dog/0.png")]] == "dog"
    assert any("cat/3.png" in note and "skipped" in note for note in data.notes)
    i = data.names.index("dog/29.png")
    assert np.array_equal(data.images[i], np.asarray(Image.open(tmp_path / "dog/29.png")))
    assert "strict" in message(tmp_path, strict=True)
    for i in range(4):
        (tmp_path / "cat" / f"{i}.png").write_bytes(b"broken")
    text = message(tmp_path)
    assert "4 of 60" in text
    assert "cat/0.png" in text


def test_folders_that_cannot_be_used(tmp_path):
    assert "does not exist" in message(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "no class folders" in message(tmp_path / "empty")
    Image.fromarray(noise(4, 4)).save(tmp_path / "empty" / "a.png")
    assert "sub-folder" in message(tmp_path / "empty")
    assert "one class only" in message(write(tmp_path / "one", ("cat",)))
    root = write(tmp_path / "few", ("cat", "dog", "eel"))
    (root / "fox").mkdir()
    assert "no image in class 'fox'" in message(root)
    Image.fromarray(noise(8, 8, 3)).save(root / "fox" / "a.png")
    assert "class 'fox'" in message(root)
    (root / "fox" / "a.png").unlink()
    (root / "fox" / "a.txt").write_text("x")
    assert "no image in class 'fox'" in message(root)
    root = tmp_path / "junk"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        (root / name / "a.png").write_text("junk")
    assert "can be opened" in message(root)
    (tmp_path / "table.csv").write_text("x")
    assert "kind that is not read" in message(tmp_path / "table.csv")
    for wrong in (0, -3, 2.5, True, 10**6):
        assert "size" in message(root, size=wrong)


def test_a_folder_without_permission(tmp_path, monkeypatch):
    write(tmp_path)
    real = os.scandir

    def scandir(path):
        if str(path).endswith("dog"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert "permission" in message(tmp_path)


# -- archives -----------------------------------------------------------------------------------------------------


def archive(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path / "a.npz", **arrays)
    return path / "a.npz"


def test_npz(tmp_path):
    x, y = noise(40, 6, 6), np.arange(40) % 4
    data = load(archive(tmp_path, X=x, y=y, classes=np.array(["a", "b", "c", "d"])))
    assert data.classes == ("a", "b", "c", "d")
    assert np.array_equal(data.images[..., 0], x)
    assert np.array_equal(data.labels, y)
    more, labels = noise(8, 6, 6), np.arange(8) % 4
    data = load(archive(tmp_path, X=x, y=y, X_test=more, y_test=labels, groups=np.arange(40) // 2))
    assert data.parts["test"].tolist() == list(range(40, 48))
    assert not set(data.parts["validation"] // 2) & set(data.parts["train"] // 2)
    assert np.array_equal(data.images[40:, ..., 0], more)


def test_channel_order_and_float_range(tmp_path):
    x = noise(12, 3, 6, 7)
    y = np.arange(12) % 3
    first = load((x, y))
    assert first.shape == (3, 6, 7)
    assert np.array_equal(first.images, x.transpose(0, 2, 3, 1))
    assert np.array_equal(load((x / 255, y)).images, first.images)
    assert np.array_equal(load((x.astype(np.float32), y)).images, first.images)
    deep = load((x.astype(np.uint16) * 257, y))
    assert np.array_equal(deep.images, first.images)
    assert any("16-bit" in note for note in deep.notes)
    grey = load((np.repeat(x[:, :1], 3, axis=1), y))
    assert grey.shape == (1, 6, 7)
    assert load((x, y), size=5).shape == (3, 5, 5)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"y": np.arange(4)}, "no array 'X'"),
        ({"X": np.zeros((4, 3, 3))}, "no array 'y'"),
        ({"X": np.zeros((4, 3, 3)), "y": np.arange(3)}, "4 images but 3 labels"),
        ({"X": np.zeros((4, 9)), "y": np.arange(4)}, "shape"),
        ({"X": np.zeros((4, 5, 5, 2)), "y": np.arange(4)}, "shape"),
        ({"X": np.zeros((0, 3, 3)), "y": np.zeros(0)}, "no image"),
        ({"X": np.full((4, 3, 3), np.nan), "y": np.arange(4)}, "NaN"),
        ({"X": np.zeros((4, 3, 3)), "y": np.array([0, 0.5, 1, 1])}, "whole number"),
        ({"X": np.zeros((4, 3, 3)), "y": np.array([0, -1, 1, 1])}, "negative"),
        ({"X": -np.ones((4, 3, 3)), "y": np.arange(4)}, "wanted 0..1"),
        ({"X": np.zeros((4, 3, 3)), "y": np.array([0, 0, 0, 0])}, "one class only"),
        ({"X": np.zeros((4, 3, 3)), "y": np.arange(4)}, "4 images for 4 classes"),
        ({"X": np.zeros((4, 3, 3)), "y": np.array([0, 0, 1, 1])}, "identical"),
        ({"X": np.zeros((4, 3, 3)), "y": np.array([0, 0, 1, 1]), "X_test": np.zeros((4, 3, 3))}, "only one of"),
        ({"X": np.zeros((4, 3, 3)), "y": np.array([0, 0, 1, 1]), "groups": np.zeros(3)}, "groups"),
        ({"X": np.zeros((4, 3, 3)), "y": np.array([0, 1, 1, 1])}, "class '0'|for 2 classes"),
        ({"X": np.array([None, "a"], dtype=object), "y": np.arange(2)}, "pickled"),
        ({"X": np.zeros((2, 3, 3)), "y": np.array(["a", None], dtype=object)}, "pickled"),
    ],
)
def test_bad_archives(tmp_path, arrays, why):
    assert re.search(why, message(archive(tmp_path, **arrays)))


def test_archives_that_are_none(tmp_path):
    assert "does not exist" in message(tmp_path / "a.npz")
    for content in (b"", b"junk", b"PK\x03\x04junk"):
        (tmp_path / "a.npz").write_bytes(content)
        assert "cannot be read" in message(tmp_path / "a.npz")
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "b.npy").rename(tmp_path / "c.npz")
    message(tmp_path / "c.npz")


def test_nothing_in_an_archive_is_executed(tmp_path):
    class Boom:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = archive(tmp_path, X=np.array([Boom()] * 4, dtype=object), y=np.arange(4))
    assert "pickled" in message(path)
    assert not (tmp_path / "executed").exists()


# -- torch data sets and names ------------------------------------------------------------------------------------


class Pairs(torch.utils.data.Dataset):
    def __init__(self, images, labels):
        self.images, self.pairs, self.reads = images, labels, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        self.reads += 1
        return self.images[i], self.pairs[i]


def test_torch_dataset_of_tensors_arrays_and_pillow_images():
    x, y = noise(30, 6, 7, 3), (np.arange(30) % 3).tolist()
    forms = {
        "pillow": [Image.fromarray(image) for image in x],
        "bytes": list(x),
        "tensor": [torch.from_numpy(image).permute(2, 0, 1) for image in x],
        "float": [torch.from_numpy(image).permute(2, 0, 1) / 255 for image in x],
        "double": list(x.astype(np.float64)),
    }
    for name, images in forms.items():
        data = load(Pairs(images, y))
        assert np.array_equal(data.images, x), name
        assert data.labels.tolist() == y
    data = load(Pairs(forms["tensor"], [torch.tensor(label) for label in y]))
    assert data.labels.tolist() == y
    assert load(Pairs(forms["bytes"], ["abc"[label] for label in y])).classes == ("a", "b", "c")
    assert load(torch.utils.data.Subset(Pairs(forms["bytes"], y), range(0, 24))).parts["train"].size > 0


def test_torch_dataset_surprises():
    y = [i % 2 for i in range(500)]
    images = [noise(6, 6) for _ in range(500)]
    images[1] = noise(9, 12)  # not among those looked at first
    assert load(Pairs(images, y)).shape == (1, 6, 6)
    images[1] = noise(6, 6, 3)
    assert load(Pairs(images, y)).shape == (3, 6, 6)


@pytest.mark.parametrize(
    ("images", "labels", "why"),
    [
        ([], [], "empty"),
        ([np.zeros((4, 4, 2))] * 4, [0, 0, 1, 1], "shape"),
        ([np.zeros(16)] * 4, [0, 0, 1, 1], "shape"),
        ([torch.randn(3, 4, 4) * 2] * 4, [0, 0, 1, 1], "normalisation"),
        ([noise(4, 4) for _ in range(4)], [0, 0, 1, 0.5], "whole number"),
        ([noise(4, 4) for _ in range(4)], [0, 0, -1, 1], "negative"),
    ],
)
def test_bad_torch_datasets(images, labels, why):
    assert why in message(Pairs(images, labels))


def test_a_dataset_that_gives_no_pairs():
    class Single(Pairs):
        def __getitem__(self, i):
            return self.images[i]

    assert "no pair" in message(Single([noise(4, 4) for _ in range(4)], [0, 0, 1, 1]))


def test_other_sources():
    assert "type int" in message(3)
    assert "does not exist" in message("digit")
    assert "cannot import" in message("no_such_module:thing")
    assert "has no 'thing'" in message("math:thing")
    assert load(load("digits")) == load("digits")


def test_a_dataset_named_by_module(tmp_path, monkeypatch):
    (tmp_path / "my_images.py").write_text(
        "import numpy as np\n"
        "def tiles():\n"
        "    x = np.random.default_rng(0).integers(0, 255, (12, 4, 4)).astype('uint8')\n"
        "    return x, np.arange(12) % 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert load("my_images:tiles").shape == (1, 4, 4)


def test_torchvision_names(tmp_path):
    assert "did you mean 'CIFAR10'" in message("torchvision:CIFAR-10", data_root=tmp_path)
    assert "data_root" in message("torchvision:CIFAR10")
    text = message("torchvision:CIFAR10", data_root=tmp_path)
    assert str(tmp_path) in text
    assert "Food101" in message("torchvision:Food101", data_root=tmp_path / "no")


def test_torchvision_reads_its_own_format(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    arrays = {}
    for part, n in (("train", 60), ("t10k", 20)):
        x, y = noise(n, 28, 28), (np.arange(n) % 10).astype(np.uint8)
        arrays[part] = x
        head = np.array([2051, n, 28, 28], ">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(head + x.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([2049, n], ">i4").tobytes() + y.tobytes())
    data = load("torchvision:MNIST", data_root=tmp_path)
    assert data.parts["test"].tolist() == list(range(60, 80))
    assert np.array_equal(data.images[60:, ..., 0], arrays["t10k"])
    assert data.classes[0].startswith("0")


def test_every_torchvision_name_exists():
    import inspect

    import torchvision.datasets

    from archscout.readers.torchvision_name import NAMES

    for name, parts in NAMES.items():
        known = inspect.signature(getattr(torchvision.datasets, name).__init__).parameters
        assert "download" in known
        assert all(argument in known for arguments in parts.values() for argument in arguments)


def test_digits_are_the_published_ones():
    source = open_source("digits")
    from sklearn.datasets import load_digits

    want = load_digits()
    data = load("digits")
    assert len(source.names) == 1797
    assert np.abs(data.images[..., 0] / 255 * 16 - want.images).max() < 0.05
    assert np.array_equal(data.labels, want.target)
