"""A thousand malformed configs, architectures and image sets each: a clear error, never another exception."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archscout.asked import name_methods
from archscout.config import Config, make_config
from archscout.data import load
from archscout.errors import UserError
from archscout.spaces import SPACES
from archscout.trust import code_in

many = settings(
    max_examples=1000,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

texts = st.text(max_size=12) | st.sampled_from(
    ["", ":", ":b", ".a:b", "a:", "ray://", "5m", "1e400s", "9" * 400, "x" * 5000, "latency=5ms", "latency", "cuda:x",
     "synflow,", "resnet18=", "\0", "..", "auto", "darts", "torchvision:", "object:x"]
)  # fmt: skip
plain = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.just(10**400)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
names = st.sampled_from(sorted(Config.model_fields)) | texts


@many
@given(given_=st.dictionaries(names, values, max_size=4))
def test_configs(given_: dict[str, Any]) -> None:
    code_in(given_)
    with suppress(UserError):
        make_config({"data": "digits", "epochs": 1, **given_})
    with suppress(UserError):
        name_methods(given_.get("data", "digits"), given_)


EXAMPLES = {name: make((3, 16, 16), 3) for name, make in SPACES.items()}
TEXTS = {
    name: [space.format(space.sample(np.random.default_rng(seed))) for seed in range(4)]
    for name, space in EXAMPLES.items()
}


@st.composite
def mutated(draw: Any) -> tuple[str, str]:
    """The name of a space and a text that was one of its architectures before some of it was changed."""
    name = draw(st.sampled_from(sorted(TEXTS)))
    text = draw(st.sampled_from(TEXTS[name]))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(text) - 1, 0)))
        kind = draw(st.sampled_from(("cut", "drop", "put", "twice", "digits")))
        piece = draw(st.text(max_size=3) | st.sampled_from(["999999999", "-1", "0", "|", "~", "null", "[", "{", "NaN"]))
        if kind == "cut":
            text = text[:at]
        elif kind == "drop":
            text = text[:at] + text[at + 1 :]
        elif kind == "put":
            text = text[:at] + piece + text[at:]
        elif kind == "twice":
            text = text[:at] + text
        else:
            text = "".join(piece or "7" if c.isdigit() else c for c in text)
    return name, text


@many
@given(case=mutated())
def test_architectures(case: tuple[str, str]) -> None:
    name, text = case
    with suppress(UserError):
        arch = EXAMPLES[name].parse(text)  # still an architecture of the space, and its text says so
        assert EXAMPLES[name].parse(EXAMPLES[name].format(arch)) == arch


kinds = st.sampled_from(["uint8", "int8", "int64", "float32", "float64", "bool", "complex64", "U3", "O", "M8[s]"])


@st.composite
def arrays(draw: Any, most: int = 5) -> np.ndarray:
    shape = draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 8, 12]), max_size=most))
    kind = draw(kinds)
    fill = draw(st.sampled_from([0, 1, 200, -1, np.nan, np.inf]))
    with np.errstate(all="ignore"):
        made = np.full(shape, fill, dtype=np.float64)
        if kind in ("O", "U3", "M8[s]"):
            return np.full(shape, None if kind == "O" else 0, dtype=object).astype(kind)
        made = made.astype(kind)
    if made.size and draw(st.booleans()):
        made.flat[:: draw(st.integers(1, 3))] = 1
    return made


@st.composite
def labelled(draw: Any) -> tuple[np.ndarray, Any]:
    """Images, and labels that are as many in most cases."""
    images = draw(arrays())
    if images.ndim and draw(st.integers(0, 3)):
        labels = [draw(st.sampled_from([0, 1, 2, -1, 7.5, np.nan, "a", "", None, True])) for _ in range(len(images))]
        return images, np.array(labels, dtype=draw(st.sampled_from([None, object, "U3"])))
    return images, draw(arrays(2) | st.none() | st.text(max_size=3) | st.lists(st.integers(0, 2), max_size=12))


@many
@given(given_=labelled())
def test_images_in_memory(given_: tuple[np.ndarray, Any]) -> None:
    with suppress(UserError):
        assert len(load(given_).classes) >= 2


@pytest.mark.parametrize("ending", [".npz", ".png", ".jpg"])
@settings(many, max_examples=350)
@given(content=st.binary(max_size=80), head=st.sampled_from([b"", b"PK\3\4", b"\x89PNG\r\n\x1a\n", b"\xff\xd8"]))
def test_files(content: bytes, head: bytes, ending: str, tmp_path: Path) -> None:
    """Bytes that are no images: alone as .npz, or in a folder beside good ones."""
    if ending == ".npz":
        path = tmp_path / "d.npz"
        path.write_bytes(head + content)
    else:
        from PIL import Image

        path = tmp_path / "photos"
        for name in ("a", "b"):
            (path / name).mkdir(parents=True, exist_ok=True)
            if not (path / name / "1.png").exists():
                for number in range(3):
                    Image.new("RGB", (8, 8), (number, 0, 0)).save(path / name / f"{number}.png")
        (path / "a" / f"bad{ending}").write_bytes(head + content)
    with suppress(UserError):
        load(str(path))
