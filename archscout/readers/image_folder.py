"""A folder of image files, one sub-folder per class."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from archscout.errors import UserError
from archscout.readers.picture import decode
from archscout.readers.source import Source, Unreadable, show

EXTENSIONS = frozenset(f".{end}" for end in "png jpg jpeg jpe bmp gif tif tiff webp ppm pgm pbm pnm jp2 avif".split())  # noqa: SIM905
PARTS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


def image_folder(root: Path) -> Source:
    """The images below `root`: a sub-folder per class, or train/, val/ (or validation/) and test/ with those inside.

    Images may lie deeper inside a class folder. Hidden files are ignored; other files too, with a note. Links are
    followed, each folder once. Costs one directory walk, and one look at each file's header if sizes are asked for.
    """
    what = f"image folder '{root}'"
    folders = _sub_folders(root)
    parts_found = _brought_parts(root, folders)
    files: list[Path] = []
    labels: list[int] = []
    parts: dict[str, list[int]] = {}
    ignored: list[str] = []
    per_part = {p: _sub_folders(f) for p, f in parts_found.items()} if parts_found else {"": folders}
    classes = sorted({name for names in per_part.values() for name in names})
    if not classes:
        loose = any(entry.suffix.lower() in EXTENSIONS for entry in root.iterdir())
        why = "has images but no class folders" if loose else "is empty: it has no class folders"
        raise UserError(f"{what} {why}; put the images of each class in a sub-folder named like the class")
    for part, inside in per_part.items():
        start = len(files)
        for label, name in enumerate(classes):
            if name in inside:
                found, other = _walk(inside[name])
                files += found
                labels += [label] * len(found)
                ignored += other
        if part:
            parts[part] = list(range(start, len(files)))
    if parts_found:
        ignored += [name for name in folders if name not in PARTS]
    if not files:
        raise UserError(
            f"{what} holds no image file ({' '.join(sorted(EXTENSIONS))}) in its {len(classes)} class folders"
        )
    empty = [name for i, name in enumerate(classes) if i not in set(labels)]
    if empty:
        raise UserError(f"{what}: no image in class {show(empty)}; add images or remove the folder")
    notes: tuple[str, ...] = ()
    if ignored:
        notes = (f"{len(ignored)} files or folders that hold no image were ignored: {show(ignored)}",)
    names = [_text(file.relative_to(root).as_posix()) for file in files]
    code = np.array(labels, dtype=np.int64)
    shown = tuple(_text(name) for name in classes)
    return Source(
        what=what,
        names=names,
        read=lambda i, short: decode(files[i], short),
        sizes=lambda: _sizes(files),
        labels=lambda kept: (code[kept], shown),
        parts={name: np.array(rows, dtype=np.int64) for name, rows in parts.items()} if parts else None,
        notes=notes,
        key=_listing(files, names, root),
        threads=True,
    )


def _text(name: str) -> str:
    """A file name as valid UTF-8: bytes that are none are spelled out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except PermissionError:
        raise UserError(f"folder {str(folder)!r} may not be read; give yourself read permission (chmod u+rx)") from None
    except FileNotFoundError:
        raise UserError(
            f"folder {str(folder)!r} does not exist; give the path of a folder of labelled images"
        ) from None
    except OSError as error:
        raise UserError(f"folder {str(folder)!r} cannot be read ({error.strerror})") from None


def _sub_folders(root: Path) -> dict[str, Path]:
    return {entry.name: Path(entry.path) for entry in _entries(root) if entry.is_dir()}


def _brought_parts(root: Path, folders: dict[str, Path]) -> dict[str, Path]:
    """The part folders, if `root` has a train/ that holds class folders; otherwise train is a class like any other."""
    if "train" not in folders or not _sub_folders(folders["train"]):
        return {}
    found: dict[str, Path] = {}
    for name, folder in folders.items():
        if name in PARTS:
            if PARTS[name] in found:
                raise UserError(
                    f"'{root}' has more than one {PARTS[name]} folder ({found[PARTS[name]].name}, {name}); keep one"
                )
            found[PARTS[name]] = folder
    return found


def _walk(folder: Path) -> tuple[list[Path], list[str]]:
    """The image files below a folder, in a fixed order, and the names of what else lies there."""
    found: list[Path] = []
    other: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        place = os.stat(here)
        if (place.st_dev, place.st_ino) in seen:
            continue
        seen.add((place.st_dev, place.st_ino))
        below = []
        for entry in _entries(here):
            if entry.is_dir():
                below.append(Path(entry.path))
            elif entry.is_file() and os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                found.append(Path(entry.path))
            else:
                other.append(_text(entry.name))
        waiting += reversed(below)
    return found, other


def _listing(files: list[Path], names: list[str], root: Path) -> str:
    """A hash over where the folder lies and every file's relative path, size and time of change."""
    digest = hashlib.blake2b(os.fsencode(root.resolve()), digest_size=16)
    for file, name in zip(files, names, strict=True):
        about = file.stat()
        digest.update(f"{name!r} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _size(file: Path) -> tuple[int, int]:
    """Height and width from the header, as the image will be shown; (0, 0) if it cannot be opened."""
    try:
        with Image.open(file) as image:
            width, height = image.size
            if image.format in ("JPEG", "MPO", "WEBP", "TIFF") and image.getexif().get(274, 1) in (5, 6, 7, 8):
                return width, height
            return height, width
    except Exception:  # decoding will meet the same file and name the reason
        return 0, 0


def _sizes(files: list[Path]) -> np.ndarray:
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        chunks = [files[start : start + 64] for start in range(0, len(files), 64)]
        sizes = np.array([size for few in pool.map(lambda few: [_size(file) for file in few], chunks) for size in few])
    good = sizes[sizes[:, 0] > 0]
    if len(good) == 0:
        raise Unreadable("none of the files can be opened as an image")
    return good
