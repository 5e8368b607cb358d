"""From a view to one self-contained HTML file: templates, scripts allowed by their hashes, figures as safe JSON."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import numpy as np

from archscout.page.words import count, digits, duration, finite, in_bytes, percent, plain_words, quantity, role_words


def fill(template: str, view: Mapping[str, Any]) -> str:
    """A page from a template of this package: `view` is what it shows, and `view["figures"]` what plotly draws.

    The template gets the style, plotly.js and the page's own script, and a policy that lets nothing else run.
    """
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    environment = _environment()

    def read(name: str) -> str:
        return environment.loader.get_source(environment, name)[0].replace("\r\n", "\n")

    scripts = [get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n"), read("report.js")]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return environment.get_template(template).render(
        {
            **view,
            "css": Markup(read("report.css")),
            "scripts": [Markup(script) for script in scripts],
            "figures": Markup(embed(view["figures"])),
            "policy": f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
            "base-uri 'none'; form-action 'none'",
        }
    )


@cache
def _environment() -> Any:
    """The templates; kept, since compiling them takes longer than a page."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("archscout", "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        quantity=quantity,
        percent=percent,
        digits=digits,
        duration=duration,
        count=count,
        size=in_bytes,
        role=role_words,
        plain=plain_words,
    )
    return environment


def embed(value: Any) -> str:
    """JSON that is safe inside a script block: no `<`, `>`, `&`, nothing beyond ASCII; what is not finite is null."""
    try:
        text = _json(value)
    except ValueError:  # a NaN somewhere
        text = _json(finite(value))
    return text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"})


def _json(value: Any) -> str:
    """JSON in ASCII; piece by piece, which takes a quarter of the memory of one go."""
    text = bytearray()
    encoder = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=_made)
    for piece in encoder.iterencode(value):
        text += piece.encode("ascii")
    return text.decode("ascii")


class Late:
    """A part of a picture that is made while it is written, and not kept."""

    __slots__ = ("_i", "_make")

    def __init__(self, make: Callable[[int], Any], i: int) -> None:
        self._make, self._i = make, i

    def made(self) -> Any:
        return self._make(self._i)


def _made(value: Any) -> Any:
    """What json writes for what it does not know."""
    return finite(value.made() if isinstance(value, Late) else value)


def thumbnail(array: Any, side: int = 64) -> str:
    """A PNG data URI of one image, for `worst[i]["image"]`; about 8 kB for 64 × 64 colour pixels.

    array: uint8, (height, width), (height, width, 1) or (height, width, 3). Larger images are shrunk so that the
    longer side has `side` pixels.
    """
    from PIL import Image

    pixels = np.ascontiguousarray(array)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3)):
        raise ValueError(f"thumbnail wants uint8 (H, W), (H, W, 1) or (H, W, 3), got {pixels.dtype} {pixels.shape}")
    image = Image.fromarray(pixels[:, :, 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
