"""A pair of arrays: images and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from archscout.errors import UserError
from archscout.readers.picture import channels_last, scaled, value_range
from archscout.readers.source import Source, class_labels


def arrays(
    x: Any,
    y: Any,
    *,
    what: str = "arrays",
    classes: Sequence[Any] | None = None,
    groups: Any = None,
    parts: Mapping[str, np.ndarray] | None = None,
    names: Sequence[str] | None = None,
) -> Source:
    """Images (N, H, W), (N, H, W, C) or (N, C, H, W), C 1 or 3, with a label each; values by `value_range`'s rule."""
    x, y = np.asarray(x), np.asarray(y)
    if x.dtype == object:
        raise UserError(f"{what}: images have different shapes; resize them first, or give a folder of image files")
    if x.ndim not in (3, 4):
        raise UserError(
            f"{what}: X has shape {x.shape}, wanted (N, H, W) or (N, H, W, C); reshape rows of pixels first"
        )
    if y.ndim == 0 or len(x) != len(y):
        raise UserError(f"{what}: {len(x)} images but {len(y) if y.ndim else 'no'} labels; give one label per image")
    if len(x) == 0 or 0 in x.shape:
        raise UserError(f"{what}: no image in it (X has shape {x.shape})")
    if groups is not None:
        groups = np.asarray(groups)
        if groups.shape != (len(x),):
            raise UserError(f"{what}: groups have shape {groups.shape}, wanted one per image ({len(x)},)")
    if x.ndim == 3:
        x = x[..., None]
    elif not channels_last(x.shape[1:], what):
        x = x.transpose(0, 2, 3, 1)
    factor = value_range(x, what)
    labels, found = class_labels(y, what, classes)
    notes: tuple[str, ...] = ()
    if abs(factor - 1 / 257) < 1e-9:
        notes = ("the pixels were taken as 16-bit and divided by 257",)
    return Source(
        what=what,
        names=names if names is not None else [str(i) for i in range(len(x))],
        read=lambda i, short: scaled(x[i], factor),
        sizes=lambda: np.array([x.shape[1:3]]),
        labels=lambda kept: (labels[kept], found),
        array=lambda rows: scaled(x[rows], factor),
        parts=parts,
        groups=groups,
        notes=notes,
    )
