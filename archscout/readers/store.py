"""Every readable image of a source as one uint8 array, in memory or as a memory-mapped file in the cache folder."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from archscout.errors import UserError
from archscout.files import user_cache
from archscout.readers.picture import short_side
from archscout.readers.source import Source, Unreadable, show

VERSION = 1  # of the cache: raise it whenever the stored pixels of unchanged files would change
LARGEST_DEFAULT = 224
BLOCK_BYTES = 32_000_000


@dataclass(frozen=True)
class Stored:
    """What reading leaves: images (n, H, W, C) uint8, a 16-byte hash of each, source positions, labels and classes."""

    images: np.ndarray
    digests: np.ndarray
    kept: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Layout:
    """Height, width and channels of every stored image; `resize` is the short side if images are to be resized."""

    height: int
    width: int
    channels: int
    resize: int | None


class _Surprise(Exception):
    """An image contradicts the layout that was judged from a sample; carries the layout that fits it."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout


def store(
    source: Source, *, size: int | None, strict: bool, memory_limit: int | None = None, cache: Path | None = None
) -> Stored:
    """All readable images of a source in one layout.

    In memory up to `memory_limit` bytes (default a quarter of the available memory); above that they are written in
    blocks to `<cache>/<hash>/images.npy` (default: the user's cache folder) and memory-mapped, and found there again
    when paths, sizes, times of change and `size` are the same. Memory use while reading is some blocks of 32 MB.
    Unreadable images are skipped; above 5 % of all, or if `strict`, that is a UserError.
    """
    home = Path(cache) if cache is not None else user_cache()
    entry = None
    if source.key is not None:
        entry = home / hashlib.blake2b(f"{VERSION} {source.key} {size}".encode(), digest_size=16).hexdigest()
        if (there := _reopen(entry)) is not None:
            return _checked(there, source, strict)
    try:
        layout = _layout(source, size)
        for _ in range(4):  # at most one restart for colour and one for size
            try:
                return _checked(_write(source, layout, memory_limit, home, entry), source, strict)
            except _Surprise as surprise:
                layout = surprise.layout
    except Unreadable as reason:
        raise UserError(f"{source.what}: {reason}; check the files") from None
    raise UserError(f"{source.what}: images change size between two readings; give size=... to fix it")


def _layout(source: Source, size: int | None) -> Layout:
    count = len(source.names)
    if size is not None:
        height, width, resize = size, size, size
    else:
        sizes = source.sizes()
        height, width, resize = int(sizes[0, 0]), int(sizes[0, 1]), None
        if (sizes != sizes[0]).any():
            resize = min(LARGEST_DEFAULT, int(np.median(sizes.min(axis=1))))
            height = width = resize
    colour = False
    if source.array is None:
        for i in np.unique(np.linspace(0, count - 1, 32).astype(int)).tolist():
            try:
                colour = colour or not _is_grey(source.read(i, resize))
            except Unreadable:
                continue
    return Layout(height, width, 3 if colour else 1, resize)


def _is_grey(pixels: np.ndarray) -> bool:
    if pixels.shape[-1] == 1:
        return True
    first = pixels[..., :1]
    return bool((pixels[..., 1:] == first).all())


def _fit(pixels: np.ndarray, layout: Layout) -> np.ndarray:
    """One image (H, W, C) or a block (n, H, W, C) of equal size in the layout; raises _Surprise if it cannot be."""
    if pixels.shape[-3:-1] != (layout.height, layout.width):
        if layout.resize is None:
            side = min(LARGEST_DEFAULT, layout.height, layout.width)
            raise _Surprise(replace(layout, height=side, width=side, resize=side))
        pixels = short_side(pixels, layout.resize)
    if layout.channels == 1:
        if not _is_grey(pixels):
            raise _Surprise(replace(layout, channels=3))
        return pixels[..., :1]
    return pixels if pixels.shape[-1] == 3 else np.broadcast_to(pixels, (*pixels.shape[:-1], 3))


def _blocks(source: Source, layout: Layout) -> Iterator[tuple[np.ndarray, list[int], list[tuple[str, str]]]]:
    """Blocks of fitted images, their positions, and the name and reason of those that could not be read."""
    count, bytes_each = len(source.names), layout.height * layout.width * layout.channels
    step = max(1, min(1024, BLOCK_BYTES // bytes_each))
    whole = source.array
    if whole is not None and (layout.resize is None or source.read(0, None).shape[:2] == (layout.height, layout.width)):
        for start in range(0, count, step):
            block = whole(slice(start, start + step))
            yield _fit(block, layout), list(range(start, start + len(block))), []
        return

    def some(rows: range) -> list[np.ndarray | Unreadable]:
        results: list[np.ndarray | Unreadable] = []
        for i in rows:
            try:
                results.append(_fit(source.read(i, layout.resize), layout))
            except Unreadable as reason:
                results.append(reason)
        return results

    with ExitStack() as stack:
        each: Callable[..., Any] = map
        if source.threads:
            each = stack.enter_context(ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))).map
        for start in range(0, count, step):
            rows = range(start, min(count, start + step))
            results = [result for few in each(some, _cut(rows, 16)) for result in few]
            good = [i for i, result in zip(rows, results, strict=True) if isinstance(result, np.ndarray)]
            bad = [(source.names[i], str(r)) for i, r in zip(rows, results, strict=True) if isinstance(r, Unreadable)]
            images = [result for result in results if isinstance(result, np.ndarray)]
            shape = (0, layout.height, layout.width, layout.channels)
            yield np.stack(images) if images else np.empty(shape, np.uint8), good, bad


def _cut(rows: range, length: int) -> list[range]:
    return [rows[start : start + length] for start in range(0, len(rows), length)]


def _write(source: Source, layout: Layout, memory_limit: int | None, home: Path, entry: Path | None) -> Stored:
    count = len(source.names)
    shape = (count, layout.height, layout.width, layout.channels)
    total = int(np.prod(shape, dtype=np.int64))
    limit = available_memory() // 4 if memory_limit is None else memory_limit
    if total <= limit:
        images = np.empty(shape, dtype=np.uint8)
        end = 0

        def keep(block: np.ndarray) -> None:
            nonlocal end
            images[end : end + len(block)] = block
            end += len(block)

        digests, kept, skipped = _consume(source, layout, keep)
        images = images[:end]
        images.flags.writeable = False
        labels, classes = source.labels(kept)
        return Stored(images, digests, kept, labels, classes, skipped)
    try:
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
        if free < total:
            raise UserError(
                f"{source.what} needs {total / 1e9:.1f} GB in the cache folder '{home}', where {free / 1e9:.1f} GB are "
                "free; give cache=... on a larger disk, or a smaller size=..."
            )
        partial_folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=home))
    except OSError as error:
        raise UserError(
            f"cannot write to the cache folder '{home}' ({error.strerror}); give another with cache=..."
        ) from None
    try:
        with open(partial_folder / "images.npy", "wb") as file:
            header = _header(file, shape)
            digests, kept, skipped = _consume(source, layout, partial(_append, file))
            if len(kept) < count:
                file.seek(0)
                if _header(file, (len(kept), *shape[1:])) != header:
                    raise AssertionError("NumPy changed the length of the .npy header")
        labels, classes = source.labels(kept)
        np.save(partial_folder / "digests.npy", digests)
        about = {"kept": kept.tolist(), "labels": labels.tolist(), "classes": classes, "skipped": skipped}
        (partial_folder / "about.json").write_text(json.dumps(about), encoding="utf-8")
        if entry is None:
            content = hashlib.blake2b(f"{VERSION} {shape} {labels.tolist()} {classes}".encode(), digest_size=16)
            content.update(digests.tobytes())
            entry = home / content.hexdigest()
        for _ in range(2):
            try:
                os.rename(partial_folder, entry)
                break
            except OSError:  # it is there already: another process was faster, or it is damaged and to be replaced
                if _reopen(entry) is not None:
                    break
                shutil.rmtree(entry, ignore_errors=True)
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    stored = _reopen(entry)
    if stored is None:
        raise UserError(f"the cache entry '{entry}' cannot be read back; remove it and try again")
    return stored


def _append(file: Any, block: np.ndarray) -> None:
    file.write(np.ascontiguousarray(block).data)


def _header(file: Any, shape: tuple[int, ...]) -> int:
    """Write the .npy header of a uint8 array; its length does not depend on the first axis, so it can be rewritten."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return int(file.tell())


def _consume(
    source: Source, layout: Layout, keep: Callable[[np.ndarray], None]
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[str, str], ...]]:
    digests: list[bytes] = []
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []
    for block, rows, bad in _blocks(source, layout):
        block = np.ascontiguousarray(block)
        keep(block)
        digests += [hashlib.blake2b(row.data, digest_size=16).digest() for row in block]
        kept += rows
        skipped += bad
    hashes = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16)
    return hashes, np.array(kept, dtype=np.int64), tuple(skipped)


def _reopen(entry: Path) -> Stored | None:
    """A cache entry, or None where there is none or it is damaged."""
    try:
        about = json.loads((entry / "about.json").read_text(encoding="utf-8"))
        images = np.load(entry / "images.npy", mmap_mode="r", allow_pickle=False)
        digests = np.load(entry / "digests.npy", allow_pickle=False)
        labels = np.array(about["labels"], dtype=np.int64)
        kept = np.array(about["kept"], dtype=np.int64)
        skipped = tuple((str(name), str(reason)) for name, reason in about["skipped"])
        classes = tuple(map(str, about["classes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not len(images) == len(digests) == len(labels) == len(kept) or images.ndim != 4 or images.dtype != np.uint8:
        return None
    return Stored(images, digests, kept, labels, classes, skipped)


def _checked(stored: Stored, source: Source, strict: bool) -> Stored:
    bad, count = len(stored.skipped), len(source.names)
    if bad and (strict or bad > 0.05 * count):
        reason = stored.skipped[0][1]
        why = "strict reading refuses any" if strict else "more than 5 % is refused"
        raise UserError(
            f"{source.what}: {bad} of {count} images cannot be read ({why}): {show([n for n, _ in stored.skipped])}; "
            f"the first because of {reason!r}; repair or remove them"
        )
    return stored


def release(images: np.ndarray) -> None:
    """Let go of the pages of a mapped file that were read, so that they do not count as this process's memory.

    They stay in the operating system's cache. Does nothing for an array in memory, or where there is no such call.
    """
    mapping = getattr(images, "_mmap", None)
    if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def available_memory() -> int:
    """Bytes of memory that can be had without swapping: the smaller of the machine's and of the container's."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
        group = Path("/sys/fs/cgroup")
        most = (group / "memory.max").read_text().strip()
        if most != "max":
            found.append(max(0, int(most) - int((group / "memory.current").read_text())))
    except (OSError, ValueError):
        pass
    if not found:
        try:
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2)
        except (AttributeError, ValueError, OSError):
            found.append(4_000_000_000)
    return min(found)
