"""What a trained network gets right and wrong on every image: the one place where the test part is opened."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import t as student
from torch import nn

from archscout.data import Data
from archscout.fit import Evaluation, evaluate

WORST = 30
Z = 1.959964  # 95 % of a normal distribution lie within


def audit(
    model: nn.Module,
    data: Data,
    *,
    mean: Any = None,
    std: Any = None,
    threads: int = 1,
    device: str = "cpu",
    batch_size: int = 256,
) -> dict[str, Any]:
    """Evaluates a trained network on all images, by part, class and example; the result can be written as JSON.

    One forward pass an image. mean, std: per channel, 0..255; default those of the data. Gives

    parts:        train, validation, test -> {n, accuracy, accuracy_interval, balanced_accuracy,
                  balanced_accuracy_interval, loss, calibration_error}. Intervals are 95 %, see wilson,
                  mean_interval and, with groups, group_interval, since images of one group are not independent.
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
            name: _summary(one, None if groups is None else groups[indices[name]]) for name, one in found.items()
        },
        "interval": "images" if groups is None else "groups",
        "classes": [{"name": name, **row} for name, row in zip(data.classes, found["test"].per_class, strict=True)],
        "confusion": found["test"].confusion.tolist(),
        "worst_test": _worst(found, indices, data, ("test",)),
        "suspects": _worst(found, indices, data, ("train", "validation")),
    }


def wilson(right: Any, n: Any, z: float = Z) -> tuple[Any, Any]:
    """The 95 % interval of shares of `right` in `n`, numbers or arrays: never outside [0, 1], never a point.

    (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = right/n (Wilson 1927, J. Am. Stat. Assoc. 22).
    """
    p, scale = right / n, 1 + z * z / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(np.maximum(p * (1 - p), 0) / n + z * z / (4 * n * n))
    return np.maximum((middle - half) / scale, 0.0), np.minimum((middle + half) / scale, 1.0)


def mean_interval(right: np.ndarray, counts: np.ndarray, z: float = Z) -> tuple[float, float]:
    """The 95 % interval of the mean of several shares `right / counts`, each (classes,), counts above zero.

    Wilson's intervals (low_c, high_c) of the shares p_c put together (Zou, Huang and Zhang 2009, Computational
    Statistics & Data Analysis 53): from p - sqrt(sum (p_c - low_c)²)/C to p + sqrt(sum (high_c - p_c)²)/C. It holds the
    estimate and does not shrink to a point when all is right, as a bootstrap would.
    """
    shares = right / counts
    low, high = wilson(right, counts, z)
    down, up = np.sqrt(((shares - low) ** 2).sum()), np.sqrt(((high - shares) ** 2).sum())
    return max(0.0, float(shares.mean() - down / len(counts))), min(1.0, float(shares.mean() + up / len(counts)))


def group_interval(hits: np.ndarray, strata: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the mean over strata of the share of `hits`, when images of a group stand or fall together.

    hits bool, strata and groups whole numbers, all (n,). The counts in mean_interval are divided by the design effect:
    the variance between whole groups (linearised; Kish 1965, Survey Sampling) over that of independent images, at least
    1. Where that cannot be told, all shares being 0 or 1, each stratum counts its groups. The quantile is Student's
    with (groups - 1) degrees of freedom.
    """
    _, strata = np.unique(strata, return_inverse=True)
    _, groups = np.unique(groups, return_inverse=True)
    counts, right = np.bincount(strata), np.bincount(strata, weights=hits)
    shares, number = right / counts, int(groups.max()) + 1
    independent = (shares * (1 - shares) / counts).sum()
    cells = np.bincount(np.unique(groups * len(counts) + strata) % len(counts))  # groups in each stratum
    if independent > 0 and number > 1:
        residual = np.bincount(groups, weights=(hits - shares[strata]) / counts[strata])
        effect = max(1.0, number / (number - 1) * (residual**2).sum() / independent)
        effective = counts / effect
    else:
        effective = cells.astype(np.float64)
    z = float(student.ppf(0.975, max(1, number - 1)))
    return mean_interval(shares * effective, effective, z)


def calibration_error(one: Evaluation, bins: int = 15) -> float:
    """Expected calibration error: how far confidence is from accuracy, in `bins` equal bins of confidence.

    The sum over bins of (n_b / n) |accuracy_b - confidence_b| (Guo et al. 2017, arXiv:1706.04599).
    """
    place = np.clip(np.ceil(one.confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gap = (one.labels == one.predictions).astype(np.float64) - one.confidence
    return float(np.abs(np.bincount(place, weights=gap, minlength=bins)).sum() / len(gap))


def _summary(one: Evaluation, groups: np.ndarray | None) -> dict[str, Any]:
    """The numbers of one part."""
    n = len(one.labels)
    hits = one.labels == one.predictions
    if groups is None:
        counts = one.confusion.sum(1)
        present = counts > 0
        low, high = wilson(int(hits.sum()), n)
        balanced = mean_interval(one.confusion.diagonal()[present], counts[present])
    else:
        low, high = group_interval(hits, np.zeros(n, dtype=np.int64), groups)
        balanced = group_interval(hits, one.labels, groups)
    return {
        "n": n,
        "accuracy": one.accuracy,
        "accuracy_interval": [float(low), float(high)],
        "balanced_accuracy": one.balanced_accuracy,
        "balanced_accuracy_interval": list(balanced),
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
