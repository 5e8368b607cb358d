"""One file per kind of data that a person may have; each turns it into a Source."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from archscout.errors import UserError
from archscout.naming import find
from archscout.readers.arrays import arrays
from archscout.readers.dataset import dataset
from archscout.readers.digits import digits
from archscout.readers.image_folder import image_folder
from archscout.readers.npz import npz
from archscout.readers.source import Source
from archscout.readers.torchvision_name import torchvision_name

OBJECT = "object:"  # begins what a run keeps as the name of data that were an object of Python


def open_source(source: Any, data_root: str | Path | None = None) -> Source:
    """The reader's view of whatever a person gives as data; UserError for what is no data."""
    if isinstance(source, tuple) and len(source) == 2:
        return arrays(*source)
    if isinstance(source, str) and source == "digits":
        return digits()
    if isinstance(source, str) and source.startswith(OBJECT):
        raise UserError(f"'{source}' stands for an object of Python, which cannot be found again; give it, data=...")
    if isinstance(source, str) and source.startswith("torchvision:"):
        return torchvision_name(source.partition(":")[2], data_root)
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if path.is_dir():
            return image_folder(path)
        if path.suffix.lower() == ".npz":
            return npz(path)
        if isinstance(source, str) and re.fullmatch(r"[A-Za-z_]\w+(\.\w+)*:[A-Za-z_]\w*", source) and not path.exists():
            made = find("data source", source, {})
            return open_source(made() if callable(made) and not hasattr(made, "__getitem__") else made)
        wanted = "wanted a folder with a sub-folder per class, an .npz file, torchvision:NAME or digits"
        if path.exists():
            raise UserError(f"'{source}' is a file of a kind that is not read; {wanted}")
        raise UserError(f"'{source}' does not exist; {wanted}")
    if hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, dict | list | tuple):
        return dataset(source, what=f"data set {type(source).__name__}")
    raise UserError(
        f"data of type {type(source).__name__} is not read; give a folder, an .npz file, torchvision:NAME, a pair "
        "(X, y), "
        "or a torch Dataset with len() and data[i] -> (image, label)"
    )
