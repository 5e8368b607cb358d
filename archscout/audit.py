"""What a trained network gets right and wrong on every image: the one place where the test part is opened."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from archscout.data import Data
from archscout.fit import Evaluation, evaluate

WORST = 30
DRAWS = 2000


def audit(
    model: nn.Module,
    data: Data,
    *,
    mean: Any = None,
    std: Any = None,
    threads: int = 1,
    device: str = "cpu",
    batch_size: int = 256,
    seed: int = 0,
) -> dict[str, Any]:
    """Evaluates a trained network on all images, by part, class and example; the result can be written as JSON.

    One forward pass an image. mean, std: per channel, 0..255; default those of the data. Gives

    parts:        train, validation, test -> {n, accuracy, accuracy_interval, balanced_accuracy,
                  balanced_accuracy_interval, loss, calibration_error}. Intervals are 95 %: Wilson's for accuracy, the
                  mean of the classes' Jeffreys posteriors for balanced accuracy; with groups, both are a bootstrap of
                  whole groups, since images of one group are not independent.
    interval:     "images" or "groups": what the intervals count as independent.
    classes:      one {name, recall, precision, n} per class, on the test part.
    confusion:    test images by class (row) and predicted class (column).
    worst_test, suspects:  the wrong answers, most confident first, at most 30: {name, true, predicted, confidence,
                  part}; of the test part, and of train and validation, where a confident mistake on an image that was
                  trained on hints at a wrong label.
    """
    mean, std = data.mean if mean is None else mean, data.std if std is None else std
    found: dict[str, Evaluation] = {}
    indices: dict[str, np.ndarray] = {}
    for name in ("train", "validation", "test"):
        part = data.part(name)
        indices[name] = np.asarray(part.indices)
        found[name] = evaluate(model, part, mean=mean, std=std, threads=threads, device=device, batch_size=batch_size)
    groups = None if data.groups is None else np.asarray(data.groups)
    return {
        "parts": {
            name: _summary(one, None if groups is None else groups[indices[name]], seed) for name, one in found.items()
        },
        "interval": "images" if groups is None else "groups",
        "classes": [{"name": name, **row} for name, row in zip(data.classes, found["test"].per_class, strict=True)],
        "confusion": found["test"].confusion.tolist(),
        "worst_test": _worst(found, indices, data, ("test",)),
        "suspects": _worst(found, indices, data, ("train", "validation")),
    }


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share of `right` in `n` (Wilson 1927, J. Am. Stat. Assoc. 22): never outside [0, 1].

    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = right/n.
    """
    p, scale = right / n, 1 + z * z / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float(max(0.0, (middle - half) / scale)), float(min(1.0, (middle + half) / scale))


def balanced_interval(right: np.ndarray, counts: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean recall of the classes with `counts` above zero, `right` of them found.

    Quantiles of the mean of draws from the Jeffreys posterior Beta(right + 1/2, wrong + 1/2) of each class's recall
    (Brown, Cai and DasGupta 2001, Statistical Science 16). A bootstrap would call a class of five right answers certain.
    """
    right, counts = right[counts > 0], counts[counts > 0]
    rng = np.random.default_rng(seed)
    draws = rng.beta(right + 0.5, counts - right + 0.5, size=(DRAWS, len(counts))).mean(1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def group_intervals(one: Evaluation, groups: np.ndarray, seed: int = 0) -> tuple[tuple[float, float], ...]:
    """The 95 % intervals of accuracy and balanced accuracy when whole groups are drawn again, 2,000 times."""
    _, member = np.unique(groups, return_inverse=True)
    n = int(member.max()) + 1
    count = np.zeros((n, one.classes))
    right = np.zeros((n, one.classes))
    np.add.at(count, (member, one.labels), 1)
    np.add.at(right, (member, one.labels), one.labels == one.predictions)
    times = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
    right, count = times @ right, times @ count
    accuracy = right.sum(1) / count.sum(1)
    recall = np.divide(right, count, out=np.zeros_like(right), where=count > 0)
    balanced = recall.sum(1) / (count > 0).sum(1)
    pairs = [np.quantile(values, (0.025, 0.975)) for values in (accuracy, balanced)]
    return tuple((float(low), float(high)) for low, high in pairs)


def calibration_error(one: Evaluation, bins: int = 15) -> float:
    """Expected calibration error: how far confidence is from accuracy, in `bins` equal bins of confidence.

    The sum over bins of (n_b / n) |accuracy_b - confidence_b| (Guo et al. 2017, arXiv:1706.04599).
    """
    place = np.clip(np.ceil(one.confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = (one.labels == one.predictions).astype(np.float64) - one.confidence
    return float(np.abs(np.bincount(place, weights=gap, minlength=bins)).sum() / len(gap))


def _summary(one: Evaluation, groups: np.ndarray | None, seed: int) -> dict[str, Any]:
    """The numbers of one part."""
    right = one.confusion.diagonal()
    if groups is None:
        intervals = wilson(int(right.sum()), len(one.labels)), balanced_interval(right, one.confusion.sum(1), seed)
    else:
        intervals = group_intervals(one, groups, seed)
    return {
        "n": len(one.labels),
        "accuracy": one.accuracy,
        "accuracy_interval": list(intervals[0]),
        "balanced_accuracy": one.balanced_accuracy,
        "balanced_accuracy_interval": list(intervals[1]),
        "loss": one.loss,
        "calibration_error": calibration_error(one),
    }


def _worst(
    found: dict[str, Evaluation], indices: dict[str, np.ndarray], data: Data, parts: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The wrong answers of some parts together, the most confident first."""
    index = np.concatenate([indices[name] for name in parts])
    part = np.repeat(parts, [len(indices[name]) for name in parts])
    true, predicted, confidence = (
        np.concatenate([getattr(found[name], what) for name in parts])
        for what in ("labels", "predictions", "confidence")
    )
    wrong = np.flatnonzero(true != predicted)
    order = wrong[np.lexsort((index[wrong], -confidence[wrong]))][:WORST]
    return [
        {
            "name": data.names[index[i]],
            "true": data.classes[true[i]],
            "predicted": data.classes[predicted[i]],
            "confidence": float(confidence[i]),
            "part": str(part[i]),
        }
        for i in order
    ]
