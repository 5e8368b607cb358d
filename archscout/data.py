"""Labelled images as one value: read, split honestly, described, and handed out in batches."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archscout.errors import UserError, unknown
from archscout.files import whole, write_whole
from archscout.mirrors import mirrors
from archscout.readers import open_source
from archscout.readers.source import Source, show
from archscout.readers.store import Stored, release, store
from archscout.space import Shape
from archscout.split import split

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Data:
    """Labelled images with a fixed split; made by `load`. Two are equal if content and split are.

    images:      uint8 (N, H, W, C), C 1 or 3; a read-only array, or a memory-mapped file.
    labels:      int64 (N,), from 0.
    classes:     the name of each class.
    names:       a text per image, unique in a folder: its relative path.
    groups:      int64 (N,), the group of each image, or None.
    parts:       part name -> sorted int64 indices.
    notes:       what the person should know about the data, a plain sentence each.
    fingerprint: hash of pixels, labels, names, classes and split.
    mean, std:   per channel over (a sample of) the train part, on the 0..255 scale; std is at least 1.
    mirrors:     whether flipping left-right keeps the class, judged from train images.
    opened:      part name -> how often `part` handed it out.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    names: tuple[str, ...]
    groups: np.ndarray | None
    parts: dict[str, np.ndarray]
    notes: tuple[str, ...]
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    mirrors: bool
    opened: dict[str, int] = field(default_factory=dict)
    home: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Data) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def shape(self) -> Shape:
        """(channels, height, width) of one image."""
        _, height, width, channels = self.images.shape
        return channels, height, width

    def part(self, name: str) -> Part:
        """A part by name. This is the only way to the images of the test part; `opened` counts each call."""
        if name not in self.parts:
            raise unknown("part", name, self.parts)
        self.opened[name] = self.opened.get(name, 0) + 1
        return Part(self, self.parts[name], name)

    def merge(self, *names: str) -> Part:
        """Several parts as one, in index order."""
        if not names:
            raise UserError(f"merge wants the names of parts, of {', '.join(self.parts)}")
        together = np.unique(np.concatenate([self.part(name).indices for name in names]))
        return Part(self, together, "+".join(names))

    def share(self, folder: str | Path) -> Data:
        """An equal Data whose pickle is a path: the images are mapped read-only by every process that unpickles it.

        Writes `images.npy` (unless the images are a mapped file already) and `data.json` below `folder`, which must
        stay there as long as the Data is used. Costs one write of all images.
        """
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        path = _mapped_file(self.images)
        if path is None:
            path = folder / "images.npy"
            with whole(path) as file:
                _write_npy(file, self.images)
        about = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("images", "opened", "home")}
        about["labels"] = self.labels.tolist()
        about["groups"] = None if self.groups is None else self.groups.tolist()
        about["parts"] = {name: rows.tolist() for name, rows in self.parts.items()}
        text = json.dumps({"images": str(path), **about})
        write_whole(folder / "data.json", text)
        return _open_shared(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        if self.home is not None:
            return _open_shared, (self.home,)
        state = {f.name: getattr(self, f.name) for f in fields(self)}
        state["images"] = _mapped_file(self.images) or self.images
        return _rebuild, (state,)


@dataclass(frozen=True, eq=False)
class Part:
    """Some images of a Data, by sorted index. Positions count within the part, indices within the Data."""

    data: Data
    indices: np.ndarray
    name: str = ""

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def labels(self) -> np.ndarray:
        """int64 (n,), the labels by position."""
        return self.data.labels[self.indices]

    @property
    def counts(self) -> np.ndarray:
        """int64 (classes,), the number of images of each class."""
        return np.bincount(self.labels, minlength=len(self.data.classes))

    def batch(
        self, positions: Sequence[int] | np.ndarray | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The images at some positions, which may repeat.

        (indices int64 (n,), images uint8 (n, C, H, W) in channels-last memory, labels int64 (n,)), in the order asked.
        """
        rows = self.indices[np.asarray(positions, dtype=np.int64)]
        images = torch.from_numpy(_take(self.data.images, rows)).permute(0, 3, 1, 2)
        return torch.from_numpy(rows), images, torch.from_numpy(self.data.labels[rows])


def load(
    source: Any,
    *,
    size: int | None = None,
    seed: int = 0,
    group: str | Sequence[Any] | None = None,
    data_root: str | Path | None = None,
    strict: bool = False,
    fractions: Sequence[float] = (0.6, 0.2, 0.2),
    cache: str | Path | None = None,
    memory_limit: int | None = None,
) -> Data:
    """Labelled images from wherever they are, split into train, validation and test.

    source:       a folder with a sub-folder per class (or train/, val/, test/ above them); an .npz file with X and y;
                  "torchvision:NAME" with `data_root`; "digits"; a torch Dataset of (image, label), or
                  "module:function" that gives one; a pair of arrays (X, y).
    size:         images become size x size: short side resized, centre cropped. Default: images of one size are kept
                  as they are, otherwise the median short side, at most 224.
    group:        a regular expression on the names; its first capture group (or whole match) names the group of an
                  image, and an image without a match is a group of its own. Or one value per image. A group lies in one
                  part only.
    strict:       refuse data with any unreadable image; otherwise up to 5 % are skipped with a note.
    fractions:    shares of train, validation and test where the data brings no split. A split that it brings is kept;
                  what is missing of it is cut from train.
    cache:        folder for images that do not fit in memory; default: the user's cache folder.
    memory_limit: bytes of images to hold in memory; default: a quarter of the available memory.

    Identical images (equal pixels as stored) are kept in one part. If every image is grey there is one channel,
    otherwise three. The pixels of the test part are read only to store and hash them. Costs one decoding
    of every image. Raises UserError for whatever cannot be used.
    """
    if isinstance(source, Data):
        return source
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or not 4 <= size <= 4096):
        raise UserError(f"size is {size!r}, wanted a whole number of pixels from 4 to 4096")
    shares = tuple(float(x) for x in fractions)
    if len(shares) != 3 or not all(x > 0 for x in shares) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise UserError(
            f"fractions are {tuple(fractions)}, wanted three positive shares that sum to 1, like (0.6, 0.2, 0.2)"
        )
    found = open_source(source, data_root)
    pattern = _pattern(group) if isinstance(group, str) else None
    stored = store(
        found, size=size, strict=strict, memory_limit=memory_limit, cache=None if cache is None else Path(cache)
    )
    names = tuple(found.names[i] for i in stored.kept.tolist())
    notes = [f"{found.what}: {note}" for note in found.notes]
    if stored.skipped:
        reasons = "; ".join(f"{name!r} ({reason})" for name, reason in stored.skipped[:10])
        more = f" and {len(stored.skipped) - 10} more" if len(stored.skipped) > 10 else ""
        notes.append(f"{len(stored.skipped)} images cannot be read and were skipped: {reasons}{more}")
    if max(stored.images.shape[1:3]) > 224:
        height, width = stored.images.shape[1:3]
        notes.append(f"the images are large ({height} x {width}); a smaller size=... makes everything faster")
    _check_classes(stored, found.what)
    values = found.groups if group is None else None if pattern is not None else np.asarray(group)
    if values is not None and len(values) != len(found.names):
        raise UserError(f"group has {len(values)} values for {len(found.names)} images; give one per image")
    groups = None if values is None else np.unique(values[stored.kept], return_inverse=True)[1].astype(np.int64)
    if pattern is not None:
        groups, unmatched = _groups_by_name(pattern, names)
        if unmatched:
            notes.append(
                f"{unmatched} of {len(names)} names do not match group {pattern.pattern!r}: each is its own group"
            )
    copies = np.unique(stored.digests.view("V16")[:, 0], return_inverse=True)[1]
    parts = _parts(stored, found, copies, groups, shares, seed, notes)
    _note_copies(stored.labels, copies, parts, names, found.parts is not None, notes)
    for name, rows in parts.items():
        missing = np.flatnonzero(np.bincount(stored.labels[rows], minlength=len(stored.classes)) == 0)
        if len(missing):
            notes.append(f"no image of class {show([stored.classes[c] for c in missing])} is in {name}")
    train = parts["train"]
    sample = train[np.random.default_rng(seed).permutation(len(train))]
    mean, std = _mean_std(stored.images, np.sort(sample[:5000]))
    apart = np.sort(sample[np.sort(np.unique(copies[sample], return_index=True)[1])][:2000])  # copies find themselves
    return Data(
        images=stored.images,
        labels=stored.labels,
        classes=stored.classes,
        names=names,
        groups=groups,
        parts=parts,
        notes=tuple(notes),
        fingerprint=_fingerprint(stored, names, parts),
        mean=mean,
        std=std,
        mirrors=bool(mirrors(stored.images, stored.labels, apart)),
    )


def _pattern(group: str) -> re.Pattern[str]:
    try:
        return re.compile(group)
    except re.error as error:
        raise UserError(f"group {group!r} is no regular expression ({error}); try one like '^(.*?)/' ") from None


def _groups_by_name(pattern: re.Pattern[str], names: Sequence[str]) -> tuple[np.ndarray, int]:
    """The group number of each name, and how many names did not match."""
    matches = [pattern.search(name) for name in names]
    if not any(matches):
        raise UserError(f"group {pattern.pattern!r} matches no image name; names look like {show(names[:3])}")
    values = [
        ("", name) if match is None else ("group", match.group(1 if pattern.groups else 0) or "")
        for name, match in zip(names, matches, strict=True)
    ]
    numbers = {value: i for i, value in enumerate(sorted(set(values)))}
    return np.array([numbers[value] for value in values], dtype=np.int64), sum(match is None for match in matches)


def _check_classes(stored: Stored, what: str) -> None:
    counts = np.bincount(stored.labels, minlength=len(stored.classes))
    few = [stored.classes[c] for c in np.flatnonzero(counts < 2)]
    if len(stored.classes) < 2:
        raise UserError(f"{what} has one class only ({show(stored.classes)}); give images of at least two classes")
    if len(few) > len(stored.classes) / 2:
        raise UserError(
            f"{what}: {len(stored.labels)} images for {len(stored.classes)} classes, most with fewer than 2; "
            "labels must name classes that several images share"
        )
    if few:
        raise UserError(f"{what}: fewer than 2 readable images in class {show(few)}; add images or remove the class")


def _parts(
    stored: Stored,
    found: Source,
    copies: np.ndarray,
    groups: np.ndarray | None,
    shares: tuple[float, ...],
    seed: int,
    notes: list[str],
) -> dict[str, np.ndarray]:
    """The split: what the data brings, and the rest cut from train with copies and groups kept together."""
    place = np.full(len(stored.labels), 0, dtype=np.int64)
    brought = {"train"}
    if found.parts is not None:
        position = np.full(len(found.names), -1, dtype=np.int64)
        position[stored.kept] = np.arange(len(stored.kept))
        for name, rows in found.parts.items():
            here = position[rows]
            if (here >= 0).any():
                place[here[here >= 0]] = PARTS.index(name)
                brought.add(name)
    numbers = [i for i, name in enumerate(PARTS) if name == "train" or name not in brought]
    if len(numbers) > 1:
        free = np.flatnonzero(place == 0)
        units = copies if groups is None else _joined(copies, groups)
        cut = np.array([shares[i] for i in numbers])
        place[free] = np.array(numbers)[_split_free(stored, free, units[free], cut / cut.sum(), seed)]
        if len(brought) > 1:
            notes.append(
                f"{' and '.join(PARTS[i] for i in numbers[1:])} was cut from train; the other parts are as brought"
            )
    parts = {name: np.flatnonzero(place == i) for i, name in enumerate(PARTS)}
    empty = [name for name, rows in parts.items() if len(rows) == 0]
    if empty:
        raise UserError(
            f"{found.what}: no image is left for {' and '.join(empty)}; with groups and identical images kept together "
            "there are too few that can be told apart: give more images or a finer group"
        )
    missing = np.flatnonzero(np.bincount(stored.labels[parts["train"]], minlength=len(stored.classes)) == 0)
    if len(missing):
        raise UserError(f"{found.what}: no train image of class {show([stored.classes[c] for c in missing])}; add some")
    if groups is not None and len(brought) > 1:
        both = [name for name in ("validation", "test") if np.isin(groups[parts[name]], groups[parts["train"]]).any()]
        if both:
            notes.append(f"the split that the data brings has groups both in train and in {' and '.join(both)}")
    return parts


def _split_free(stored: Stored, free: np.ndarray, units: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    _, labels = np.unique(stored.labels[free], return_inverse=True)
    return split(labels, units, shares.tolist(), seed)


def _joined(copies: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The connected components of images that share a group or are copies of each other."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    first = int(groups.max()) + 1
    size = first + int(copies.max()) + 1
    graph = coo_matrix((np.ones(len(groups), dtype=bool), (groups, first + copies)), shape=(size, size))
    return connected_components(graph, directed=False)[1][groups]


def _note_copies(
    labels: np.ndarray,
    copies: np.ndarray,
    parts: dict[str, np.ndarray],
    names: Sequence[str],
    brought: bool,
    notes: list[str],
) -> None:
    counts = np.bincount(copies)
    if (repeated := int((counts - 1).sum())) == 0:
        return
    notes.append(
        f"{repeated} images are exact copies of others" + ("" if brought else "; copies were kept in one part")
    )
    pairs = np.unique(np.stack([copies, labels]), axis=1)[0]
    torn = np.flatnonzero(np.bincount(pairs) > 1)
    if len(torn):
        example = [names[i] for i in np.flatnonzero(copies == torn[0]).tolist()]
        notes.append(f"{len(torn)} images stand under more than one class, for example {show(example, 3)}")
    for name, against in (("validation", "train"), ("test", "train"), ("test", "validation")):
        leaked = parts[name][np.isin(copies[parts[name]], copies[parts[against]])]
        if len(leaked):
            notes.append(
                f"{len(leaked)} of {len(parts[name])} {name} images also stand in {against}, so results on {name} "
                f"are too good: {show([names[i] for i in leaked.tolist()])}"
            )


def _mean_std(images: np.ndarray, rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of some images, exact from the histogram of their values."""
    channels = images.shape[-1]
    histogram = np.zeros((channels, 256), dtype=np.int64)
    step = max(1, 1_000_000 // int(np.prod(images.shape[1:])))
    for start in range(0, len(rows), step):
        block = _take(images, rows[start : start + step])
        for c in range(channels):
            histogram[c] += np.bincount(block[..., c].ravel(), minlength=256)
    value, weight = np.arange(256), histogram / histogram.sum(axis=1, keepdims=True)
    mean = weight @ value
    std = np.sqrt((weight * (value - mean[:, None]) ** 2).sum(axis=1))
    return tuple(mean.tolist()), tuple(np.maximum(std, 1.0).tolist())


def _fingerprint(stored: Stored, names: Sequence[str], parts: dict[str, np.ndarray]) -> str:
    digest = hashlib.blake2b(f"{stored.images.shape} {stored.classes!r} {list(names)!r}".encode(), digest_size=16)
    for array in (stored.labels, stored.digests, *(parts[name] for name in PARTS)):
        digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(b"|")
    return digest.hexdigest()


def _take(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Some images as a new array; of a mapped file they are read in the order in which they lie there."""
    if not isinstance(images, np.memmap):
        return images[rows]
    order = np.argsort(rows, kind="stable")
    result = np.empty((len(rows), *images.shape[1:]), dtype=images.dtype)
    result[order] = images[rows[order]]
    release(images)
    return result


def _mapped_file(images: np.ndarray) -> Path | None:
    return Path(str(images.filename)) if isinstance(images, np.memmap) and images.filename else None


def _write_npy(file: Any, array: np.ndarray) -> None:
    """As np.save does, but with errors that say what is wrong with the disk."""
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(file, header)
    file.write(np.ascontiguousarray(array).data)


def _map(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"the shared images '{path}' cannot be opened ({error}); load the data again") from None


def _rebuild(state: dict[str, Any]) -> Data:
    images = state["images"]
    return Data(**{**state, "images": _map(images) if isinstance(images, Path) else images})


def _open_shared(folder: Path) -> Data:
    try:
        about = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the shared data in '{folder}' cannot be opened ({error}); load the data again") from None
    about["images"] = _map(Path(about["images"]))
    for name in ("classes", "names", "notes", "mean", "std"):
        about[name] = tuple(about[name])
    about["labels"] = np.array(about["labels"], dtype=np.int64)
    about["groups"] = None if about["groups"] is None else np.array(about["groups"], dtype=np.int64)
    about["parts"] = {name: np.array(rows, dtype=np.int64) for name, rows in about["parts"].items()}
    return Data(**about, home=folder)
