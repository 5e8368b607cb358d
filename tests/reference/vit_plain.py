"""A vision transformer and the DSS indicator in plain NumPy and float64, from the definitions; nothing of archscout.

A network is a dictionary of its weights by name, as in `{"embed.weight": (width, C, patch, patch), ...}`; the layers
are named layers.0, layers.1 and so on. Derivatives are central differences.
"""

from __future__ import annotations

import math

import numpy as np

Weights = dict[str, np.ndarray]


def logits(p: Weights, image: np.ndarray, heads: list[int], head: int = 32) -> np.ndarray:
    """The outputs (classes,) for one image (C, H, W); `heads` of each layer, each of `head` channels."""
    patch = p["embed.weight"].shape[2]
    channels, height, width = image.shape
    rows, columns = -(-height // patch), -(-width // patch)
    padded = np.zeros((channels, rows * patch, columns * patch))
    padded[:, :height, :width] = image
    cut = [
        padded[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].ravel()
        for r in range(rows)
        for c in range(columns)
    ]
    x = np.stack(cut) @ p["embed.weight"].reshape(len(p["embed.weight"]), -1).T + p["embed.bias"] + p["position"][0]
    for number, count in enumerate(heads):
        layer = f"layers.{number}"
        inside = norm(p, x, f"{layer}.norm1")
        query, key, value = (linear(p, inside, f"{layer}.attention.{word}") for word in ("query", "key", "value"))
        mixed = []
        for at in range(0, count * head, head):
            part = slice(at, at + head)
            scores = query[:, part] @ key[:, part].T / math.sqrt(head)
            weights = np.exp(scores - scores.max(1, keepdims=True))
            mixed.append(weights / weights.sum(1, keepdims=True) @ value[:, part])
        x = x + linear(p, np.concatenate(mixed, 1), f"{layer}.attention.out")
        hidden = linear(p, norm(p, x, f"{layer}.norm2"), f"{layer}.mlp.0")
        x = x + linear(p, hidden * (1 + ERF(hidden / math.sqrt(2))) / 2, f"{layer}.mlp.2")
    return linear(p, norm(p, x, "norm").mean(0, keepdims=True), "classifier")[0]


ERF = np.vectorize(math.erf)


def norm(p: Weights, x: np.ndarray, name: str) -> np.ndarray:
    centred = x - x.mean(1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * p[f"{name}.weight"] + p[f"{name}.bias"]


def linear(p: Weights, x: np.ndarray, name: str) -> np.ndarray:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def dss(p: Weights, shape: tuple[int, int, int], heads: list[int], step: float = 1e-5) -> float:
    """Nuclear norms of derivatives times nuclear norms of weights in the attention, sums of |w dR/dw| elsewhere."""
    p = {name: np.abs(value) for name, value in p.items()}
    ones = np.ones(shape)
    found = 0.0
    for name, value in p.items():
        if not name.endswith(".weight") or "norm" in name:
            continue
        slope = np.zeros_like(value)
        for place in np.ndindex(*value.shape):
            kept = value[place]
            value[place] = kept + step
            above = logits(p, ones, heads).sum()
            value[place] = kept - step
            slope[place] = (above - logits(p, ones, heads).sum()) / (2 * step)
            value[place] = kept
        if ".attention." in name:
            found += nuclear(slope) * nuclear(value)
        else:
            found += float(np.abs(value * slope).sum())
    return found


def nuclear(matrix: np.ndarray) -> float:
    """The sum of the singular values: the trace of the root of the smaller of W W' and W' W."""
    smaller = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(smaller), 0)).sum())
