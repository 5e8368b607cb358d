"""What every reader hands over: the list of examples, and a way to read one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from archscout.errors import UserError

Labels = tuple[np.ndarray, tuple[str, ...]]


class Unreadable(Exception):
    """One image that cannot be read; the message says why."""


@dataclass(frozen=True)
class Source:
    """A list of labelled images before they are decoded.

    what:    what it is, for messages ("image folder 'flowers'").
    names:   one text per example, valid UTF-8.
    read:    (position, short side wanted or None) -> uint8 (H, W, 1 or 3); raises Unreadable.
    sizes:   () -> int64 (n, 2) heights and widths of all, or of a fair sample of, the images.
    labels:  (kept positions) -> (int64 labels, class names), called after the kept images were read.
    array:   the images as one array (N, H, W, C) of any size that `read` would return, where there is one.
    parts:   part name -> positions, if the data brings a split.
    groups:  one value per example, if the data brings groups.
    key:     a text that changes with the content, known before reading; None where there is no such text.
    threads: whether `read` may be called from several threads.
    """

    what: str
    names: Sequence[str]
    read: Callable[[int, int | None], np.ndarray]
    sizes: Callable[[], np.ndarray]
    labels: Callable[[np.ndarray], Labels]
    array: Callable[[slice], np.ndarray] | None = None
    parts: Mapping[str, np.ndarray] | None = None
    groups: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    key: str | None = None
    threads: bool = False


def show(names: Sequence[Any], most: int = 5) -> str:
    """Some names for a message: quoted on one line, whatever they contain, and at most `most` of them."""
    text = ", ".join(repr(str(name)[:120]) for name in names[:most])
    return text + (f" and {len(names) - most} more" if len(names) > most else "")


def class_labels(values: Any, what: str, classes: Sequence[Any] | None = None, *, all_used: bool = True) -> Labels:
    """Labels of any usual kind as whole numbers from 0, with the names of the classes.

    Texts become class names in sorted order. Whole numbers (also as floats) index `classes` where given; otherwise the
    distinct values, sorted, are the classes. A class without an example is an
    error, or with `all_used=False` is dropped. Raises UserError for anything else.
    """
    y = np.asarray(values)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise UserError(
            f"{what}: labels have shape {y.shape}, wanted one label per image; for one-hot give argmax(axis=1)"
        )
    if y.dtype.kind == "O":
        if not all(isinstance(value, str) for value in y):
            raise UserError(f"{what}: labels are of mixed kinds, wanted all whole numbers or all texts")
        y = y.astype(str)
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "backslashreplace")
    if y.dtype.kind == "U":
        found, codes = np.unique(y, return_inverse=True)
        return codes.astype(np.int64), tuple(str(name) for name in found)
    if y.dtype.kind == "f":
        wrong = ~np.isfinite(y) | (y != np.floor(y))
        if wrong.any():
            raise UserError(
                f"{what}: label {y[wrong][0]} is not a whole number; this is for classes, not for regression"
            )
    elif y.dtype.kind not in "iub":
        raise UserError(f"{what}: labels are {y.dtype}, wanted whole numbers or texts")
    y = y.astype(np.int64)
    if len(y) and y.min() < 0:
        raise UserError(f"{what}: label {y.min()} is negative; number the classes from 0")
    found, codes = np.unique(y, return_inverse=True)
    if classes is None:
        return codes.astype(np.int64), tuple(str(value) for value in found)
    names = tuple(str(name) for name in classes)
    if len(set(names)) < len(names):
        raise UserError(f"{what}: class names repeat ({show(names)}); give each class a name of its own")
    if len(y) and y.max() >= len(names):
        raise UserError(f"{what}: label {y.max()} has no name, there are {len(names)} class names; number from 0")
    if all_used and len(found) < len(names):
        empty = [name for i, name in enumerate(names) if i not in set(found.tolist())]
        raise UserError(f"{what}: no image in class {show(empty)}; add images or remove the class")
    return codes.astype(np.int64), tuple(names[value] for value in found)
