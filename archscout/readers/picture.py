"""One image of any usual kind as 8-bit grey or colour pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps

from archscout.errors import UserError
from archscout.readers.source import Unreadable


def decode(file: Any, short: int | None = None) -> np.ndarray:
    """The pixels of an image file, uint8 (H, W, 1 or 3).

    Grey of 16 bits is divided by 257, so that 65535 becomes 255. Transparent pixels lie over white. Of an animation the
    first frame is taken. The EXIF orientation is applied. `short` is the short side that will be needed: a JPEG is then
    decoded at a reduced scale of at least twice that, which is much faster for photographs.
    Raises Unreadable with the reason, also for an image above Pillow's limit against decompression bombs.
    """
    try:
        with Image.open(file) as image:
            width, height = image.size
            if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
                raise Unreadable(f"{width} x {height} pixels are above Pillow's limit of {Image.MAX_IMAGE_PIXELS}")
            if short is not None and image.format == "JPEG":
                scale = 2 * short / min(width, height)
                if scale < 1:
                    image.draft(None, (int(width * scale) + 1, int(height * scale) + 1))
            return pixels(image)
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # decoders raise many kinds; whatever it was, this one image is unreadable
        raise Unreadable(f"{type(error).__name__}: {str(error)[:120]}") from None


def pixels(image: Image.Image) -> np.ndarray:
    """The pixels of an opened Pillow image, uint8 (H, W, 1 or 3); the rules are those of `decode`."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return whole_array(np.asarray(image), "image", sixteen=image.mode != "F")[..., None]
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image).convert("RGB")
    elif image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))


def value_range(array: np.ndarray, what: str, *, sixteen: bool = False) -> float:
    """What to multiply an array by to bring it to 0..255; UserError for values that are no pixels.

    The rule: whole numbers up to 255 are 8-bit, up to 65535 are 16-bit (times 1/257); floats up to 1 span 0..1 (times
    255), floats up to 255 are taken as they are. Booleans are black and white. `sixteen`: a 16-bit file, however dark.
    """
    kind = array.dtype.kind
    if array.dtype == np.uint8 or array.size == 0:
        return 1.0
    if kind == "b":
        return 255.0
    if kind not in "iuf":
        raise UserError(f"{what}: pixels are {array.dtype}, wanted numbers")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise UserError(f"{what}: some pixels are NaN or infinite; replace or remove those images")
    most = 255 if kind == "f" else 65535
    if low < 0 or high > most:
        wanted = "0..1 or 0..255" if kind == "f" else "0..255 or 0..65535"
        raise UserError(f"{what}: pixels lie in {low:g}..{high:g}, wanted {wanted}; undo any normalisation first")
    if kind == "f":
        return 255.0 if high <= 1 else 1.0
    return 1 / 257 if sixteen or high > 255 else 1.0


def scaled(array: np.ndarray, factor: float) -> np.ndarray:
    """An array times `factor`, rounded to uint8."""
    if array.dtype == np.uint8 and factor == 1:
        return array
    return np.rint(array * np.float32(factor)).clip(0, 255).astype(np.uint8)


def whole_array(array: np.ndarray, what: str, *, sixteen: bool = False) -> np.ndarray:
    """An array as uint8 of the same shape, by the rule of `value_range`."""
    return scaled(array, value_range(array, what, sixteen=sixteen))


def channels_last(shape: tuple[int, ...], what: str) -> bool:
    """Whether an image shape (3 numbers) has its channels last; UserError if there are no 1 or 3 channels."""
    if len(shape) == 3 and shape[-1] in (1, 3):
        return True
    if len(shape) == 3 and shape[0] in (1, 3):
        return False
    raise UserError(f"{what}: an image has shape {shape}, wanted (H, W), (H, W, 1 or 3) or (1 or 3, H, W)")


def short_side(array: np.ndarray, size: int) -> np.ndarray:
    """An image resized (bilinear, antialiased) to the short side `size`, then cropped at its centre to a square."""
    height, width = array.shape[:2]
    if (height, width) == (size, size):
        return array
    scale = size / min(height, width)
    shape = (max(size, round(width * scale)), max(size, round(height * scale)))
    image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
    left, top = (shape[0] - size) // 2, (shape[1] - size) // 2
    image = image.resize(shape, Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))
    result = np.asarray(image)
    return result[..., None] if result.ndim == 2 else result
