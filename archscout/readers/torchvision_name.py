"""A data set of torchvision, by name, from files that are already there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from archscout.errors import UserError, unknown
from archscout.readers.arrays import arrays
from archscout.readers.dataset import dataset
from archscout.readers.source import Source

FLAG = {"train": {"train": True}, "test": {"train": False}}
TWO = {"train": {"split": "train"}, "test": {"split": "test"}}
THREE = {"train": {"split": "train"}, "validation": {"split": "val"}, "test": {"split": "test"}}
VALID = {**THREE, "validation": {"split": "valid"}}
TRAINVAL = {"train": {"split": "trainval"}, "test": {"split": "test"}}
VAL_ONLY = {"train": {"split": "train"}, "validation": {"split": "val"}}
WHOLE: dict[str, dict[str, Any]] = {"": {}}
# name -> part -> the arguments that give it
NAMES: dict[str, dict[str, dict[str, Any]]] = {
    "CIFAR10": FLAG, "CIFAR100": FLAG, "MNIST": FLAG, "FashionMNIST": FLAG, "KMNIST": FLAG, "USPS": FLAG,
    "SVHN": TWO, "STL10": TWO, "GTSRB": TWO, "Food101": TWO, "StanfordCars": TWO,
    "DTD": THREE, "FGVCAircraft": THREE, "Flowers102": THREE, "PCAM": THREE, "RenderedSST2": THREE,
    "Country211": VALID, "OxfordIIITPet": TRAINVAL, "Imagenette": VAL_ONLY,
    "EuroSAT": WHOLE, "Caltech101": WHOLE, "Caltech256": WHOLE, "SEMEION": WHOLE, "SUN397": WHOLE,
}  # fmt: skip


def torchvision_name(name: str, data_root: Path | str | None) -> Source:
    """The data set `torchvision.datasets.NAME` below `data_root`, with the split it brings. Nothing is downloaded.

    Raises UserError for an unknown name, without `data_root`, and where files are missing, saying where it looked.
    """
    if name not in NAMES:
        raise unknown("torchvision data set", name, NAMES)
    if data_root is None:
        raise UserError(
            f"torchvision:{name} needs the folder of its files; add --data-root FOLDER (in Python: data_root=FOLDER)"
        )
    root = Path(data_root).expanduser().resolve()
    import torchvision.datasets

    made: dict[str, Any] = {}
    for part, arguments in NAMES[name].items():
        try:
            made[part] = getattr(torchvision.datasets, name)(str(root), **arguments, download=False)
        except ImportError as error:
            raise UserError(f"torchvision:{name} needs a package that is not there ({error}); install it") from None
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"torchvision:{name} is not complete in '{root}' ({str(error).splitlines()[0][:100]}); put its files "
                f"there, or once run in Python: torchvision.datasets.{name}('{root}', download=True)"
            ) from None
    ends = np.cumsum([0, *(len(one) for one in made.values())])
    parts = {part: np.arange(ends[i], ends[i + 1]) for i, part in enumerate(made)} if "" not in made else None
    what = f"torchvision:{name}"
    first = next(iter(made.values()))
    if all(_has_arrays(one) for one in made.values()):
        x = np.concatenate([np.asarray(one.data) for one in made.values()])
        y = np.concatenate([np.asarray(one.targets) for one in made.values()])
        return arrays(x, y, what=what, classes=getattr(first, "classes", None), parts=parts)
    return dataset(_Joined(list(made.values())), what=what, parts=parts, threads=True)


def _has_arrays(data: Any) -> bool:
    return hasattr(data, "data") and hasattr(data, "targets") and len(np.shape(data.data)) >= 3


class _Joined:
    """Data sets one after the other, as one."""

    def __init__(self, several: list[Any]) -> None:
        self.several = several
        self.ends = np.cumsum([len(one) for one in several])
        self.classes = getattr(several[0], "classes", None)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, i: int) -> Any:
        which = int(np.searchsorted(self.ends, i, side="right"))
        return self.several[which][i - (int(self.ends[which - 1]) if which else 0)]
