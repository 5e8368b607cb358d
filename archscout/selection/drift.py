"""What a selection leaves out: whether images that were never trained on are answered as well as the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archscout.selection.selector import Record, Selector

TOLERANCE = 0.05  # how much worse never selected images may be answered than ever selected ones
GROUPS = ("selected", "once selected", "never selected")


@dataclass(frozen=True)
class Drift:
    """Accuracy of what is selected now, of what was selected before, and of what never was.

    round:     the round after which it was measured.
    images:    how many images of each group there are.
    n:         how many of each were looked at.
    accuracy:  the share of these that was answered right, as means over classes with the class shares of all images, so
               that a group is not better for holding more of an easy class; None for a group without images.
    gap:       accuracy of ever selected images, the first two groups together, less that of never selected ones, over
               the classes that have both; None where there is none or no image has left the selection. `error` is its
               standard error.
    size:      images in a round afterwards.
    drifted:   whether the gap is above what is tolerated, beyond chance.
    """

    round: int
    images: tuple[int, int, int]
    n: tuple[int, int, int]
    accuracy: tuple[float | None, float | None, float | None]
    gap: float | None
    error: float | None
    size: int
    drifted: bool

    def to_json(self) -> dict[str, Any]:
        """Plain values, for a log."""
        return asdict(self)

    def __str__(self) -> str:
        def share(value: float | None) -> str:
            return "-" if value is None else f"{100 * value:.1f} %"

        text = ", ".join(f"{name} {share(value)}" for name, value in zip(GROUPS, self.accuracy, strict=True))
        warned = f"; never selected images fall behind, a round now has {self.size} images" if self.drifted else ""
        return f"audit of round {self.round}: {text}{warned}"


def group_of(record: Record) -> Tensor:
    """int64 (n,): 0 for images of the current round, 1 for those of an earlier one, 2 for those of none."""
    group = torch.where(record.times > 0, 1, 2)
    group[record.subset] = 0
    return group


def sample(record: Record, most: int | None) -> Tensor:
    """Positions (k,) of images to look at: all, or at random up to `most` per group, equally many of every class."""
    if most is None:
        return torch.arange(len(record.labels))
    draw = np.random.default_rng([record.seed, record.round, 1])
    labels, group = record.labels.numpy(), group_of(record).numpy()
    classes = int(labels.max()) + 1
    order = draw.permutation(len(labels))
    cell = group[order] * classes + labels[order]
    by_cell = order[np.argsort(cell, kind="stable")]
    cells = group[by_cell] * classes + labels[by_cell]
    counts = np.bincount(cells, minlength=3 * classes)
    within = np.arange(len(cells)) - (np.cumsum(counts) - counts)[cells]
    return torch.from_numpy(np.sort(by_cell[within < max(1, most // classes)]))


def compare(record: Record, positions: Tensor, right: Tensor, *, tolerance: float = TOLERANCE) -> Drift:
    """The Drift of images at `positions` (k,) of which `right` (k,) bool were answered right.

    Drifted means that never selected images are worse than ever selected ones by more than `tolerance`, with two
    standard errors to spare. The first two groups are taken together, each weighted by all its images: images that
    leave because they were answered right, and those that stay because they were not, are each no fair sample.
    """
    group = group_of(record).numpy()
    classes = int(record.labels.max()) + 1
    cell = group[positions.numpy()] * classes + record.labels[positions].numpy()
    n = np.bincount(cell, minlength=3 * classes).reshape(3, classes)
    hits = np.bincount(cell, weights=right.numpy().astype(float), minlength=3 * classes).reshape(3, classes)
    share = record.counts / len(record.labels)
    with np.errstate(invalid="ignore"):
        rate = hits / n
    spread = (np.nan_to_num(rate) * (1 - np.nan_to_num(rate)) + 0.25 / np.maximum(n, 1)) / np.maximum(n, 1)

    def mean(values: np.ndarray, of: np.ndarray) -> float:
        return float((values[of] * share[of]).sum() / share[of].sum())

    accuracy = tuple(mean(rate[g], n[g] > 0) if n[g].any() else None for g in range(3))
    everywhere = np.bincount(group * classes + record.labels.numpy(), minlength=3 * classes).reshape(3, classes)
    parts = np.where(n[:2] > 0, everywhere[:2], 0)
    parts = parts / np.maximum(parts.sum(0), 1)  # of the ever selected images of a class, in the current round and not
    both = (n[:2].sum(0) > 0) & (n[2] > 0)
    gap = error = None
    if both.any() and n[1].any():
        gap = mean((parts * np.nan_to_num(rate[:2])).sum(0) - rate[2], both)
        variance = (parts**2 * spread[:2]).sum(0) + spread[2]
        error = float(np.sqrt((share[both] ** 2 * variance[both]).sum()) / share[both].sum())
    drifted = gap is not None and error is not None and gap - 2 * error > tolerance
    images = np.bincount(group, minlength=3)
    return Drift(record.round, _three(images), _three(n.sum(1)), accuracy, gap, error, record.size, bool(drifted))  # type: ignore[arg-type]


def audit_selection(
    selector: Selector,
    right: Callable[[Tensor], Tensor],
    *,
    most: int | None = 1000,
    tolerance: float = TOLERANCE,
    widen: float = 1.5,
) -> Drift:
    """Looks at what a selector left out, and widens its rounds where the network falls behind there.

    right:      a function of positions (k,) that gives whether the network answers each image right, (k,) bool; in
                evaluation mode, without augmentation.
    most:       images of each of the three groups that are looked at, None for all.
    tolerance:  how much worse never selected images may be than ever selected ones; some gap is only that the network
                was not trained on them.
    widen:      by what the size of a round is multiplied when they are worse.
    Costs one forward pass of up to 3 x `most` images.
    """
    record = selector.record
    positions = sample(record, most)
    found = compare(record, positions, right(positions).cpu(), tolerance=tolerance)
    if found.drifted:
        record.size = min(len(record.labels), round(record.size * widen))
        found = Drift(**{**asdict(found), "size": record.size})
    return found


def by_class_and_cluster(
    record: Record, right: Tensor, clusters: np.ndarray | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Accuracy by group within each class and, if given, each similarity cluster: {"class": rows, "cluster": rows}.

    right: bool (n,), of all images. A row is {number, images (3,), accuracy (3,)}, None where a group has no image.
    """
    tables = {"class": record.labels.numpy()} | ({} if clusters is None else {"cluster": clusters})
    group = group_of(record).numpy()
    result = {}
    for name, kind in tables.items():
        many = int(kind.max()) + 1
        n = np.bincount(kind * 3 + group, minlength=3 * many).reshape(many, 3)
        hits = np.bincount(kind * 3 + group, weights=right.numpy().astype(float), minlength=3 * many).reshape(many, 3)
        result[name] = [
            {
                "number": number,
                "images": n[number].tolist(),
                "accuracy": [hits[number, g] / n[number, g] if n[number, g] else None for g in range(3)],
            }
            for number in range(many)
            if n[number].any()
        ]
    return result


def behind(rows: list[dict[str, Any]], tolerance: float = TOLERANCE) -> list[dict[str, Any]]:
    """The rows of `by_class_and_cluster` in which never selected images are worse than ever selected ones.

    By more than `tolerance`, with three standard errors to spare, as many rows are looked at. Images of one row are
    taken as they are, not weighted.
    """
    found = []
    for row in rows:
        ever = row["images"][0] + row["images"][1]
        never = row["images"][2]
        if not ever or not never:
            continue
        right = sum(n * rate for n, rate in zip(row["images"][:2], row["accuracy"][:2], strict=True) if n)
        rates, counts = np.array([right / ever, row["accuracy"][2]]), np.array([ever, never])
        error = float(np.sqrt(((rates * (1 - rates) + 0.25 / counts) / counts).sum()))
        if rates[0] - rates[1] - 3 * error > tolerance:
            found.append(row)
    return found


def _three(values: np.ndarray) -> tuple[int, int, int]:
    one, two, three = (int(value) for value in values)
    return one, two, three
