"""Slow gradient-based proxies from their formulas: a NumPy network in float64, central differences, plain loops.

Networks are those of proxies_plain.py, whose `forward`, `cross_entropy` and `differentiate` are passed in as `plain`.
Shares nothing with archscout.
"""

from __future__ import annotations

import math

import numpy as np


def mean_loss(logits, labels):
    total = 0.0
    for row, label in zip(logits, labels, strict=True):
        total += math.log(sum(math.exp(v - row.max()) for v in row)) + row.max() - row[label]
    return total / len(labels)


def fisher(plain, layers, images, labels):
    values = plain.forward(layers, images)
    score = 0.0
    for place, (kind, *p) in enumerate(layers):
        if kind not in ("conv", "linear"):
            continue
        output = values[place + 1].copy()
        rest = layers[place + 1 :]
        slope = plain.differentiate(lambda o=output, r=rest: mean_loss(plain.forward(r, o)[-1], labels), output)
        fan_in = p[0][0].size
        for channel in range(output.shape[1]):
            squares = [float((output[n, channel] * slope[n, channel]).sum()) ** 2 for n in range(len(images))]
            score += fan_in * 0.5 * sum(squares) / len(images)
    return score


def slope_along_weights(plain, layers, gradients):
    pairs = zip(plain.weights(layers), gradients, strict=True)
    return sum(w * g for ws, gs in pairs for w, g in zip(ws.flat, gs.flat, strict=True))


def l2_norm(plain, layers):
    return sum(math.sqrt(sum(w * w for w in ws.flat)) for ws in plain.weights(layers))


def grasp(plain, layers, images, labels, gradients, step=1e-4):
    """Minus the mixed second derivative of the loss along the weights and along the gradient."""
    weights = plain.weights(layers)
    start = [w.copy() for w in weights]

    def loss(along, down):
        for w, first, gradient in zip(weights, start, gradients, strict=True):
            w[...] = first + along * first + down * gradient
        return plain.cross_entropy(layers, images, labels)

    found = loss(step, step) - loss(step, -step) - loss(-step, step) + loss(-step, -step)
    loss(0, 0)
    return -found / (4 * step * step)


def synflow_bn(plain, layers, shape):
    positive = [(kind, *(np.abs(v) for v in p)) for kind, *p in layers]
    ones = np.ones((1, *shape))
    total = 0.0
    for w in plain.weights(positive):
        slope = plain.differentiate(lambda: plain.forward(positive, ones)[-1].sum(), w, 1e-6)
        total += sum(abs(a * b) for a, b in zip(w.flat, slope.flat, strict=True))
    return math.log(total)


def epe_nas(plain, layers, images, labels, many=False):
    images = np.array(images, dtype=np.float64)
    rows = plain.differentiate(lambda: plain.forward(layers, images)[-1].sum(), images, 1e-6).reshape(len(images), -1)
    scores = []
    for c in sorted(set(labels)):
        chosen = [row for row, label in zip(rows, labels, strict=True) if label == c]
        logs = [math.log(abs(np.corrcoef(a, b)[0, 1]) + 1e-5) for a in chosen for b in chosen]
        scores.append(sum(logs) / len(chosen) if many else sum(logs))
    if many:
        return sum(abs(a - b) for a in scores for b in scores) / len(scores)
    return sum(abs(s) for s in scores)


def ntk(plain, layers, images):
    weights = plain.weights(layers)
    rows = []
    for n in range(len(images)):
        slopes = [plain.differentiate(lambda n=n: plain.forward(layers, images)[-1][n].sum(), w) for w in weights]
        rows.append(np.concatenate([s.ravel() for s in slopes]))
    values = np.linalg.eigvalsh([[a @ b for b in rows] for a in rows])
    return values[-1] / values[0]


def gradsign(plain, layers, images, labels):
    total = [np.zeros_like(w) for w in plain.weights(layers)]
    for n in range(len(images)):
        for t, g in zip(total, plain.loss_gradients(layers, images[n : n + 1], labels[n : n + 1]), strict=True):
            t += np.where(np.abs(g) > 1e-9, np.sign(g), 0)
    return sum(float(np.abs(t).sum()) for t in total)
