"""A torch map-style Dataset that gives (image, label)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from archscout.errors import UserError
from archscout.readers.picture import channels_last, pixels, scaled, value_range
from archscout.readers.source import Labels, Source, Unreadable, class_labels

SAMPLE = 200


def dataset(
    data: Any, *, what: str = "data set", parts: Mapping[str, np.ndarray] | None = None, threads: bool = False
) -> Source:
    """The examples of anything with `len(data)` and `data[i] -> (image, label)`.

    An image is a Pillow image, or an array or tensor (H, W), (H, W, C) or (C, H, W) with C 1 or 3. Whether floats span
    0..1 or 0..255, and the sizes, are judged from up to 200 images spread over the data. Each image is read once.
    """
    count = len(data)
    if count == 0:
        raise UserError(f"{what} is empty; give one with examples")
    sample = np.unique(np.linspace(0, count - 1, SAMPLE).astype(int))
    found: dict[int, Any] = {}
    state: dict[str, float] = {}

    def item(i: int) -> Any:
        try:
            image, label = data[i]
        except (TypeError, ValueError) as error:
            raise UserError(f"{what}: example {i} is no pair (image, label) ({str(error)[:100]})") from None
        except (OSError, SyntaxError, EOFError) as error:
            raise Unreadable(f"{type(error).__name__}: {str(error)[:100]}") from None
        found[i] = label.item() if hasattr(label, "item") else label
        return image if isinstance(image, Image.Image) else np.asarray(image)

    def factor() -> float:
        if "factor" not in state:
            wide = (x for x in _readable(item, sample) if isinstance(x, np.ndarray) and x.dtype != np.uint8 and x.any())
            state["factor"] = min((value_range(x, what) for x in wide), default=1.0)
        return state["factor"]

    def read(i: int, short: int | None) -> np.ndarray:
        image = item(i)
        if isinstance(image, Image.Image):
            return pixels(image)
        if image.ndim == 2:
            image = image[..., None]
        elif not channels_last(image.shape, f"{what}, example {i}"):
            image = image.transpose(1, 2, 0)
        own = value_range(image, f"{what}, example {i}")
        if image.dtype != np.uint8 and factor() == 255 and own != 255:
            raise UserError(f"{what}, example {i}: pixels above 1 where others span 0..1; bring all to one range")
        return scaled(image, 1.0 if image.dtype == np.uint8 else factor())

    def sizes() -> np.ndarray:
        shapes = []
        for image in _readable(item, sample):
            if isinstance(image, Image.Image):
                shapes.append((image.height, image.width))
            elif image.ndim == 2 or channels_last(image.shape, what):
                shapes.append(image.shape[:2])
            else:
                shapes.append(image.shape[1:])
        if not shapes:
            raise Unreadable("none of the examples tried can be read")
        return np.array(shapes)

    def labels(kept: np.ndarray) -> Labels:
        values = [found[i] for i in kept.tolist()]
        classes = getattr(data, "classes", None)
        if not isinstance(classes, (list, tuple)):
            classes = None
        return class_labels(values, what, classes, all_used=False)

    return Source(
        what=what,
        names=[str(i) for i in range(count)],
        read=read,
        sizes=sizes,
        labels=labels,
        parts=parts,
        threads=threads,
    )


def _readable(item: Any, positions: np.ndarray) -> Iterator[Any]:
    for i in positions.tolist():
        try:
            yield item(i)
        except Unreadable:
            continue
