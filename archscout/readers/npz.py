"""A NumPy archive with arrays X and y."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from archscout.errors import UserError
from archscout.readers.arrays import arrays
from archscout.readers.source import Source


def npz(path: Path) -> Source:
    """The images `X` and labels `y` of an .npz file, with `X_test` and `y_test`, `groups`, `classes` where it has them.

    The archive is read whole (it is compressed), so it must fit in memory; use a folder of files for more.
    `groups` has one value per row of X, or one per row of X and then X_test. Pickled objects are refused.
    """
    what = f"'{path}'"
    found: dict[str, np.ndarray] = {}
    if not path.is_file():
        raise UserError(f"{what} does not exist; give the path of an .npz file with arrays X and y")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{what} cannot be read as .npz: it is no such archive; save it with np.savez(path, X=X, y=y)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in ("X", "y", "X_test", "y_test", "groups", "classes"):
                if name in archive.files:
                    found[name] = archive[name]
            there = ", ".join(archive.files)
    except MemoryError as error:
        raise UserError(f"{what} needs more memory than there is ({error}); give a folder of image files") from None
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError, AttributeError) as error:
        if "pickle" in str(error):
            raise UserError(
                f"{what} holds pickled Python objects, which are not read because they can run code; "
                "save plain arrays: np.savez(path, X=numbers, y=labels.astype(int) or y=labels.astype(str))"
            ) from None
        raise UserError(f"{what} cannot be read as .npz ({type(error).__name__}: {str(error)[:100]})") from None
    for name in ("X", "y"):
        if name not in found:
            raise UserError(
                f"{what} has no array '{name}' (it has: {there or 'nothing'}); save it with np.savez(path, X=X, y=y)"
            )
    if ("X_test" in found) != ("y_test" in found):
        raise UserError(f"{what} has only one of X_test and y_test; save both or none")
    x, y, groups, parts = found["X"], found["y"], found.get("groups"), None
    classes = found["classes"].tolist() if "classes" in found else None
    if "X_test" in found:
        more, labels = found["X_test"], found["y_test"]
        if len(x) != len(y) or len(more) != len(labels):
            raise UserError(f"{what}: X and y, or X_test and y_test, differ in length; give one label per image")
        if more.shape[1:] != x.shape[1:]:
            raise UserError(
                f"{what}: X holds images of shape {x.shape[1:]}, X_test of {more.shape[1:]}; make them equal"
            )
        if more.dtype != x.dtype:
            raise UserError(f"{what}: X is {x.dtype}, X_test is {more.dtype}; save both in one type")
        parts = {"train": np.arange(len(x)), "test": np.arange(len(x), len(x) + len(more))}
        if groups is not None and len(groups) == len(x):  # the test images are then groups of their own
            own = np.array([f"test {i}" for i in range(len(more))])
            groups = np.concatenate([np.char.add("group ", groups.astype(str)), own])
        x, y = np.concatenate([x, more]), np.concatenate([y, labels])
    return arrays(x, y, what=what, classes=classes, groups=groups, parts=parts)
