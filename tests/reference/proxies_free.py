"""Slow versions of the gradient-free proxies from their formulas: NumPy in float64, plain loops, no shared code.

Feature maps are arrays (N, C, H, W). A network, where one is needed, is a list of layers:
("conv", W, stride, padding), ("norm", mean, variance), ("relu",), ("pool",), ("linear", W, b).
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np


def columns(features):
    """(places, channels): one row for each image and place."""
    n, channels, height, width = features.shape
    return np.array(
        [features[i, :, y, x] for i in range(n) for y in range(height) for x in range(width)], dtype=np.float64
    ).reshape(n * height * width, channels)


def entropy(shares):
    total = sum(shares)
    return -sum(s / total * math.log(s / total) for s in shares if s > 0)


def spectral_entropy(features):
    covariance = np.cov(columns(features), rowvar=False, bias=True)
    return entropy([max(v, 0.0) for v in np.linalg.eigvals(np.atleast_2d(covariance)).real])


def jacobian_norm(inner, outer):
    """inner (N, C, H s, W s): gradient at the input; outer (N, D, H, W): the signs. Largest singular value."""
    n, depth, height, width = outer.shape
    s = inner.shape[2] // height
    total = np.zeros((inner.shape[1] * s * s, depth))
    for i in range(n):
        for y in range(height):
            for x in range(width):
                block = inner[i, :, y * s : y * s + s, x * s : x * s + s].reshape(-1)
                total += np.outer(block, outer[i, :, y, x])
    return np.linalg.svd(total / (n * height * width), compute_uv=False)[0]


def trainability(norms):
    return float(np.mean([2 - s - 1 / s for s in norms]))


def forward(layers, images):
    """The logits."""
    x = np.asarray(images, dtype=np.float64)
    for kind, *p in layers:
        if kind == "conv":
            weight, stride, padding = p
            x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
            k = weight.shape[2]
            height, width = ((side - k) // stride + 1 for side in x.shape[2:])
            y = np.zeros((len(x), len(weight), height, width))
            for i in range(height):
                for j in range(width):
                    patch = x[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
                    y[:, :, i, j] = np.tensordot(patch, weight, axes=([1, 2, 3], [1, 2, 3]))
            x = y
        elif kind == "norm":
            x = (x - p[0][:, None, None]) / np.sqrt(p[1][:, None, None] + 1e-5)
        elif kind == "relu":
            x = np.maximum(x, 0)
        elif kind == "pool":
            x = x.mean(axis=(2, 3))
        else:
            x = x @ p[0].T + p[1]
    return x


def fisher(layers, images, spots, step=1e-5):
    """The Fisher information of single weights; spots: (array, index) pairs inside `layers`."""
    logits = forward(layers, images)
    derivatives = []
    for array, spot in spots:
        kept = array[spot]
        array[spot] = kept + step
        up = forward(layers, images)
        array[spot] = kept - step
        down = forward(layers, images)
        array[spot] = kept
        derivatives.append((up - down) / (2 * step))
    information = np.zeros((len(spots), len(spots)))
    for n, row in enumerate(logits):
        p = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        for a in range(len(spots)):
            for b in range(len(spots)):
                one, other = derivatives[a][n], derivatives[b][n]
                mean = sum(p[c] * one[c] for c in range(len(p))), sum(p[c] * other[c] for c in range(len(p)))
                information[a, b] += sum(p[c] * (one[c] - mean[0]) * (other[c] - mean[1]) for c in range(len(p)))
    return information / len(logits)


def vkdnw(information):
    values = sorted(np.linalg.eigvals(information).real.clip(0))
    deciles = []
    for k in range(1, 10):
        place = k / 10 * (len(values) - 1)
        low = math.floor(place)
        high = min(low + 1, len(values) - 1)
        deciles.append(values[low] + (place - low) * (values[high] - values[low]))
    return entropy(deciles)


def swap(outputs):
    """outputs: per rectifier (N, ...)."""
    patterns = set()
    for output in outputs:
        for unit in np.asarray(output).reshape(len(output), -1).T:
            patterns.add(tuple(bool(v > 0) for v in unit))
    return len(patterns)


def meco(outputs):
    return sum(min(np.linalg.eigvals(np.corrcoef(columns(output[:8]), rowvar=False)).real) for output in outputs)


def participation(outputs):
    score = 0.0
    for output in outputs:
        values = np.linalg.svd(columns(output[:8]) - columns(output[:8]).mean(0), compute_uv=False) ** 2
        score += math.log(values.sum() ** 2 / (values**2).sum())
    return score


def effective_rank(matrix):
    return math.exp(entropy(np.linalg.svd(matrix, compute_uv=False)))


def linear_regions(outputs):
    """outputs: per rectifier (N, ...), the images in the order in which they lie on the arc."""
    switched = 0
    for output in outputs:
        rows = np.asarray(output).reshape(len(output), -1)
        for before, after in pairwise(rows):
            switched += sum(bool(a > 0) != bool(b > 0) for a, b in zip(before, after, strict=True))
    return math.log(switched)
