"""Slow proxies from their formulas: a NumPy network in float64, derivatives by central differences, plain loops.

A network is a list of layers: ("conv", W), ("bn",), ("relu",), ("pool",), ("linear", W, b).
Shares nothing with archscout.
"""

from __future__ import annotations

import math

import numpy as np


def forward(layers, images):
    """All intermediate values: [images, output of layer 1, ...]."""
    values = [np.asarray(images, dtype=np.float64)]
    for kind, *p in layers:
        x = values[-1]
        if kind == "conv":
            n, _, h, w = x.shape
            out, _, k, _ = p[0].shape
            padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
            y = np.zeros((n, out, h, w))
            for i in range(h):
                for j in range(w):
                    y[:, :, i, j] = np.tensordot(padded[:, :, i : i + k, j : j + k], p[0], axes=([1, 2, 3], [1, 2, 3]))
        elif kind == "bn":
            y = np.zeros_like(x)
            for c in range(x.shape[1]):
                y[:, c] = (x[:, c] - x[:, c].mean()) / math.sqrt(x[:, c].var() + 1e-5)
        elif kind == "relu":
            y = np.where(x > 0, x, 0)
        elif kind == "pool":
            y = x.mean(axis=(2, 3))
        else:
            y = x @ p[0].T + p[1]
        values.append(y)
    return values


def cross_entropy(layers, images, labels):
    loss = 0.0
    logits = forward(layers, images)[-1]
    for row, label in zip(logits, labels, strict=True):
        loss += math.log(sum(math.exp(v - row.max()) for v in row)) + row.max() - row[label]
    return loss / len(labels)


def differentiate(function, array, step=1e-5):
    """Central differences of a scalar function by every entry of an array that it reads."""
    found = np.zeros_like(array)
    for place in np.ndindex(array.shape):
        kept = array[place]
        array[place] = kept + step
        up = function()
        array[place] = kept - step
        down = function()
        array[place] = kept
        found[place] = (up - down) / (2 * step)
    return found


def weights(layers):
    return [layer[1] for layer in layers if layer[0] in ("conv", "linear")]


def loss_gradients(layers, images, labels):
    return [differentiate(lambda: cross_entropy(layers, images, labels), w) for w in weights(layers)]


def grad_norm(gradients):
    return sum(math.sqrt(sum(g * g for g in layer.flat)) for layer in gradients)


def snip(layers, gradients):
    pairs = zip(weights(layers), gradients, strict=True)
    return sum(abs(w * g) for ws, gs in pairs for w, g in zip(ws.flat, gs.flat, strict=True))


def zico(gradients_of_batches):
    score = 0.0
    for layer in range(len(gradients_of_batches[0])):
        total = 0.0
        for values in zip(*(g[layer].flat for g in gradients_of_batches), strict=True):
            mean = sum(values) / len(values)
            std = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
            if std > 1e-12:
                total += sum(abs(v) for v in values) / len(values) / std
        if total > 0:
            score += math.log(total)
    return score


def synflow(layers, shape):
    plain = [(kind, *(np.abs(v) for v in p)) for kind, *p in layers if kind != "bn"]
    ones = np.ones((1, *shape))
    total = 0.0
    for w in weights(plain):
        gradient = differentiate(lambda: forward(plain, ones)[-1].sum(), w)
        total += sum(abs(a * b) for a, b in zip(w.flat, gradient.flat, strict=True))
    return math.log(total)


def naswot(layers, images):
    n = len(images)
    values = forward(layers, images)
    kernel = np.zeros((n, n))
    for (kind, *_), before in zip(layers, values, strict=False):
        if kind == "relu":
            on = before.reshape(n, -1) > 0
            for i in range(n):
                for j in range(n):
                    kernel[i, j] += sum(bool(a) == bool(b) for a, b in zip(on[i], on[j], strict=True))
    return sum(math.log(v) for v in np.linalg.eigvalsh(kernel))


def jacob_cov(layers, images):
    images = np.array(images, dtype=np.float64)
    rows = differentiate(lambda: forward(layers, images)[-1].sum(), images, 1e-6).reshape(len(images), -1)
    eigenvalues = np.linalg.eigvals(np.corrcoef(rows)).real
    return -sum(math.log(v + 1e-5) + 1 / (v + 1e-5) for v in eigenvalues)


def zen(layers, images, moved):
    """`layers` with the re-initialised weights; features are what enters the pooling."""
    place = [kind for kind, *_ in layers].index("pool")
    clean, other = forward(layers, images), forward(layers, moved)
    distances = [abs(a - b).sum() for a, b in zip(clean[place], other[place], strict=True)]
    score = math.log(sum(distances) / len(distances))
    for (kind, *_), before in zip(layers, clean, strict=False):
        if kind == "bn":
            score += math.log(math.sqrt(np.mean([before[:, c].var() for c in range(before.shape[1])])))
    return score
